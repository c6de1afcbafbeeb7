"""What every reader gives: batches of keys, labels and vectors, and what is known of them.

A reader refuses what is no source at all. A row that it cannot turn into so many numbers is named
in its batch and left out, since whoever imports decides what a bad row means.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from mixbct.data.foreign_bank import declared_contract
from mixbct.errors import ContractError
from mixbct.schemas.contract import Contract

OTHER_DIMENSION = "vectors of another dimension"
NO_VECTOR = "no vector"
NO_KEY = "no key"
UNDECLARED = "undeclared"
"""The model's name for who only looks: what the source itself says comes before it."""


class ForeignRows(NamedTuple):
    """Some rows of a source, in its order."""

    keys: list[str]
    labels: list[str | None]
    vectors: Float32[np.ndarray, "n d"]
    """As they were stored there."""
    bad: Mapping[str, Sequence[str]]
    """What is wrong → what the rows are called that are not among the above."""


@dataclass(frozen=True)
class VectorSource:
    """Vectors of one contract that another program keeps.

    Attributes:
        name: the file, or the table and its server, without a password.
        contract: the vectors' own, or of the name that was declared.
        rows: how many there are, bad ones included.
        read: gives all rows in batches of about so many; can be called again.
        notes: what a person should know of these vectors, a sentence each.
    """

    name: str
    contract: Contract
    rows: int
    read: Callable[[int], Iterator[ForeignRows]]
    notes: tuple[str, ...] = ()


def contract_of(name: str | None, dim: int, source: str) -> Contract:
    """Return the contract that a person declared for vectors that don't tell theirs.

    Raises:
        ContractError: none was declared.
    """
    if not name:
        raise ContractError(
            f"{source} does not say which model its vectors are of: give that model a name of your "
            "own with --contract NAME, the same for all that it ever embedded"
        )
    return declared_contract(name, dim)


def chosen_name(found: Mapping[str, int], wanted: str | None, source: str) -> str:
    """Return the one of the contracts named in a source, by name → rows, that is wanted.

    Raises:
        ContractError: it is not there, or there are several and none is wanted.
    """
    wanted = None if wanted == UNDECLARED else wanted
    if wanted is not None and wanted in found:
        return wanted
    if len(found) == 1 and (wanted is None or "" in found):
        return next(iter(found))  # where it is "", the rows are of the model that is declared
    listed = ", ".join(f"{name!r} ({rows:,} rows)" for name, rows in list(found.items())[:20])
    asked = f"none of {wanted!r}" if wanted else "vectors of several models"
    raise ContractError(
        f"{source} holds {asked}: {listed or 'no rows at all'}; choose one with --contract NAME, "
        "and import each by itself"
    )


def decode(
    rows: Sequence[tuple[str | None, str | None, bytes | None]], dtype: np.dtype
) -> ForeignRows:
    """Return rows of (key, label, bytes), as a database gave them, as a batch.

    Args:
        rows: the bytes of a good one are one `dtype`.
        dtype: whose field "numbers" is as many records as a vector has numbers, each in "x".
    """
    good, bad = [], dict[str, list[str]]()
    for row in rows:
        key, _, content = row
        if key is not None and content is not None and len(content) == dtype.itemsize:
            good.append(row)
        else:
            why = NO_KEY if key is None else NO_VECTOR if content is None else OTHER_DIMENSION
            bad.setdefault(why, []).append(key or "(no key)")
    stored = np.frombuffer(b"".join(row[2] or b"" for row in good), dtype=dtype)
    with np.errstate(all="ignore"):  # a float64 may be beyond float32: infinite, and found so
        numbers = stored["numbers"]["x"].astype(np.float32)
    return ForeignRows([row[0] or "" for row in good], [row[1] for row in good], numbers, bad)
