"""Banks of made-up vectors and a recipe: head-only runs of a few steps and milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np

from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Selection
from mixbct.recipe import Recipe, apply_overrides, parse_recipe
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract

ROWS, CLASSES = 64, 8
NEW, OLD = 6, 4


def names(classes: int = CLASSES) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(classes))


def vectors(dim: int, rows: int = ROWS, seed: int = 0, noise: float = 0.6) -> np.ndarray:
    """Return rows around one centre a class; row i is of the class i modulo the classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, dim))
    return (centres[np.arange(rows) % CLASSES] + noise * rng.normal(size=(rows, dim))).astype(
        np.float32
    )


def write_bank(
    path: Path,
    features: np.ndarray,
    model: str,
    *,
    digest: str = "these images",
    classes: tuple[str, ...] | None = None,
    dtype: Any = "float32",
    prefix: str = "k",
) -> FeatureBank:
    """Write a denoised bank of `model`; every fifth row is not credible."""
    rows, dim = features.shape
    classes = classes or names()
    contract = Contract(name=model, weights=f"declared: {model}", preprocessing=None, dim=dim)
    manifest = BankManifest(
        contract=contract, data_digest=digest, rows=rows, dim=dim, dtype=dtype, classes=classes
    )
    keys = [f"{prefix}{i}" for i in range(rows)]
    writer = BankWriter(path, manifest, np.arange(rows) % len(classes), keys, resume=False)
    writer.write(range(rows), features, keys)
    bank = writer.finish()
    bank.save_credible(np.arange(rows) % 5 != 0, 0.8, False)
    return bank


def make_banks(folder: Path, new: int = NEW, old: int = OLD, dtype: str = "float32") -> None:
    """Write `folder`/new and `folder`/old, of the same rows."""
    write_bank(folder / "new", vectors(new, seed=1), "encoder", dtype=dtype)
    write_bank(folder / "old", vectors(old, seed=2), "old", dtype=dtype)


def head_recipe(folder: Path, *overrides: str, method: str = "mixbct", dim: int = OLD) -> Recipe:
    """Return a recipe of two epochs of eight steps."""
    settings: dict[str, Any] = {"name": method}
    if method != "independent":
        settings["bank"] = str(folder / "old")
    content: dict[str, Any] = {
        "name": "head",
        "seed": 3,
        "data": {"path": str(folder / "new")},
        "model": {"backbone": "linear", "dim": dim},
        "head": {"name": "arcface", "scale": 8.0, "margin": 0.2},
        "method": settings,
        "optimizer": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 2, "batch": 8, "threads": 1},
    }
    return parse_recipe(apply_overrides(content, list(overrides)), "a test")


def source_of(path: Path) -> Selection:
    source = open_source(path)
    return Selection(source, np.arange(len(source)))
