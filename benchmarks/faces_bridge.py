"""The chosen bridge and both queries on faces: an old encoder on aligned crops, and on loose ones.

Loose crops are simulated, since the originals are not at hand: each aligned crop is made smaller by
a random factor and moved, and what is then missing around it repeats its edge. The old encoder,
which wants its faces in place, becomes a weak one; the new one sees the aligned crops.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mixbct.adapters.moments import Pairs
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Rows
from mixbct.distributed import row_rng
from mixbct.evaluation.bootstrap import class_weights, estimate, replicate_metrics
from mixbct.evaluation.comparison import compare
from mixbct.evaluation.scores import Embeddings
from mixbct.evaluation.upgrade import Pair
from mixbct.files import folder_written_whole
from mixbct.schemas.result import FREE
from mixbct.workflows.across import across
from mixbct.workflows.adapt import CHOOSE, PairedItems, fit_bridge
from mixbct.workflows.rivals import with_old_queries

METRICS = ("mAP", "rank-1", "TAR@1e-3", "TAR@1e-4")
SMALLER = (0.6, 0.95)
"""Between which shares of its width a crop is made smaller."""
MOVED = 0.08
"""By how much of the width it is moved at most, either way."""
SYSTEMS = {"old": "Aligned crops: a strong old encoder", "loose": "Loose crops: a weak old encoder"}
"""The old bank's role, and what stands above its table."""


def loosen(images: Path, out: Path) -> None:
    """Write a copy of a folder of class folders of images, each crop loosened."""
    if out.exists():
        return
    with folder_written_whole(out) as folder:
        for number, path in enumerate(sorted(images.rglob("*.*"))):
            target = folder / path.relative_to(images)
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                loosened(image.convert("RGB"), row_rng(0, number)).save(target.with_suffix(".png"))


def loosened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a picture of the same size that shows it smaller, and moved."""
    width = image.width
    size = round(width * rng.uniform(*SMALLER))
    shift = np.rint(width * rng.uniform(-MOVED, MOVED, 2)).astype(int)
    first = ((width - size) // 2 + shift).clip(0, width - size)
    small = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    around = [(int(start), int(width - size - start)) for start in first]
    return Image.fromarray(np.pad(small, (*around, (0, 0)), mode="edge"))


def judge_bridges(
    new: FeatureBank,
    old: FeatureBank,
    training: Rows,
    parts: tuple[Rows, Rows],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Return what searches the old gallery, on the people of the test.

    Args:
        new: the new encoder's vectors.
        old: the old one's, of the same images.
        training: rows that bridges are fitted and chosen on.
        parts: query and gallery rows.
        replicates: of the bootstrap.
        seed: of the bootstrap.
    """
    unit = {"new": new.all(), "old": old.all()}
    labels = new.labels()
    sides = {
        role: Pair(*(Embeddings(vectors[rows], labels[rows]) for rows in parts))
        for role, vectors in unit.items()
    }

    def items(first: str, *models: FeatureBank) -> PairedItems:
        pairs = Pairs(unit[first][training], unit["old"][training], labels[training])
        contracts = models[0].manifest.contract, models[1].manifest.contract
        return PairedItems(contracts, pairs, (), str(new.path), new.manifest.data_digest)

    both = items("new", new, old)
    bridge = fit_bridge(CHOOSE, both)
    share, mixed = with_old_queries(bridge, sides["new"], sides["old"], both)
    alone = fit_bridge(FREE, items("old", old, old))
    rows = {
        "old/old": sides["old"],
        "old alone, whitened": across([alone], sides["old"].query, sides["old"].gallery),
        "new, chosen bridge": across([bridge], sides["new"].query, sides["old"].gallery),
        "both queries": mixed,
        "new/new": sides["new"],
    }
    values, drawn = {}, {}
    for name, pair in rows.items():
        weights = class_weights(len(pair.query.classes), replicates, seed)
        found = compare(pair.query, pair.gallery, fars=(1e-3, 1e-4), weights=weights)
        drawn[name] = replicate_metrics(found)
        rates = (found.true_accept_rate(threshold) for threshold in found.thresholds)
        figures = (found.mean_average_precision(), found.rank_rate(1), *rates)
        values[name] = dict(zip(METRICS, figures, strict=True))

    def triples(of: str, minus: str | None = None) -> dict[str, list[float]]:
        found = {}
        for metric in METRICS:
            value, replicate = values[of][metric], drawn[of][metric]
            if minus:
                value, replicate = value - values[minus][metric], replicate - drawn[minus][metric]
            one = estimate(value, replicate)
            found[metric] = [one.value, one.low, one.high]
        return found

    return {
        "kind": bridge.kind,
        "share": share,
        "rows": {name: triples(name) for name in rows},
        "minus old/old": {name: triples(name, "old/old") for name in rows if name != "old/old"},
    }


def bridge_lines(
    found: Mapping[str, list[dict[str, Any]]], table: Callable[..., list[str]]
) -> list[str]:
    """Return the section of the page, each figure a mean over the splits."""
    lines = ["## The chosen bridge, and both queries", ""]
    for role, title in SYSTEMS.items():
        splits = found[role]
        kinds = ", ".join(dict.fromkeys(one["kind"] for one in splits))
        shares = ", ".join(f"{one['share']:g}" for one in splits)
        lines += [
            f"{title}. Chosen on the people for fitting, split by split: {kinds}; with both",
            f"queries the new one's share is {shares}.",
            "",
        ]
        for key in ("rows", "minus old/old"):
            name = "searching the old gallery" if key == "rows" else key
            lines += [*table(name, splits, key, list(splits[0][key]), METRICS), ""]
    return lines
