"""How far exported files are from the models that they are made of, in batches of 1, 3 and 64.

Each model is trained for a few steps first: untrained, its normalisations would do nothing. The
figure is the largest 1 − cosine over 64 images, beside the 1e-4 beyond which no file is kept.
"""

import tempfile
import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.data import image_source
from benchmarks.measure import Figure
from mixbct.backbones.model import EmbeddingModel, load_model
from mixbct.data.array import ArraySource
from mixbct.data.bank import normalise
from mixbct.export.onnx import FARTHEST, MODEL, export_onnx
from mixbct.features.bridged import through
from mixbct.recipe import apply_overrides, parse_recipe
from mixbct.schemas.bridge import Bridge
from mixbct.training.run import train
from mixbct.workflows.adapt import adapt
from mixbct.workflows.demo import SETTINGS
from mixbct.workflows.recipes import recipe_text

IMAGES = 160
SMALL, OTHERS = 32, {"iresnet18": 112, "vit_t": 112}
"""Pixels; `small` is the demo's model in all but the length of its training."""
COMPARED, BATCHES = 64, (1, 3, 64)


def run(folder: Path) -> list[Figure]:
    """Return onnx/MODEL/BATCH, and onnx/small query/BATCH of its vectors behind a bridge."""
    source = image_source(folder / "small", IMAGES, SMALL)
    runs = {role: folder / role for role in ("new", "old")}
    new, _ = (_trained("small", source, out, seed) for seed, out in enumerate(runs.values()))
    bridge = adapt(
        *runs.values(),
        folder / "bridge.json",
        kind="ridge_cca",
        where=(folder / "small", None, None),
    )
    figures = _measure("small", new, source, bridge)
    for name, size in OTHERS.items():
        source = image_source(folder / name, IMAGES, size)
        figures += _measure(name, _trained(name, source, folder / f"{name}-run"), source)
    return figures


def _trained(name: str, source: ArraySource, out: Path, seed: int = 0) -> EmbeddingModel:
    content = apply_overrides(tomllib.loads(recipe_text("new")), list(SETTINGS))
    content |= {"seed": seed, "method": {"name": "independent"}}
    content["train"] |= {"epochs": 1, "batch": 16}
    content["model"] |= {"backbone": name, "size": source.manifest.size}
    if name != "small":
        content["model"]["options"] = {}
    train(parse_recipe(content, "the demo's recipe"), source, out)
    return load_model(out)


def _measure(
    name: str, model: EmbeddingModel, source: ArraySource, bridge: Bridge | None = None
) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(model, source, Path(folder) / "out", bridge=bridge)
        session = onnxruntime.InferenceSession(Path(folder) / "out" / MODEL)
    pixels = source.read(np.arange(COMPARED))
    exact = normalise(model.embed(torch.from_numpy(pixels)).numpy())
    wanted = {name: exact}
    if bridge is not None:
        wanted[f"{name} query"] = through(bridge.query, exact)
    inputs = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    figures = []
    for size in BATCHES:
        batches = [inputs[start : start + size] for start in range(0, COMPARED, size)]
        found = zip(*(session.run(None, {"images": batch}) for batch in batches), strict=True)
        for (one, vectors), parts in zip(wanted.items(), found, strict=True):
            value = _farthest(vectors, np.concatenate(parts))
            figures.append(
                Figure(f"onnx/{one}/{size}", value, "1 − cosine", FARTHEST, value / FARTHEST)
            )
    return sorted(figures, key=lambda figure: len(figure.name.split()))


def _farthest(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest 1 − cosine of rows, exact where they are nearly the same."""
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in np.float64([one, other])]
    return float((np.square(unit[0] - unit[1]).sum(1) / 2).max())
