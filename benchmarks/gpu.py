"""Training at the size of the field on one GPU: the trainer beside a bare loop, and the chip.

    python -m benchmarks gpu

iresnet50 at 112 × 112 in bf16 with 93,431 classes, batches of 128 and 512: images a second of the
trainer (reading, decoding, augmentation, all) for plain ArcFace and MixBCT's three draws; of a
loop of the same backbone, head and optimiser on one batch that lies on the GPU; the share of the
chip's matrix rate, measured here, that the trainer reaches; the rate of decoding alone. The table
is left in `docs/results/` under the chip's name. Without a GPU all of it runs in the small, so that
it is known to work, and no table is left there.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Figure, in_turn, rate_figure
from benchmarks.recordio import photograph
from mixbct.backbones.model import build_backbone, to_inputs
from mixbct.data.bank_writer import BankWriter
from mixbct.data.record_index import record_writer
from mixbct.data.records import RecordSource
from mixbct.data.source import Images, Rows, Source
from mixbct.distributed import device_name
from mixbct.heads.classifier import build_head
from mixbct.recipe import Recipe, parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, Preprocessing
from mixbct.training.trainer import OPTIMIZERS, Trainer

RESULTS = Path(__file__).parents[1] / "docs" / "results"
METHODS: dict[str, dict[str, Any]] = {
    "ArcFace": {"name": "independent"},
    **{
        f"MixBCT {draw}": {"name": "mixbct", "draw": draw, "ratio": 0.3}
        for draw in ("replace", "skip", "bank")
    },
}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    device: str
    backbone: str
    options: dict[str, int]
    size: int
    dim: int
    classes: int
    batches: tuple[int, ...]
    stored: int
    """Images that are encoded; the set's are these again and again."""
    matrix: int
    """Rows and columns of the product that measures the chip."""
    seconds: float
    """For each line of the table."""
    steps: int
    """That are timed together."""


FULL = Scale("cuda", "iresnet50", {}, 112, 512, 93_431, (128, 512), 4096, 8192, 12.0, 20)
SMALL = Scale("cpu", "small", {"width": 4}, 32, 16, 50, (8, 16), 64, 256, 0.5, 2)


class Faces(Source):
    """Two images a class, cut out of a record file with fewer."""

    def __init__(self, records: RecordSource, classes: int) -> None:
        labels = np.arange(2 * classes) % classes
        names = tuple(f"person {i}" for i in range(classes))
        super().__init__("faces", [f"face {i}" for i in range(len(labels))], labels, names)
        self.records = records

    def read(self, rows: Rows) -> Images:
        """Decode images."""
        return self.records.read(rows % len(self.records))

    def digest(self) -> str:
        """Return a name."""
        return f"faces {len(self)}"


def run(folder: Path) -> list[Figure]:
    """Return images a second of every method and batch, beside the bare loop; and the rest."""
    scale = FULL if torch.cuda.is_available() else SMALL
    preprocessing = Preprocessing(size=scale.size, channels=3)
    source = Faces(_records(folder, preprocessing, scale.stored), scale.classes)
    bank = _bank(folder / "bank", source, scale.dim)
    matrix = _matrix_rate(scale)
    figures, shares = [], {}
    for batch in scale.batches:
        for method, settings in METHODS.items():
            more = {"bank": str(bank)} if settings["name"] == "mixbct" else {}
            name = f"gpu/{method}, batch {batch}"
            recipe = _recipe(scale, settings | more, batch)
            figure, forwarded = _trained(name, recipe, source, scale)
            figures.append(figure)
            operations = forwarded * _operations(recipe) + 6 * batch * scale.classes * scale.dim
            shares[name] = operations * figure.value / batch / matrix
    figures.append(_decoding(source, scale))
    out = RESULTS if scale is FULL else folder
    chip = device_name(scale.device)
    path = out / f"gpu-{re.sub('[^a-z0-9]+', '-', chip.lower()).strip('-')}.md"
    path.write_text(_page(chip, scale, matrix, figures, shares), encoding="utf-8")
    return figures


def _records(folder: Path, preprocessing: Preprocessing, count: int) -> RecordSource:
    with record_writer(folder / "train.rec") as writer:
        for key in range(count):
            writer.write(key, [key], photograph(key))
    return RecordSource(folder, preprocessing)


def _bank(path: Path, source: Faces, dim: int) -> Path:
    """Write a bank of the source's images, every row credible."""
    rng = np.random.default_rng(0)
    manifest = BankManifest(
        contract=Contract(name="old", weights="old", preprocessing=None, dim=dim),
        data_digest=source.digest(),
        rows=len(source),
        dim=dim,
        dtype="float16",
        classes=source.classes(),
    )
    keys = source.keys()
    writer = BankWriter(path, manifest, source.labels(), keys, resume=False)
    for chunk in writer.missing():
        features = rng.standard_normal((len(chunk), dim), np.float32)
        writer.write(chunk, features, keys[chunk.start : chunk.stop])
    writer.finish().save_credible(np.ones(len(source), np.bool_), 1.0, False)
    return path


def _recipe(scale: Scale, method: dict[str, Any], batch: int) -> Recipe:
    content = {
        "name": "gpu",
        "data": {"path": "faces", "flip": True},
        "model": {
            "backbone": scale.backbone,
            "options": scale.options,
            "dim": scale.dim,
            "size": scale.size,
        },
        "head": {"name": "arcface"},
        "method": method,
        "optimizer": {"name": "sgd", "lr": 1e-4},
        "train": {
            "epochs": 100_000,
            "batch": batch,
            "precision": "bf16",
            "device": scale.device,
        },
    }
    return parse_recipe(content, "the benchmark's recipe")


def _trained(name: str, recipe: Recipe, source: Faces, scale: Scale) -> tuple[Figure, float]:
    """Return the trainer's rate beside the bare loop's, and how many images a step forwards."""
    trainer = Trainer(recipe, source)
    batches = trainer.batches()
    bare = _bare_step(recipe, source, trainer.device)

    def together(step: Callable[[], object]) -> Callable[[], None]:
        def steps() -> None:
            for _ in range(scale.steps):
                step()
            _wait(trainer.device)

        return steps

    pairs = in_turn(
        together(lambda: trainer.take_step(next(batches))),
        together(bare),
        for_seconds=scale.seconds,
        warm_up=1,
        at_least=3,
    )
    batches.close()
    forwarded = trainer.images / trainer.step
    return rate_figure(name, "images/s", pairs, recipe.train.batch * scale.steps), forwarded


def _bare_step(recipe: Recipe, source: Faces, device: torch.device) -> Callable[[], object]:
    """Return a step of plain ArcFace over one batch on the device."""
    preprocessing = recipe.model.preprocessing()
    backbone = _backbone(recipe).to(device).train()
    head = build_head(recipe.head, len(source.classes()), recipe.model.dim).to(device)
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        [*backbone.parameters(), *head.parameters()],
        **recipe.optimizer.model_dump(exclude={"name"}),
        fused=device.type == "cuda",
    )
    rows = np.arange(recipe.train.batch)
    images = to_inputs(torch.from_numpy(source.read(rows)).to(device), preprocessing)
    labels: Int64[Tensor, " b"] = torch.from_numpy(source.labels()[rows]).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            features = backbone(images)
        losses = head(features.float(), labels)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()

    return step


def _backbone(recipe: Recipe) -> torch.nn.Module:
    model = recipe.model
    return build_backbone(model.backbone, model.dim, model.preprocessing(), model.options)


def _operations(recipe: Recipe) -> float:
    """Return the operations that one image takes in the backbone, forward and backward."""
    shape = (1, recipe.model.channels, recipe.model.size, recipe.model.size)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        _backbone(recipe).eval()(torch.empty(shape))
    return 3.0 * counter.get_total_flops()


def _matrix_rate(scale: Scale) -> float:
    """Return the operations a second of a large product in bfloat16, the median of 20."""
    one, other = torch.randn(2, scale.matrix, scale.matrix, device=scale.device).bfloat16()
    times = []
    for _ in range(25):
        before = time.perf_counter()
        one @ other
        _wait(one.device)
        times.append(time.perf_counter() - before)
    return float(2 * scale.matrix**3 / np.median(times[5:]))


def _decoding(source: Faces, scale: Scale) -> Figure:
    """Return how fast images are read and decoded by all threads, beside the fastest training."""
    rows = np.arange(scale.stored)
    batch = max(scale.batches)
    before, done = time.perf_counter(), 0
    while not done or time.perf_counter() - before < scale.seconds:
        for start in range(0, len(rows), batch):
            done += len(source.read(rows[start : start + batch]))
    rate = done / (time.perf_counter() - before)
    return Figure("gpu/decoding", rate, "images/s", rate, 1.0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _page(
    chip: str, scale: Scale, matrix: float, figures: list[Figure], shares: dict[str, float]
) -> str:
    lines = [
        f"# Training on {chip}",
        "",
        f"`python -m benchmarks gpu`, torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads: {scale.backbone}, {scale.size} × {scale.size}, bf16, {scale.classes:,} classes, "
        f"{scale.dim} dimensions. The bare loop is plain ArcFace on one batch on the device; a "
        "batch counts whole, also where fewer of its rows are forwarded. A product of "
        f"{scale.matrix} × {scale.matrix} matrices in bfloat16 ran at {matrix / 1e12:.3g} TFLOP/s.",
        "",
        "| | images/s | bare loop, images/s | ratio | share of the matrix rate |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {each.name.removeprefix('gpu/')} | {each.value:,.0f} | {each.reference:,.0f} | "
        f"{each.ratio:.3f} | {shares[each.name]:.1%} |"
        for each in figures
        if each.name in shares
    ]
    return "\n".join([*lines, "", f"Decoding alone: {figures[-1].value:,.0f} images/s.", ""])
