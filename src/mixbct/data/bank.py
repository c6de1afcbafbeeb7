"""The feature bank: embeddings with keys, labels and a manifest, memory-mapped.

A folder with

    manifest.json   contract, data digest, counts, class names, digests (`BankManifest`)
    features.npy    [N, D] float16 or float32, raw outputs; whoever reads normalises
    labels.npy      [N] int64, indices into the manifest's classes; not there without labels
    keys.txt        one key a line
    credible.npy    [N] bool, once denoised, with credible.json

While it is being written the folder is called NAME.partial and has one done-mark a chunk; the
finished folder gets its name by a rename. A folder without `manifest.json` is not a bank. Labels,
keys and credible rows are held against their digests when they are opened, features when the bank
is verified; a row whose norm is none that was written is refused whenever it is read.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64

from mixbct.data.source import Progress, Rows, Source, pieces, read_lines, root_of, unseen
from mixbct.errors import BankError, FeatureError
from mixbct.files import file_written_whole, sha256_file, write_atomically
from mixbct.reading import failing_as, open_array
from mixbct.schemas.contract import Contract
from mixbct.schemas.data import BankManifest, DenoiseManifest
from mixbct.schemas.record import read_record, record_there

CHUNK = 8192
# rows that are normalised at once: they stay in the processor's cache
_BLOCK = 2048
# relative; processors add in another order
_NORM_TOLERANCE = 1e-5

Names = Sequence[str] | Sequence[int] | Rows | Callable[[], Sequence[str]]
"""What to call rows in errors: keys, or row numbers; or what gives them once they are needed."""
Bounds = tuple[float, float]


def normalise(
    features: Float[np.ndarray, "n d"], names: Names | None = None, within: Bounds | None = None
) -> Float32[np.ndarray, "n d"]:
    """Return the rows with Euclidean norm 1, as float32.

    Args:
        features: of any float type.
        names: what errors call the rows; their numbers from 0 where not given.
        within: the least and the largest norm that a row can have.

    Raises:
        FeatureError: a row holds NaN or infinity, is zero, or has another norm than it can have;
            it names the first of them.
    """
    rows = np.empty(features.shape, dtype=np.float32)
    norms = np.empty(len(rows), dtype=np.float32)
    with np.errstate(all="ignore"):
        for start in range(0, len(rows), _BLOCK):
            block, found = rows[start : start + _BLOCK], features[start : start + _BLOCK]
            if found.dtype == np.float16:
                # torch converts ten times as fast as NumPy; the copy is there since it may not
                # see memory that is read-only
                torch.from_numpy(block).copy_(torch.from_numpy(np.array(found)))
            else:
                block[...] = found
            norms[start : start + _BLOCK] = norms_of(block)
            block /= norms[start : start + _BLOCK, None]
    check_norms(norms, names, within)
    return rows


def norms_of(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Sum squares as float64, so that processors that add in another order agree on the float32."""
    norms: np.ndarray = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return norms


def check_norms(
    norms: Float[np.ndarray, " n"], names: Names | None = None, within: Bounds | None = None
) -> None:
    """Refuse features that cannot be normalised, judged by their Euclidean norms.

    Raises:
        FeatureError: a norm is NaN, infinite, zero, or outside of `within`; it names the first.
    """
    if within is not None:
        least, most = within[0] * (1 - _NORM_TOLERANCE), within[1] * (1 + _NORM_TOLERANCE)
        what = f"norms that are not within {within[0]:g} and {within[1]:g}, as was written:"
        advice = "they were changed since: make them again"
        _refuse(~((norms >= least) & (norms <= most)), what, names, advice)
    advice = "they cannot be compared: look at those images and at the model that embedded them"
    _refuse(~np.isfinite(norms), "NaN or infinity in", names, advice)
    _refuse(norms == 0, "zero vectors:", names, advice)


def _refuse(bad: Bool[np.ndarray, " n"], what: str, names: Names | None, advice: str) -> None:
    if bad.any():
        said = f"{what} {int(bad.sum())} of {len(bad)} features ({named(bad, names)})"
        raise FeatureError(f"{said}; {advice}")


def named(bad: Bool[np.ndarray, " n"], names: Names | None) -> str:
    """Return what the first five of the rows that are marked are called."""
    every = names() if callable(names) else names
    called = [i if every is None else every[i] for i in np.flatnonzero(bad)[:5]]
    first = ", ".join(c if isinstance(c, str) else f"row {c}" for c in called)
    return first + (", …" if bad.sum() > 5 else "")


class FeatureBank(Source):
    """A finished bank, open for reading; as a source, normalised vectors in the place of images.

    It stands for the images that it was extracted from: same keys, same labels, same digest. So a
    split of the images is a split of the bank, and a bank of a new encoder and one of the old model
    are paired row by row where both are of the same images.

    Raises:
        BankError: there is none at `path`, or its files do not fit its manifest.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # the path's own method raises where a name is too long
        if not os.path.exists(path / "manifest.json"):  # noqa: PTH110
            advice = "make one with `mixbct extract`"
            if os.path.exists(partial := partial_path(path)):  # noqa: PTH110
                advice = f"{partial} is an unfinished one: run the same extraction with --resume"
            raise BankError(f"there is no feature bank at {path}; {advice}")
        self.manifest = read_record(path / "manifest.json", BankManifest, BankError, "manifest")
        rows, dim = self.manifest.rows, self.manifest.dim
        self.features = self._open("features.npy", self.manifest.dtype, (rows, dim))
        labels = np.zeros(rows, np.int64)
        if classes := len(self.manifest.classes):
            labels = np.array(self._open("labels.npy", "int64", (rows,)))
            self._check_digest("labels.npy")
            if labels.min() < 0 or labels.max() >= classes:
                raise self._damaged(f"labels {labels.min()} to {labels.max()}, {classes} classes")
        # keys are read when they are asked for; a bank knows no groups
        super().__init__(f"feature bank {path}", [], labels, self.manifest.classes)

    def _open(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        """Open one array of the bank, memory-mapped; its size is looked at before its content."""
        try:
            return open_array(self.path / name, name, BankError, (dtype,), shape=shape)
        except BankError as error:
            raise self._damaged(str(error)) from error

    def _check_digest(self, name: str, wanted: str | None = None) -> None:
        """Hold a file, which was found to be a regular one, against its digest."""
        wanted = wanted or (self.manifest.digests or {}).get(name)
        if wanted is not None and sha256_file(self.path / name) != wanted:
            raise self._damaged(f"{name} is not what was written")

    def _damaged(self, how: str) -> BankError:
        return BankError(f"the feature bank {self.path} is damaged: {how}; make it again")

    def labels(self) -> Int64[np.ndarray, " n"]:
        """Return the class of each row, an index into `classes()`.

        Raises:
            BankError: the bank was made without labels.
        """
        if not self._classes:
            raise BankError(
                f"the feature bank {self.path} has no labels, which `mixbct adapt` does without; "
                "for anything else make it again with `mixbct data bank --labels`"
            )
        return self._labels

    def keys(self) -> list[str]:
        """Return the key of every row."""
        keys = read_lines(self.path / "keys.txt", BankError)
        self._check_digest("keys.txt")
        if len(keys) != len(self):
            raise self._damaged(f"{len(keys)} keys for {len(self)} rows")
        return keys

    def digest(self) -> str:
        """Return the digest of the images (or keys and labels) that the bank was made of."""
        return self.manifest.data_digest

    def read(self, rows: Rows | slice, names: Names | None = None) -> Float32[np.ndarray, "n d"]:
        """Return the features of `rows`, normalised; errors call them by their numbers."""
        called = rows if names is None and not isinstance(rows, slice) else names
        with failing_as(FeatureError, f"the feature bank {self.path}", FeatureError):
            return normalise(self.features[rows], called, self.manifest.norms)

    def all(self) -> Float32[np.ndarray, "n d"]:
        """Return every feature, normalised, in memory."""
        return self.read(slice(None), self.keys)

    def verify(self, progress: Progress = unseen) -> bool:
        """Read everything; return whether there were digests to hold it against.

        Raises:
            BankError: a file is not what was written.
            FeatureError: a row cannot be normalised.
        """
        for piece in pieces(range(len(self)), CHUNK):
            self.read(np.array(piece))
            progress(piece.stop, len(self))
        self._check_digest("features.npy")
        self.keys()
        self.credible()
        return self.manifest.digests is not None

    def credible(self) -> Bool[np.ndarray, " n"] | None:
        """Return which rows denoising kept, or None where the bank was not denoised."""
        path, what = self.path / "credible.json", "denoising record"
        if (record := record_there(path, DenoiseManifest, BankError, what)) is None:
            return None
        try:
            credible = np.array(self._open("credible.npy", "bool", (len(self),)))
            self._check_digest("credible.npy", record.sha256)
            return credible
        except BankError as error:
            raise BankError(f"{error}: run `mixbct denoise {self.path}` again") from error

    def save_credible(
        self, credible: Bool[np.ndarray, " n"], keep: float, normalise_columns: bool
    ) -> DenoiseManifest:
        """Record which rows are credible, and how that was decided."""
        # the record first goes, last comes: credible.npy without it does not count
        (self.path / "credible.json").unlink(missing_ok=True)
        with file_written_whole(self.path / "credible.npy") as file:
            np.save(file, credible)
        record = DenoiseManifest(
            keep=keep,
            normalise_columns=normalise_columns,
            credible=int(credible.sum()),
            rows=len(credible),
            sha256=sha256_file(self.path / "credible.npy"),
        )
        write_atomically(self.path / "credible.json", record.to_json())
        return record


def encoder_of(source: Source) -> Contract | None:
    """Return the contract of the vectors that a source holds, or None where it holds images."""
    whole = root_of(source)
    return whole.manifest.contract if isinstance(whole, FeatureBank) else None


def root_digest(source: Source) -> str:
    """Return the digest of all that the rows of a source were chosen from, by whatever steps."""
    return _known_root(source) or root_of(source).digest()


def _known_root(source: Source) -> str | None:
    """Return `root_digest`; None for vectors that came from elsewhere."""
    root = root_of(source)
    return root.manifest.source_digest if isinstance(root, FeatureBank) else root.digest()


def refuse_other_items(
    bank: FeatureBank, rows: Rows, source: Source, of_source: Rows, keys: Callable[[], list[str]]
) -> None:
    """Refuse rows of a bank and of a source that share their keys, but are of other items.

    They are where most have another class on the other side, of those whose classes both sides
    know by name; and may be where keys are mere numbers, as in a record file, and the data are
    others, unless all classes are the same.

    Args:
        bank: vectors that stand for the items.
        rows: of the bank, by the items' keys.
        source: where the items are.
        of_source: the same items' rows there.
        keys: gives some of the keys, all of them for one.

    Raises:
        BankError: they are of other items.
    """
    digests = _known_root(bank), _known_root(source)
    if digests[0] is not None and digests[0] == digests[1]:
        return
    advice = (
        f"the bank {bank.path} was not made of {source}: name a bank that was, or extract it again"
    )
    names = bank.classes(), source.classes()
    if names[0] and names[1]:
        place = {name: i for i, name in enumerate(names[1])}
        there = np.array([place.get(name, -1) for name in names[0]])
        first, second = bank.labels()[rows], source.labels()[of_source]
        expected = np.where(first >= 0, there[first], -1)
        judged = (expected >= 0) & (second >= 0) & np.isin(second, there)
        other, of = int((judged & (expected != second)).sum()), int(judged.sum())
        if of and not other:
            return
        # numbers of classes may be each side's own
        if 2 * other > of and not all(map(str.isdecimal, names[0])):
            raise BankError(f"{other:,} of {of:,} items with one key have two classes; {advice}")
    if None not in digests and all(map(str.isdecimal, keys())):
        raise BankError(f"keys that are mere numbers may name other items elsewhere; {advice}")


def partial_path(path: Path) -> Path:
    """Return where a bank is written until it is whole."""
    return path.with_name(f"{path.name}.partial")
