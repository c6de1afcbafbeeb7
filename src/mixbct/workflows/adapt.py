"""Fit a map between two models' spaces on the items that two feature banks share."""

from pathlib import Path

import numpy as np

from mixbct.adapters import ADAPTERS
from mixbct.data.bank import FeatureBank
from mixbct.data.source import Rows
from mixbct.errors import BankError
from mixbct.files import sha256_file
from mixbct.schemas.protocols import FittedMap


def adapt(kind: str, source: FeatureBank, target: FeatureBank, out: Path) -> FittedMap:
    """Fit the map from `source` to `target`, write it to `out`, and say how near it comes.

    Labels play no part: rows with one key are the same item.

    Args:
        kind: a name of `ADAPTERS`.
        source: features by the model whose vectors will be mapped (the new one).
        target: features by the model into whose space they are mapped (the old one).
        out: the map's safetensors file; one that is there already is replaced.

    Raises:
        BankError: the banks share no key, or a key occurs twice.
        FeatureError: the shared items are too few to determine the map.
    """
    from_rows, to_rows = shared_rows(source, target)
    x, y = source.read(from_rows), target.read(to_rows)
    fitted = ADAPTERS[kind].fit(x, y)
    fitted.save(out)
    return FittedMap(
        kind=kind,
        source=source.manifest.contract,
        target=target.manifest.contract,
        pairs=len(x),
        cosine=float(np.einsum("nd,nd->n", fitted.transform(x), y).mean()),
        sha256=sha256_file(out),
    )


def shared_rows(first: FeatureBank, second: FeatureBank) -> tuple[Rows, Rows]:
    """Return the rows of both banks that have the same keys, in the order of the first.

    Raises:
        BankError: there is none, or a key occurs twice in a bank.
    """
    places = []
    for bank in (first, second):
        keys = bank.keys()
        place = {key: row for row, key in enumerate(keys)}
        if len(place) != len(keys):
            twice = next(key for row, key in enumerate(keys) if place[key] != row)
            raise BankError(f"the key {twice!r} occurs twice in {bank.path}: items must be told")
        places.append(place)
    pairs = [(row, places[1][key]) for key, row in places[0].items() if key in places[1]]
    if not pairs:
        raise BankError(
            f"the banks {first.path} and {second.path} share no key (such as "
            f"{next(iter(places[0]))!r} and {next(iter(places[1]))!r}): extract both from the same "
            "data"
        )
    rows = np.array(pairs, dtype=np.int64)
    return rows[:, 0], rows[:, 1]
