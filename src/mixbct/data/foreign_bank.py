"""A feature bank of vectors that came from elsewhere: arrays of features, labels and keys."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import BankWriter, FeatureBank
from mixbct.data.source import digest_rows
from mixbct.errors import DataError, FeatureError
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract

DTYPES = ("float16", "float32", "float64")


def bank_of_vectors(
    features: Float[np.ndarray, "n d"],
    labels: Sequence[str],
    keys: Sequence[str],
    name: str,
    out: Path,
    dtype: Literal["float16", "float32"] = "float32",
) -> FeatureBank:
    """Write a bank of vectors whose model is known by name alone.

    The data digest is taken over keys and labels, in order: two such banks with the same keys and
    labels are of the same items, row by row.

    Args:
        features: any scale.
        labels: n class names.
        keys: n names, no two alike.
        name: the declared contract's. Vectors under one name are compared without question, so
            it must change whenever the model does.
        out: the folder to write.
        dtype: how they are stored.

    Raises:
        DataError: the counts differ, there are no rows, a key is there twice, or has a line break.
        FeatureError: a row holds NaN or infinity, or is zero; it is named.
        BankError: `out` is there already.
    """
    if not len(features) == len(labels) == len(keys) or not len(keys):
        raise DataError(
            f"{len(features)} features, {len(labels)} labels and {len(keys)} keys do not fit each "
            "other: expected one label and one key a feature"
        )
    if len(set(keys)) != len(keys):
        ((first, count),) = Counter(keys).most_common(1)
        raise DataError(f"the key {first!r} is there {count} times: each names one row")
    classes, numbers = np.unique(np.array(labels), return_inverse=True)
    manifest = BankManifest(
        contract=Contract(
            name=name, weights=f"declared: {name}", preprocessing=None, dim=features.shape[1]
        ),
        data_digest=digest_rows((k, c, "") for k, c in zip(keys, labels, strict=True)),
        rows=len(keys),
        dim=features.shape[1],
        dtype=dtype,
        classes=tuple(map(str, classes)),
    )
    names = list(keys)
    writer = BankWriter(out, manifest, numbers.astype(np.int64), names, resume=False)
    try:
        for chunk in writer.missing():
            rows = slice(chunk.start, chunk.stop)
            writer.write(chunk, features[rows], names[rows])
        return writer.finish()
    except BaseException:
        # other features may come under the same keys: nothing of these may stay
        shutil.rmtree(writer.partial, ignore_errors=True)
        raise


def read_features(path: Path) -> Float[np.ndarray, "n d"]:
    """Return a two-dimensional array of floats from a .npy file, memory-mapped.

    Raises:
        FeatureError: it is missing, damaged or something else.
    """
    try:
        features: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(f"{path} is not a readable array of features: {error}") from error
    if features.ndim != 2 or features.dtype.name not in DTYPES:
        raise FeatureError(
            f"{path} holds {features.dtype} {features.shape}; expected rows of "
            f"{', '.join(DTYPES)} vectors"
        )
    return features


def read_names(path: Path, what: str) -> list[str]:
    """Return names from a text file, one a line, or from a .npy file of text or integers.

    Raises:
        DataError: it is missing, damaged or something else; `what` says what it should hold.
    """
    try:
        if path.suffix != ".npy":
            return [line.removesuffix("\r") for line in _lines(path)]
        names: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not a readable file of {what}: {error}") from error
    if names.ndim != 1 or names.dtype.kind not in "Uiu":
        raise DataError(
            f"{path} holds {names.dtype} {names.shape}; expected {what} as one row of text or "
            "integers"
        )
    return [str(name) for name in names.tolist()]


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8")
    return (lines if lines.endswith("\n") or not lines else lines + "\n").split("\n")[:-1]
