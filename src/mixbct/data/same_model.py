"""Whether vectors that were declared under one name can be of one model.

The name is all that is known of foreign vectors, and two banks of one name are compared without
question. What can be seen is how the vectors lie: those of an item that both hold, and else the
direction of their mean and their norms.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from mixbct.data.bank import FeatureBank, normalise
from mixbct.data.source import Rows
from mixbct.errors import BankError, MixbctError
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract
from mixbct.schemas.record import read_record

LEAST_COSINE = 0.9
"""Of the mean over items that both hold."""
LEAST_MEAN_COSINE, LEAST_MEAN_NORM = 0.5, 0.2
"""Of the two means, where both are long enough to have a direction."""
MOST_RATIO = 3.0
"""Of the median norms."""
SAMPLE = 16_384


def banks_beside(out: Path, contract: Contract) -> list[FeatureBank]:
    """Return the banks of a contract in the folder of `out`, itself apart."""
    found = []
    for manifest in sorted(out.parent.glob("*/manifest.json")):
        try:
            there = read_record(manifest, BankManifest, BankError, "manifest").contract
            if there.id == contract.id and manifest.parent != out:
                found.append(FeatureBank(manifest.parent))
        except MixbctError:
            continue  # it is no bank, or a damaged one: whoever uses it will hear of it
    return found


def check_same_model(
    features: Float[np.ndarray, "n d"], keys: Sequence[str], contract: Contract, bank: FeatureBank
) -> None:
    """Refuse vectors that cannot be of the model whose vectors a bank holds under the same name.

    Raises:
        BankError: they differ, or the bank is of another contract.
        FeatureError: a row cannot be normalised.
    """
    there = bank.manifest.contract
    if there.id != contract.id:
        raise BankError(
            f"the new vectors are {contract.dim}-d of {contract}, but {bank.path} holds "
            f"{there.dim}-d ones of {there}: name a bank of the same model"
        )
    row_of = {key: row for row, key in enumerate(bank.keys())}
    shared = [(row, row_of[key]) for row, key in enumerate(keys) if key in row_of][:SAMPLE]
    if shared:
        ours, theirs = np.array(shared).T
        cosine = float(np.mean(np.sum(normalise(features[ours]) * bank.read(theirs), axis=1)))
        fits = cosine >= LEAST_COSINE
        found = f"the mean cosine over {len(shared):,} items that both hold is {cosine:.3f}"
    else:
        raw = [
            side[spread_rows(len(side))].astype(np.float32) for side in (features, bank.features)
        ]
        means = [normalise(side).mean(0) for side in raw]
        lengths = [float(np.linalg.norm(mean)) for mean in means]
        cosine = float(means[0] @ means[1]) / max(lengths[0] * lengths[1], 1e-12)
        norms = sorted(float(np.median(np.linalg.norm(side, axis=1))) for side in raw)
        fits = norms[1] <= MOST_RATIO * norms[0] and (
            min(lengths) < LEAST_MEAN_NORM or cosine >= LEAST_MEAN_COSINE
        )
        found = f"the cosine of their means is {cosine:.3f}, median norms are {norms}"
    if not fits:
        raise BankError(
            f"{bank.path} holds other vectors under the name {contract.name!r}: {found}; choose "
            "another --contract, or give --same-model if they are of that very model"
        )


def mean_norm(rows: Float32[np.ndarray, "n d"]) -> float:
    """Return the norm of the mean of unit rows: 0 around the origin, near 1 in a narrow cone."""
    return float(np.linalg.norm(rows.mean(0, dtype=np.float64)))


def spread_rows(count: int) -> Rows:
    """Return up to 16,384 of `count` rows, spread evenly, to judge all of them by."""
    return np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64)
