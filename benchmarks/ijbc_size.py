"""The IJB-C protocols at their full size, beside the matrix product that they cannot do without.

Made-up features: 469,375 images × 512, 23,124 templates, 15,658,489 pairs, 19,593 probes against
galleries of 1,772 and 1,759. The pairs are drawn from all templates on both sides, where every
entry of the product may be needed; in IJB-C itself only 3,531 × 19,593 are. The work runs in a
process of its own, so that its peak memory is its own.

    python -m benchmarks.ijbc_size         the figures as JSON, and where the time goes
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.data.ijb import Subjects
from mixbct.evaluation.protocols import identify, verification
from mixbct.evaluation.templates import pool_templates, template_scores

IMAGES, DIM = 469_375, 512
TEMPLATES, MEDIA = 23_124, 3
SUBJECTS = 3_531
GALLERIES = (1_772, 1_759)
PAIRS, GENUINE = 15_658_489, 19_557
MOST_GB = 4.0


@dataclass(frozen=True)
class MadeUp:
    """A set of IJB-C's size: templates 0 … 3,530 are the galleries', the rest are probes."""

    features: np.ndarray
    templates: np.ndarray
    media: np.ndarray
    scores: np.ndarray
    pairs: np.ndarray
    same: np.ndarray
    galleries: dict[str, Subjects]
    probes: Subjects


def make() -> MadeUp:
    """Draw features around a centre a subject; images stand in no order."""
    rng = np.random.default_rng(0)
    ids = np.arange(TEMPLATES)
    subjects = np.concatenate([ids[:SUBJECTS], rng.integers(0, SUBJECTS, TEMPLATES - SUBJECTS)])
    templates = rng.permutation(np.arange(IMAGES) % TEMPLATES)
    centres = rng.standard_normal((SUBJECTS, DIM), dtype=np.float32)
    features = rng.standard_normal((IMAGES, DIM), dtype=np.float32)
    for start in range(0, IMAGES, 2**14):
        part = slice(start, start + 2**14)
        features[part] += 0.3 * centres[subjects[templates[part]]]
    probes = rng.integers(SUBJECTS, TEMPLATES, GENUINE)
    genuine = np.column_stack([subjects[probes], probes])
    impostor = rng.integers(0, TEMPLATES, (PAIRS - GENUINE, 2))
    clash = subjects[impostor[:, 0]] == subjects[impostor[:, 1]]
    impostor[clash] = (0, 1)
    order = rng.permutation(PAIRS)
    first = GALLERIES[0]
    return MadeUp(
        features=features,
        templates=templates,
        media=rng.integers(0, MEDIA, IMAGES),
        scores=rng.uniform(0.5, 1, IMAGES).astype(np.float32),
        pairs=np.concatenate([genuine, impostor])[order],
        same=(np.arange(PAIRS) < GENUINE)[order],
        galleries={
            "G1": Subjects(ids[:first], subjects[:first]),
            "G2": Subjects(ids[first:SUBJECTS], subjects[first:SUBJECTS]),
        },
        probes=Subjects(ids[SUBJECTS:], subjects[SUBJECTS:]),
    )


def protocols(made: MadeUp, took: dict[str, list[float]]) -> None:
    """Go from image features to every figure, and note the seconds of each stage."""
    marks = [time.perf_counter()]
    pooled = pool_templates(made.features, made.templates, made.media, made.scores)
    marks.append(time.perf_counter())
    scores = template_scores(pooled, pooled, made.pairs)
    marks.append(time.perf_counter())
    verification(scores[made.same], scores[~made.same])
    marks.append(time.perf_counter())
    galleries = {name: pooled.of(some) for name, some in made.galleries.items()}
    identify(pooled.of(made.probes), galleries)
    marks.append(time.perf_counter())
    for name, seconds in zip(("pool", "pair scores", "1:1", "1:N"), np.diff(marks), strict=True):
        took.setdefault(name, []).append(float(seconds))


def measure() -> dict[str, object]:
    """Measure in this process: peak memory first, then the time beside the reference."""
    torch.set_flush_denormal(True)
    made = make()
    took: dict[str, list[float]] = {}
    protocols(made, took)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    took.clear()
    rows = torch.randn(TEMPLATES, DIM)
    product = torch.empty(TEMPLATES, TEMPLATES)
    features = torch.from_numpy(made.features)

    def reference() -> None:
        torch.mm(rows, rows.T, out=product)
        features.sum()

    pairs = in_turn(lambda: protocols(made, took), reference, for_seconds=1, warm_up=0, at_least=3)
    figures = [
        time_figure("ijbc_size", "s/run", pairs),
        Figure("ijbc_size memory", peak, "GB", MOST_GB, peak / MOST_GB),
    ]
    return {
        "figures": [figure.to_dict() for figure in figures],
        "stages": {name: statistics.median(seconds) for name, seconds in took.items()},
    }


def run(folder: Path) -> list[Figure]:
    """Return seconds from image features to all figures, and the peak memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ijbc_size"], check=True, capture_output=True, text=True
    )
    return [Figure(**figure) for figure in json.loads(done.stdout)["figures"]]


if __name__ == "__main__":
    json.dump(measure(), sys.stdout, indent=1)
