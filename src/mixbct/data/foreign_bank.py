"""A feature bank of vectors that came from elsewhere: arrays of features, labels and keys."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import FeatureBank
from mixbct.data.bank_writer import BankWriter
from mixbct.data.same_model import check_same_model
from mixbct.data.source import check_names, digest_rows
from mixbct.errors import DataError, FeatureError
from mixbct.reading import open_array, read_lines_of, wrong_line
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract

DTYPES = ("float16", "float32", "float64")


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
    # not as an array of text, which drops a NUL at the end
    classes = sorted(set(labels or ()))
    check_names(classes, "label")
    number_of = {label: number for number, label in enumerate(classes)}
    numbers = np.array([number_of[label] for label in labels or ()], dtype=np.int64)
    manifest = BankManifest(
        contract=declared_contract(name, features.shape[1]),
        data_digest=digest_rows(
            (k, c, "") for k, c in zip(keys, labels or [""] * len(keys), strict=True)
        ),
        rows=len(keys),
        dim=features.shape[1],
        dtype=dtype,
        classes=tuple(classes),
    )
    for other in like:
        check_same_model(features, keys, manifest.contract, other)
    names = list(keys)
    writer = BankWriter(out, manifest, None if labels is None else numbers, names, resume=False)
    try:
        for chunk in writer.missing():
            rows = slice(chunk.start, chunk.stop)
            writer.write(chunk, features[rows], names[rows])
        return writer.finish()
    except BaseException:
        # other features may come under the same keys: nothing of these may stay
        shutil.rmtree(writer.partial, ignore_errors=True)
        raise


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
    """Return names from a text file, one a line, or from a .npy file of text or integers.

    Raises:
        DataError: it is missing, damaged or something else, or a name is empty, or a label −1,
            which stands for none; `what` says what it should hold ("labels").
    """
    if path.suffix.lower() not in (".npy", ".npz"):
        names = read_lines_of(path, f"file of {what}")
    else:
        array = open_array(path, what, DataError, ndim=1)
        if array.dtype.kind not in "Uiu":
            raise DataError(f"{path} holds {array.dtype}; expected {what} as text or integers")
        try:
            names = [str(name) for name in array.tolist()]
        except ValueError as error:
            raise DataError(f"{path} holds what is no text: {error}") from error
    none = ("", "-1") if what == "labels" else ("",)
    for number, name in enumerate(names, start=1):
        if name in none:
            one = f"a {what.removesuffix('s')} (leave out rows that have none)"
            raise DataError(wrong_line(path, number, one, name))
    return names
