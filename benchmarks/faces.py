"""Can a gallery of an old 128-d face encoder be searched with a better 512-d one? A table.

    python -m benchmarks.faces [--work runs/faces] [--out docs/results]

Two frozen encoders from npm packages embed LFW (found as in `benchmarks.lfw`). Its people are
split in halves, three times: maps and heads are fitted on one half, and judged on the other, who
are strangers to them. Each of those with two images or more has about half of them as queries;
those with one stand in the gallery alone. What is finished is not done again. Minutes.
"""

import argparse
import json
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from examples.face_encoders.dlib_resnet import CHANNELS, DIM, state_from
from examples.face_encoders.tfjs_weights import read_weights
from rich.console import Console
from safetensors.torch import save_file

from benchmarks.faces_bridge import SYSTEMS, bridge_lines, judge_bridges, loosen
from benchmarks.faces_ijb import judge_layout, layout_lines
from benchmarks.lfw import PREPROCESSING, find_encoder, find_images
from benchmarks.npm import fetch
from mixbct.adapters import mlp, procrustes, ridge
from mixbct.adapters.moments import Pairs
from mixbct.adapters.rank_merge import merge_ranks
from mixbct.backbones.foreign import import_onnx, import_weights
from mixbct.backbones.model import load_model
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank, normalise
from mixbct.data.source import Rows
from mixbct.data.split import make_split, open_part
from mixbct.evaluation.bootstrap import class_weights, estimate, replicate_metrics
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.features.bridged import through
from mixbct.features.denoise import denoise
from mixbct.features.extract import embed_source, extract
from mixbct.files import write_atomically
from mixbct.recipe import load_recipe
from mixbct.schemas.model import Preprocessing
from mixbct.training.run import train
from mixbct.workflows.evaluate import versions

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (1, 2, 3)
METRICS = ("mAP", "rank-1", "TAR@1e-3")
REPLICATES = 1000
FACE_API = {
    "model/face_recognition_model-weights_manifest.json": (
        "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b"
    ),
    "model/face_recognition_model.bin": (
        "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589"
    ),
}
HEADS: Mapping[str, tuple[str, ...]] = {
    "mixbct, linear": (),
    "mixbct, residual": ("model.backbone=residual", "train.epochs=20"),
    "mixbct, linear, from procrustes": ("model.start=procrustes", "optimizer.lr=0.01"),
}
"""Head-only training: overrides of `examples/face_encoders/head.toml`, which starts at ridge."""


@dataclass(frozen=True)
class Figures:
    """One row's figures and their bootstrap replicates, by metric."""

    values: dict[str, float]
    replicates: dict[str, np.ndarray]


def main() -> None:
    """Do what is not done yet, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faces", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/faces"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--splits", type=int, default=len(SEEDS), help="how many of them")
    arguments = parser.parse_args()
    banks = make_banks(arguments.work)
    found = [judge_split(arguments.work, banks, seed) for seed in SEEDS[: arguments.splits]]
    content = {
        "command": f"python -m benchmarks.faces --splits {arguments.splits}",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(),
        "splits": found,
        "bridges": {
            role: [judge_bridge(arguments.work, banks, role, split["seed"]) for split in found]
            for role in SYSTEMS
        },
        "ijb": judge_ijb(arguments.work, banks),
    }
    write_atomically(arguments.out / "faces.json", json.dumps(content, indent=1) + "\n")
    write_atomically(arguments.out / "faces.md", page(content))


def say(text: str) -> None:
    """Print progress to standard error."""
    Console(stderr=True).print(text, markup=False, highlight=False)


def make_banks(work: Path) -> dict[str, FeatureBank]:
    """Fetch the encoders, embed every image with both, and denoise the old bank."""
    archive, _ = find_images()
    images = work / "images"
    if not images.exists():
        with tarfile.open(archive) as tar:
            tar.extractall(work / "unpacked", filter="data")
        (work / "unpacked" / "data").rename(images)
    if not (work / "old").exists():
        manifest, _ = fetch("@vladmandic/face-api", "1.7.15", FACE_API)
        save_file(state_from(read_weights(manifest)), work / "dlib.safetensors")
        import_weights(
            work / "dlib.safetensors",
            work / "old",
            name="dlib",
            backbone="examples.face_encoders.dlib_resnet:encoder",
            dim=DIM,
            preprocessing=Preprocessing(size=112, channels=CHANNELS, mean=0, std=255),
        )
    if not (work / "new").exists():
        import_onnx(find_encoder(), work / "new", name="faceplugin", preprocessing=PREPROCESSING)
    banks = {}
    loosen(images, work / "loose-images")
    for role in ("old", "loose", "new"):
        say(f"embed the images ({role})")
        model = load_model(work / ("new" if role == "new" else "old"), trust_code=True)
        seen = work / "loose-images" if role == "loose" else images
        source = open_source(seen, model.preprocessing)
        out = work / f"{role}-bank"
        banks[role] = extract(model, source, out, dtype="float32", batch=64, resume=True)
    if banks["old"].credible() is None:
        denoise(banks["old"])
    return banks


def judge_split(work: Path, banks: Mapping[str, FeatureBank], seed: int) -> dict[str, Any]:
    """Return the figures of every row on the people that one split keeps for the test."""
    record = work / f"figures-{seed}.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_bytes())
        return found
    began = time.perf_counter()
    source, split = banks["new"], work / f"split-{seed}"
    counts = make_split(source, split, seed=seed, test_classes=0.5, query_share=0.5).parts
    training = open_part(source, split, "new_train")
    query, gallery = (open_part(source, split, part).rows for part in ("query", "gallery"))
    vectors = {role: bank.all() for role, bank in banks.items()}
    new, old = vectors["new"], vectors["old"]
    judge = partial(_judge, source.labels(), query, gallery, seed)

    rows = {"old/old": judge(old, old), "new/new": judge(new, new)}
    fits = {
        "procrustes": procrustes.fit,
        "procrustes, centred": partial(procrustes.fit, centre=True),
        "ridge": ridge.fit,
    }
    pairs = Pairs(new[training.rows], old[training.rows])
    mapped: dict[str, np.ndarray] = {}
    for name, fit in fits.items():
        say(f"split {seed}: {name}")
        mapped[name] = through(fit(pairs)[0], new)
        rows[name] = judge(mapped[name], old)
    say(f"split {seed}: mlp")
    rows["mlp"] = judge(mlp.fit(pairs)(new), old)
    rows["rank_merge"] = _judge_merged(source.labels(), query, gallery, seed, old, mapped["ridge"])
    own: dict[str, Figures] = {}
    for name, overrides in HEADS.items():
        say(f"split {seed}: {name}")
        paths = [f"data.path={work}/new-bank", f"method.bank={work}/old-bank"]
        recipe = load_recipe(
            ROOT / "examples" / "face_encoders" / "head.toml",
            [*overrides, *paths, f"seed={seed}"],
        )
        out = work / f"{'-'.join(name.replace(',', '').split())}-{seed}"
        train(recipe, training, out, resume=True)
        head = normalise(embed_source(load_model(out), source))
        rows[name], own[name] = judge(head, old), judge(head, head)
    result = {
        "seed": seed,
        "counts": counts | {"test people": len(np.unique(source.labels()[gallery]))},
        "people with queries": len(np.unique(source.labels()[query])),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": {name: _estimates(row) for name, row in rows.items()},
        "self": {name: _estimates(row) for name, row in own.items()},
        "minus old/old": {
            name: _differences(row, rows["old/old"])
            for name, row in rows.items()
            if name != "old/old"
        },
        "minus procrustes": {
            name: _differences(row, rows["procrustes"])
            for name, row in rows.items()
            if name not in ("procrustes", "old/old", "new/new")
        },
    }
    write_atomically(record, json.dumps(result, indent=1) + "\n")
    return result


def judge_bridge(
    work: Path, banks: Mapping[str, FeatureBank], role: str, seed: int
) -> dict[str, Any]:
    """Return `judge_bridges` of one split; `role` is the old bank's."""
    record = work / f"bridge-{role}-{seed}.json"
    if not record.exists():
        say(f"split {seed}: bridges ({role})")
        source, split = banks["new"], work / f"split-{seed}"
        make_split(source, split, seed=seed, test_classes=0.5, query_share=0.5)
        training, *parts = (
            open_part(source, split, part).rows for part in ("new_train", "query", "gallery")
        )
        found = judge_bridges(
            banks["new"], banks[role], training, (parts[0], parts[1]), REPLICATES, seed
        )
        write_atomically(record, json.dumps(found, indent=1) + "\n")
    content: dict[str, Any] = json.loads(record.read_bytes())
    return content


def judge_ijb(work: Path, banks: Mapping[str, FeatureBank]) -> dict[str, dict[str, float]]:
    """Return `judge_layout` of the first split's test people."""
    record = work / "figures-ijb.json"
    if not record.exists():
        say("IJB layout")
        source, split = banks["new"], work / f"split-{SEEDS[0]}"
        parts = (open_part(source, split, part).rows for part in ("new_train", "query", "gallery"))
        training, *test = parts
        result = judge_layout(work, banks, training, np.sort(np.concatenate(test)))
        write_atomically(record, json.dumps(result, indent=1) + "\n")
    found: dict[str, dict[str, float]] = json.loads(record.read_bytes())
    return found


def _judge(
    labels: Rows, query: Rows, gallery: Rows, seed: int, left: np.ndarray, right: np.ndarray
) -> Figures:
    sides = Embeddings(left[query], labels[query]), Embeddings(right[gallery], labels[gallery])
    weights = class_weights(len(sides[0].classes), REPLICATES, seed)
    found = compare(*sides, fars=(1e-3,), weights=weights)
    values = {
        "mAP": found.mean_average_precision(),
        "rank-1": found.rank_rate(1),
        "TAR@1e-3": found.true_accept_rate(found.thresholds[0]),
    }
    return Figures(values, replicate_metrics(found))


def _judge_merged(
    labels: Rows, query: Rows, gallery: Rows, seed: int, first: np.ndarray, second: np.ndarray
) -> Figures:
    """Search the old gallery (of `first`) with both queries, and merge what they find by rank."""
    found = [
        np.argsort(-(side[query] @ first[gallery].T), axis=1, kind="stable")
        for side in (first, second)
    ]
    order = np.argsort(merge_ranks(*found, len(gallery)), axis=1)
    right = labels[gallery][order] == labels[query][:, None]
    places = np.arange(1, len(gallery) + 1)
    precision = (right * np.cumsum(right, axis=1) / places).sum(axis=1) / right.sum(axis=1)
    figures = {"mAP": precision, "rank-1": right[:, 0].astype(np.float64)}
    classes, of = np.unique(labels[query], return_inverse=True)
    weights = class_weights(len(classes), REPLICATES, seed)
    counts = weights @ np.bincount(of)
    replicates = {name: weights @ np.bincount(of, each) / counts for name, each in figures.items()}
    return Figures({name: float(each.mean()) for name, each in figures.items()}, replicates)


def _estimates(row: Figures) -> dict[str, list[float]]:
    return {name: _triple(value, row.replicates[name]) for name, value in row.values.items()}


def _differences(row: Figures, base: Figures) -> dict[str, list[float]]:
    return {
        name: _triple(value - base.values[name], row.replicates[name] - base.replicates[name])
        for name, value in row.values.items()
    }


def _triple(value: float, replicates: np.ndarray) -> list[float]:
    found = estimate(value, replicates)
    return [found.value, found.low, found.high]


def page(content: Mapping[str, Any]) -> str:
    """Return the page: every figure is the mean over the splits, and so is each interval's end."""
    splits = content["splits"]
    first = splits[0]["counts"]
    seconds = sum(split["seconds"] for split in splits)
    shown = ", ".join(f"{k} {v}" for k, v in content["versions"].items())
    lines = [
        "# An old gallery of faces, a better encoder",
        "",
        "Can a gallery that a 128-d encoder indexed be searched with a better 512-d one, both",
        "frozen? Old: dlib's residual network as in npm's `@vladmandic/face-api` 1.7.15; new:",
        "`fr_feature.onnx` of npm's `faceplugin-face-recognition-js` 0.0.1. Data: LFW, 7,701",
        "images of 4,281 people, 2,722 of whom have one. Half of the people are for fitting, the",
        f"others for the test; split {splits[0]['seed']} fits on {first['new_train']:,} images and",
        f"tests {first['query']:,} queries of {splits[0]['people with queries']:,} people against",
        f"{first['gallery']:,} gallery images of {first['test people']:,}.",
        "",
        f"    {content['command']}",
        "",
        f"{content['date']}; {shown}. Fitting and judging took {seconds:.0f} s in all on a core",
        "that other work shared, bridges not counted; embedding 7,701 images takes one to nine",
        "minutes of a core with each encoder.",
        "",
        f"Figures in %. Splits of the people: {len(splits)}; means over them, of the values and of",
        "the ends of their 95 % intervals (bootstrap over people, 1,000 times). Test people of",
        "several splits overlap, so that more of them do not make an interval narrower.",
        "",
    ]
    names = list(splits[0]["rows"])
    lines += _table("queries searching the old gallery", splits, "rows", names)
    lines += ["", "new/new is what embedding the gallery again would give.", ""]
    lines += ["Paired differences to old/old (points):", ""]
    lines += _table("minus old/old", splits, "minus old/old", list(splits[0]["minus old/old"]))
    lines += ["", "Paired differences to plain Procrustes (points):", ""]
    others = list(splits[0]["minus procrustes"])
    lines += _table("minus procrustes", splits, "minus procrustes", others)
    lines += ["", "The heads' self-test (queries and gallery by the head):", ""]
    lines += _table("head/head", splits, "self", list(splits[0]["self"]))
    lines += ["", *bridge_lines(content["bridges"], _table), *layout_lines(content["ijb"])]
    return "\n".join([*lines, "", NOTES.read_text(encoding="utf-8")])


def _table(
    title: str,
    splits: list[dict[str, Any]],
    key: str,
    names: list[str],
    metrics: tuple[str, ...] = METRICS,
) -> list[str]:
    lines = [f"| {title} | {' | '.join(metrics)} |", "| --- |" + " ---: |" * len(metrics)]
    for name in names:
        cells = []
        for metric in metrics:
            triples = [split[key][name].get(metric) for split in splits]
            if None in triples:
                cells.append("–")
                continue
            value, low, high = 100 * np.mean(triples, axis=0)
            sign = "+" if key.startswith("minus") else ""
            cells.append(f"{value:{sign}.1f} [{low:{sign}.1f} to {high:{sign}.1f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


NOTES = Path(__file__).with_name("faces_notes.md")
"""What the figures mean, written by hand; it stands below them."""

if __name__ == "__main__":
    main()
