"""A training step of a head over many vectors: beside the matrix products that it cannot avoid.

With C classes and D dimensions the head costs three products a batch: the logits, and the
gradients of the features and of the class weights, 6·B·C·D operations. One epoch over a million
512-d vectors with 10,000 classes is 3.07·10¹³ of them. The bank here is smaller, since each step
is the same: some hundred steps are timed, not the epoch.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Figure, in_turn, rate_figure
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Selection
from mixbct.recipe import parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract
from mixbct.training.trainer import Trainer

ROWS, CLASSES, DIM, BATCH = 100_000, 10_000, 512, 2048
SECONDS = 25.0


def run(folder: Path) -> list[Figure]:
    """Return head_only/l2, head_only/mixbct and head_only/sampled, in operations a second.

    These are the operations of the products alone, whatever else a step does.
    """
    for seed, side in enumerate(("new", "old")):
        _write_bank(folder / side, seed).save_credible(np.ones(ROWS, np.bool_), 1.0, False)
    old = {"bank": str(folder / "old")}
    regression = {"name": "l2", **old}
    mixed = {"name": "mixbct", "ratio": 0.5, **old}
    # each batch has BATCH rows in the head: of a mixed one, half are old rows
    steps = {
        "head_only/l2": _step(folder, regression, BATCH, sample=1.0),
        "head_only/mixbct": _step(folder, mixed, BATCH // 2, sample=1.0),
        "head_only/sampled": _step(folder, regression, BATCH, sample=0.1),
    }
    operations = 6e-9 * BATCH * CLASSES * DIM
    return [
        rate_figure(name, "GFLOP/s", in_turn(step, _products(), for_seconds=SECONDS), operations)
        for name, step in steps.items()
    ]


def _write_bank(path: Path, seed: int) -> FeatureBank:
    rng = np.random.default_rng(seed)
    contract = Contract(name=path.name, weights=path.name, preprocessing=None, dim=DIM)
    manifest = BankManifest(
        contract=contract,
        data_digest="benchmark",
        rows=ROWS,
        dim=DIM,
        dtype="float16",
        classes=tuple(f"class {i}" for i in range(CLASSES)),
    )
    keys = [f"row {i}" for i in range(ROWS)]
    writer = BankWriter(path, manifest, np.arange(ROWS) % CLASSES, keys, resume=False)
    for chunk in writer.missing():
        features = rng.standard_normal((len(chunk), DIM), np.float32)
        writer.write(chunk, features, keys[chunk.start : chunk.stop])
    return writer.finish()


def _step(folder: Path, method: dict[str, Any], batch: int, sample: float) -> Callable[[], object]:
    """Return one step of the loop, reading ahead included."""
    recipe = parse_recipe(
        {
            "name": "benchmark",
            "data": {"path": str(folder / "new")},
            "model": {"backbone": "linear", "dim": DIM, "start": "random"},
            "head": {"name": "arcface", "sample": sample},
            "method": method,
            "optimizer": {"name": "sgd", "lr": 0.01},
            "train": {"epochs": 1000, "batch": batch},
        },
        "the benchmark's recipe",
    )
    source = open_source(folder / "new")
    trainer = Trainer(recipe, Selection(source, np.arange(len(source))))
    trainer.begin()
    batches = trainer.batches()
    return lambda: trainer.take_step(next(batches))


def _products() -> Callable[[], object]:
    """Return the three products of one step, and nothing else."""
    features, weight = torch.randn(BATCH, DIM), torch.randn(CLASSES, DIM)
    of_logits = torch.randn(BATCH, CLASSES)

    def products() -> None:
        features @ weight.t()
        of_logits @ weight
        of_logits.t() @ features

    return products
