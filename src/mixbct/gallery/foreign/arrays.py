"""Vectors in a .npy or .npz file with keys, and those of a feature bank."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from mixbct.data.bank import FeatureBank
from mixbct.data.foreign_bank import DTYPES, names_in, read_features, text_of
from mixbct.errors import ContractError, DataError, FeatureError
from mixbct.gallery.foreign.rows import UNDECLARED, ForeignRows, VectorSource, contract_of
from mixbct.reading import ZippedArrays, expected_instead, read_bytes
from mixbct.schemas.contract import Contract

Labels = list[str | None]
_Blocks = Callable[[int], Iterator[np.ndarray]]
_KEYS, _LABELS = ("keys", "ids", "names"), ("labels", "classes")
_NAMES_AT_ONCE = 65_536


def open_arrays(
    path: Path, contract: str | None, keys: str | None, labels: str | None
) -> VectorSource:
    """Open an array of vectors float [n, d].

    Args:
        path: a .npy file, or a .npz file with one array of floats in two dimensions.
        contract: the declared name of the model.
        keys: a file with a key a line (or .npy), or the name of a member of the .npz; its
            member "keys", "ids" or "names" where not given.
        labels: the same for labels ("labels", "classes"); an empty one, or −1, is none.

    Raises:
        FeatureError: it holds no vectors, or is damaged.
        DataError: there are no keys, or another number of keys or labels than of vectors.
        ContractError: no name was declared.
    """
    blocks: _Blocks
    members: ZippedArrays | None = None
    if path.suffix.lower() == ".npz":
        members = ZippedArrays(path, "vectors", FeatureError)
        name, (rows, dim) = _vectors_in(members)
        blocks = partial(members.blocks, name)
    else:
        features = read_features(path)
        rows, dim = features.shape
        blocks = _slices(features)
    named = _names(members, keys, "keys", _KEYS)
    if named is None:
        raise DataError(f"{path} has no keys: name each vector's item with --keys FILE, one a line")
    found = _names(members, labels, "labels", _LABELS)
    labelled = [""] * rows if found is None else _with_trailing(found, labels, rows)
    for what, names in (("keys", named), ("labels", labelled)):
        if len(names) != rows:
            raise DataError(f"{path} has {rows:,} vectors, but there are {len(names):,} {what}")
    known = [None if expected_instead(label or "", "label") else label for label in labelled]
    return _source(path, contract_of(contract, dim, str(path)), named, known, blocks)


def open_bank(path: Path, contract: str | None) -> VectorSource:
    """Open a feature bank, which knows its contract.

    Raises:
        BankError: there is none, or it is damaged.
        ContractError: another name than its own was declared.
    """
    bank = FeatureBank(path)
    own = bank.manifest.contract
    if contract not in (None, UNDECLARED, own.name):
        raise ContractError(
            f"{path} holds vectors of {own}, not of {contract!r}: leave --contract out"
        )
    classes = bank.classes()
    labels = [classes[number] for number in bank.labels()] if classes else [None] * len(bank)
    return _source(path, own, bank.keys(), labels, _slices(bank.features))


def _slices(features: np.ndarray) -> _Blocks:
    return lambda rows: (features[at : at + rows] for at in range(0, len(features), rows))


def _source(
    path: Path, contract: Contract, keys: list[str], labels: Labels, blocks: _Blocks
) -> VectorSource:
    def read(count: int) -> Iterator[ForeignRows]:
        at = 0
        for block in blocks(count):
            part = slice(at, at := at + len(block))
            with np.errstate(all="ignore"):  # a float64 may be beyond float32: found infinite
                vectors = np.asarray(block, dtype=np.float32)
            yield ForeignRows(keys[part], labels[part], vectors, {})

    return VectorSource(str(path), contract, len(keys), read)


def _vectors_in(members: ZippedArrays) -> tuple[str, tuple[int, ...]]:
    found = [
        (name, shape)
        for name, (shape, dtype) in members.headers.items()
        if dtype.name in DTYPES and dtype.isnative and len(shape) == 2 and shape[1]
    ]
    if len(found) != 1:
        held = ", ".join(f"{name} {dtype} {s}" for name, (s, dtype) in members.headers.items())
        raise FeatureError(
            f"{members.path} holds {len(found)} arrays of floats in two dimensions, expected one: "
            f"{held or 'it is empty'}; save the vectors alone with their keys"
        )
    return found[0]


def _names(
    members: ZippedArrays | None, given: str | None, what: str, usual: tuple[str, ...]
) -> list[str] | None:
    """Return the names that a person gave, or that stand in the archive; None: there are none."""
    inside = members.headers if members else {}
    name = given if given in inside else next((n for n in usual if n in inside), None)
    if members is None or name is None or (given is not None and given not in inside):
        return None if given is None else names_in(Path(given), what)
    if len(inside[name][0]) != 1:
        raise DataError(f"{members.path} holds {name} {inside[name][0]}; expected one {what} a row")
    return [
        name
        for block in members.blocks(name, _NAMES_AT_ONCE)
        for name in text_of(block, what, members.path)
    ]


def _with_trailing(labels: list[str], file: str | None, rows: int) -> list[str]:
    """Add the empty labels at the end of a text file, which are no lines of text elsewhere."""
    missing = rows - len(labels)
    if file is None or missing <= 0 or not Path(file).is_file():
        return labels
    ends = read_bytes(Path(file), "file of labels", DataError).count(b"\n")
    return labels + [""] * missing if ends >= rows - 1 else labels
