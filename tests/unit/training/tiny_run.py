"""A source in memory, an old bank and a recipe: runs of a few steps and milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np

from mixbct.data.bank import FeatureBank, root_digest
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Selection, Source
from mixbct.recipe import Recipe, apply_overrides, parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, Preprocessing

CLASSES = ("a", "b", "c", "d", "e")
DIM = 4


class MemorySource(Source):
    """Noise with labels; notes every row that is read."""

    def __init__(self, count: int = 52, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
        self.seed = seed
        self.rows_read: list[list[int]] = []
        keys = [f"k{i}" for i in range(count)]
        super().__init__("noise", keys, np.arange(count) % len(classes), classes)

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.rows_read.append(rows.tolist())
        return self.images[rows]

    def digest(self) -> str:
        return f"memory {self.seed} {len(self)}"


def make_bank(
    path: Path,
    source: MemorySource | Selection,
    dim: int = DIM,
    denoised: bool = True,
    seed: int = 0,
) -> FeatureBank:
    """Write a bank of noise for every image of `source`; every fifth row is not credible."""
    features = np.random.default_rng(seed).normal(size=(len(source), dim)).astype(np.float32)
    contract = Contract(
        name="old", weights="w", preprocessing=Preprocessing(size=16, channels=1), dim=dim
    )
    manifest = BankManifest(
        contract=contract,
        data_digest=source.digest(),
        source_digest=root_digest(source),
        rows=len(source),
        dim=dim,
        dtype="float32",
        classes=source.classes(),
    )
    writer = BankWriter(path, manifest, source.labels(), source.keys(), resume=False)
    writer.write(range(len(source)), features, source.keys())
    bank = writer.finish()
    if denoised:
        bank.save_credible(np.arange(len(source)) % 5 != 0, 0.8, False)
    return bank


def make_recipe(*overrides: str, bank: Path | None = None, draw: str = "bank") -> Recipe:
    """Return a recipe of three epochs of six steps; MixBCT where there is a bank."""
    method: dict[str, Any] = {"name": "independent"}
    if bank is not None:
        method = {"name": "mixbct", "bank": str(bank), "draw": draw, "ratio": 0.4}
    content: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "data": {"path": "unused", "shift": 2, "flip": True},
        "model": {"dim": DIM, "size": 16, "channels": 1, "options": {"width": 2}},
        "head": {"name": "arcface", "scale": 8.0, "margin": 0.2},
        "method": method,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 3, "batch": 8, "threads": 1},
    }
    return parse_recipe(apply_overrides(content, list(overrides)), "a test")


def weights(out: Path) -> dict[str, bytes]:
    """Return the content of a run's weight files."""
    return {p.name: p.read_bytes() for p in (out / "model").glob("*.safetensors")}
