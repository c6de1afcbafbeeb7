"""A feature bank of vectors that came from elsewhere: arrays of features, labels and keys.

The name of their model is all that is known of it, and two banks of one name are compared without
question. What can be seen is how the vectors lie: those of an item that both hold, and else the
direction of their mean and their norms.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from mixbct.data.bank import FeatureBank, normalise, partial_path
from mixbct.data.bank_writer import BankWriter
from mixbct.data.source import Rows, check_names, digest_rows
from mixbct.errors import BankError, DataError, FeatureError, MixbctError
from mixbct.reading import expected_instead, failing_as, open_array, read_lines_of, wrong_line
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract
from mixbct.schemas.record import read_record

DTYPES = ("float16", "float32", "float64")

LEAST_COSINE = 0.9
"""Of the mean over items that both hold."""
LEAST_MEAN_COSINE, LEAST_MEAN_NORM = 0.5, 0.2
"""Of the two means, where both are long enough to have a direction."""
MOST_RATIO = 3.0
"""Of the median norms."""
SAMPLE = 16_384


def bank_of_vectors(
    features: Float[np.ndarray, "n d"],
    labels: Sequence[str] | None,
    keys: Sequence[str],
    name: str,
    out: Path,
    dtype: Literal["float16", "float32"] = "float32",
    like: Sequence[FeatureBank] = (),
) -> FeatureBank:
    """Write a bank of vectors whose model is known by name alone.

    The data digest is taken over keys and labels, in order: two such banks with the same keys and
    labels are of the same items, row by row.

    Args:
        features: any scale.
        labels: n class names; None where they are not known, which `adapt` does without.
        keys: n names, no two alike.
        name: the declared contract's. Vectors under one name are compared without question, so
            it must change whenever the model does.
        out: the folder to write.
        dtype: how they are stored.
        like: banks under the same name, which must look like being of the same model.

    Raises:
        DataError: the counts differ, there are no rows, a key is there twice, or a name is no
            line of text.
        FeatureError: a row holds NaN or infinity, or is zero, or cannot be stored so; it is named.
        BankError: `out` is there already, or one of `like` is of another model.
    """
    known = keys if labels is None else labels
    if not len(features) == len(known) == len(keys) or not len(keys):
        raise DataError(
            f"{len(features)} features, {len(known)} labels and {len(keys)} keys: expected as many"
        )
    if len(set(keys)) != len(keys):
        ((first, count),) = Counter(keys).most_common(1)
        raise DataError(f"the key {first!r} is there {count} times: each names one row")
    contract = declared_contract(name, features.shape[1])
    for other in like:
        check_same_model(features, keys, contract, other)
    try:
        return write_bank(out, contract, keys, labels, lambda rows: features[rows], dtype)
    except BankError:
        raise
    except BaseException:
        # other features may come under the same keys: nothing of these may stay
        shutil.rmtree(partial_path(out), ignore_errors=True)
        raise


def write_bank(
    out: Path,
    contract: Contract,
    keys: Sequence[str],
    labels: Sequence[str] | None,
    read: Callable[[slice], Float[np.ndarray, "n d"]],
    dtype: Literal["float16", "float32"] = "float32",
    resume: bool = False,
) -> FeatureBank:
    """Write a bank chunk by chunk of what `read` gives; a label is a class name.

    Raises:
        BankError: `out` is there already, or an unfinished bank without `resume`.
        DataError: a label is no line of text.
        FeatureError: a row cannot be stored.
    """
    # not as an array of text, which drops a NUL at the end
    classes = sorted(set(labels or ()))
    check_names(classes, "label")
    number_of = {label: number for number, label in enumerate(classes)}
    numbers = np.array([number_of[label] for label in labels or ()], dtype=np.int64)
    items = zip(keys, labels or [""] * len(keys), strict=True)
    manifest = BankManifest(
        contract=contract,
        data_digest=digest_rows((key, label, "") for key, label in items),
        rows=len(keys),
        dim=contract.dim,
        dtype=dtype,
        classes=tuple(classes),
    )
    names = list(keys)
    writer = BankWriter(out, manifest, None if labels is None else numbers, names, resume)
    for chunk in writer.missing():
        rows = slice(chunk.start, chunk.stop)
        writer.write(chunk, read(rows), names[rows])
    return writer.finish()


def declared_contract(name: str, dim: int) -> Contract:
    """Return the contract of vectors whose model is known by name alone."""
    return Contract(name=name, weights=f"declared: {name}", preprocessing=None, dim=dim)


def read_features(path: Path) -> Float[np.ndarray, "n d"]:
    """Return a two-dimensional array of floats from a .npy file, memory-mapped.

    Raises:
        FeatureError: it is missing, damaged or something else.
    """
    features = open_array(path, "features", FeatureError, DTYPES, ndim=2)
    if not features.shape[1]:
        raise FeatureError(f"{path} holds vectors without a number: {features.shape}")
    return features


def read_names(path: Path, what: str) -> list[str]:
    """Return names from a file as `names_in` does, each of which says something.

    Raises:
        DataError: it is missing, damaged or something else, or a name is empty, or a label −1,
            which stands for none; `what` says what it should hold ("labels").
    """
    names = names_in(path, what)
    for number, name in enumerate(names, start=1):
        if expected := expected_instead(name, what.removesuffix("s")):
            raise DataError(wrong_line(path, number, expected, name))
    return names


def names_in(path: Path, what: str) -> list[str]:
    """Return names from a text file, one a line, or from a .npy file of text or integers."""
    if path.suffix.lower() not in (".npy", ".npz"):
        return read_lines_of(path, f"file of {what}")
    return text_of(open_array(path, what, DataError, ndim=1), what, path)


def text_of(array: np.ndarray, what: str, path: Path) -> list[str]:
    """Return an array of text or integers as names."""
    if array.dtype.kind not in "Uiu":
        raise DataError(f"{path} holds {array.dtype}; expected {what} as text or integers")
    with failing_as(DataError, f"{path} holds what is no text", ValueError):
        return [str(name) for name in array.tolist()]


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
        fits, found = alike(features, bank.features)
    if not fits:
        raise BankError(
            f"{bank.path} holds other vectors under the name {contract.name!r}: {found}; choose "
            "another --contract, or give --same-model if they are of that very model"
        )


def alike(one: Float[np.ndarray, "n d"], other: Float[np.ndarray, "m d"]) -> tuple[bool, str]:
    """Return whether vectors of different items can be of one model, and what was found.

    Raises:
        FeatureError: a row cannot be normalised.
    """
    raw = [side[spread_rows(len(side))].astype(np.float32) for side in (one, other)]
    means = [normalise(side).mean(0) for side in raw]
    lengths = [float(np.linalg.norm(mean)) for mean in means]
    cosine = float(means[0] @ means[1]) / max(lengths[0] * lengths[1], 1e-12)
    norms = sorted(float(np.median(np.linalg.norm(side, axis=1))) for side in raw)
    fits = min(lengths) < LEAST_MEAN_NORM or cosine >= LEAST_MEAN_COSINE
    fits &= norms[1] <= MOST_RATIO * norms[0]
    return fits, f"the cosine of their means is {cosine:.3f}, median norms are {norms}"


def mean_norm(rows: Float32[np.ndarray, "n d"]) -> float:
    """Return the norm of the mean of unit rows: 0 around the origin, near 1 in a narrow cone."""
    return float(np.linalg.norm(rows.mean(0, dtype=np.float64)))


def spread_rows(count: int) -> Rows:
    """Return up to 16,384 of `count` rows, spread evenly, to judge all of them by."""
    return np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64)
