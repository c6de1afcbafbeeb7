"""Every figure of one combination with its intervals, beside the bare products of its scores."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.denoise_full import most_private_gigabytes
from benchmarks.measure import Figure, in_turn, time_figure
from mixbct.data.bank import normalise
from mixbct.evaluation.bootstrap import REPLICATES, class_weights
from mixbct.evaluation.combination import judge_all
from mixbct.evaluation.comparison import FARS
from mixbct.evaluation.scores import Embeddings, Pair

QUERIES = 100_000
ITEMS = 100_000
CLASSES = 20_000
MANY_CLASSES = 93_431  # MS1Mv3's: of the draws of classes alone, float64 would take 0.75 GB
DIM = 128
MOST_GB = 1.0
# as many rows as suit the product best
_BLOCK = 1024


def run(folder: Path) -> list[Figure]:
    """Return seconds a combination, and the most private memory in GB with many classes."""
    del folder
    both = _sides(CLASSES)
    queries, columns = (torch.from_numpy(each.features) for each in (both.query, both.gallery))
    buffer = torch.empty(min(_BLOCK, QUERIES), ITEMS)

    def products() -> None:
        for rows in queries.split(_BLOCK):
            torch.mm(rows, columns.T, out=buffer[: len(rows)])

    pairs = in_turn(lambda: _judge(both), products, for_seconds=0, warm_up=0, at_least=3)
    del both, queries, columns, buffer
    many = _sides(MANY_CLASSES)
    memory = most_private_gigabytes(lambda: _judge(many))
    return [
        time_figure("evaluate", "s/combination", pairs),
        Figure("evaluate memory", memory, "GB", MOST_GB, memory / MOST_GB),
    ]


def _sides(classes: int) -> Pair:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((classes, DIM), np.float32)

    def side(rows: int) -> Embeddings:
        labels = rng.permutation(np.arange(rows) % classes)
        noise = 0.8 * rng.standard_normal((rows, DIM), np.float32)
        return Embeddings(normalise(centres[labels] + noise), labels)

    return Pair(side(QUERIES), side(ITEMS))


def _judge(both: Pair) -> None:
    weights = class_weights(len(both.query.classes), REPLICATES, 0)
    judge_all({"old/old": [both]}, weights, FARS)
