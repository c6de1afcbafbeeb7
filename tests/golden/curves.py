"""The runs behind the golden loss curves: 20 CPU steps of every method and draw.

The data are seeded noise around one image a class, written by NumPy, so that the curves depend
on the product's formulas and on nothing else.
"""

import json
from pathlib import Path

import numpy as np

from mixbct.data.array import ArraySource, write_array
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Selection
from mixbct.features.denoise import denoise
from mixbct.recipe import parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.training.trainer import Trainer

GOLDEN = Path(__file__).with_name("curves.json")
STEPS, BATCH, CLASSES, A_CLASS, DIM, SIZE = 20, 16, 10, 12, 16, 16

RUNS: dict[str, tuple[dict[str, object], dict[str, object], dict[str, object]]] = (
    {
        # name: method, head, optimizer
        "independent, softmax": ({"name": "independent"}, {"name": "softmax"}, {"name": "sgd"}),
        "independent, cosface": (
            {"name": "independent"},
            {"name": "cosface", "scale": 16.0, "margin": 0.2},
            {"name": "sgd"},
        ),
        "independent, adamw": (
            {"name": "independent"},
            {"name": "arcface", "scale": 16.0, "margin": 0.3},
            {"name": "adamw"},
        ),
    }
    | {
        str(method["name"]): (
            method,
            {"name": "arcface", "scale": 16.0, "margin": 0.3},
            {"name": "sgd"},
        )
        for method in (
            {"name": "l2"},
            {"name": "weakened_l2"},
            {"name": "bct"},
            {"name": "unibct", "refresh": [1, 2]},
            {"name": "nccl", "queue": 40},
            {"name": "advbct"},
        )
    }
    | {
        f"mixbct, {draw}": (
            {"name": "mixbct", "draw": draw, "ratio": 0.3},
            {"name": "arcface", "scale": 16.0, "margin": 0.3},
            {"name": "sgd"},
        )
        for draw in ("replace", "skip", "bank")
    }
)


def make_data(folder: Path) -> Selection:
    """Write the images, and an old bank of them, and return the images as a source."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 200, (CLASSES, SIZE, SIZE, 1))
    labels = np.tile(np.arange(CLASSES), A_CLASS)
    noise = rng.integers(0, 56, (len(labels), SIZE, SIZE, 1))
    images = (centres[labels] + noise).astype(np.uint8)
    names = [f"c{i}" for i in range(CLASSES)]
    keys = [f"k{i}" for i in range(len(labels))]
    write_array(folder / "data", images, labels, names, keys, [], "golden", {})
    source = Selection(ArraySource(folder / "data"), np.arange(len(labels)))
    contract = Contract(
        name="old", weights="w", preprocessing=Preprocessing(size=SIZE, channels=1), dim=DIM
    )
    manifest = BankManifest(
        contract=contract,
        data_digest=source.digest(),
        rows=len(source),
        dim=DIM,
        dtype="float16",
        classes=source.classes(),
    )
    features = rng.normal(size=(CLASSES, DIM))[labels] + 0.5 * rng.normal(size=(len(labels), DIM))
    writer = BankWriter(folder / "bank", manifest, source.labels(), keys, resume=False)
    writer.write(range(len(source)), features.astype(np.float32), keys)
    denoise(writer.finish(), 0.9)
    return source


def curve(name: str, source: Selection, folder: Path) -> list[float]:
    """Return the loss of each step of the run called `name`."""
    method, head, optimizer = RUNS[name]
    if method["name"] != "independent":
        method = method | {"bank": str(folder / "bank")}
    steps_per_epoch = len(source) // BATCH
    content = {
        "name": "golden",
        "seed": 2,  # rounding of other kernels stays below 2e-6 here; near a kink it may not
        "data": {"path": str(folder / "data"), "shift": 2, "flip": True},
        "model": {"dim": DIM, "size": SIZE, "channels": 1, "options": {"width": 4}},
        "head": head,
        "method": method,
        "optimizer": optimizer | {"lr": 0.05 if optimizer["name"] == "sgd" else 0.005},
        "train": {
            "epochs": -(-STEPS // steps_per_epoch),
            "batch": BATCH,
            "power": 2.0,
            "warmup_steps": 3,
            "clip": 5.0,
            "threads": 1,
        },
    }
    trainer = Trainer(parse_recipe(content, "golden"), source)
    batches = trainer.batches()
    return [sum(trainer.take_step(next(batches)).losses.values()) for _ in range(STEPS)]


def all_curves(folder: Path) -> dict[str, list[float]]:
    """Return every curve by name; `folder` is for the data."""
    source = make_data(folder)
    return {name: curve(name, source, folder) for name in RUNS}


def read_golden() -> dict[str, list[float]]:
    """Return the curves that were committed."""
    content: dict[str, list[float]] = json.loads(GOLDEN.read_text())
    return content
