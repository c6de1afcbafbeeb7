"""Writing a feature bank: chunk by chunk, resumable, whole or not a bank at all.

Until it is finished a bank is called NAME.partial and has one done-mark a chunk and the plan that
it was begun with; its space is reserved up front.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixbct.data.bank import CHUNK, FeatureBank, Names, check_norms, named, norms_of, partial_path
from mixbct.data.source import Rows, pieces, read_lines, write_lines
from mixbct.errors import BankError, FeatureError
from mixbct.files import (
    disk_full_as_error,
    folder_written_whole,
    refuse_existing,
    sha256_file,
    sync_file,
    write_atomically,
)
from mixbct.reading import open_array
from mixbct.schemas.data import BankManifest
from mixbct.schemas.record import record_there

# of 1 − cosine between a row as it was given and as it is stored; rounding to float16 takes 1e-7
_MOST_LOST = 1e-5


def plan_of(manifest: BankManifest) -> Mapping[str, object]:
    """Return what is known of a bank before its first row: equal for two that will be equal."""
    return manifest.model_dump(exclude={"created", "digests", "norms", "source_digest"})


class BankWriter:
    """Writes a bank chunk by chunk; chunks that were finished before are known and kept.

    Args:
        path: where the finished bank will be.
        manifest: what it will hold. A partial bank with another manifest is refused, except where
            it is of other rows of the same source by the same model, and all its finished rows are
            among the new ones: then these are taken over.
        labels: [N] int64; None where the manifest has no classes.
        keys: N names.
        resume: go on with a partial bank; without it one that is there is an error.

    Raises:
        BankError: a bank, or (without `resume`) a partial one, is already there, or the
            partial one came from other data or another model.
        DiskFullError: the whole size is reserved up front, so that this shows at once.
    """

    def __init__(
        self, path: Path, manifest: BankManifest, labels: Rows | None, keys: list[str], resume: bool
    ) -> None:
        self.path = path
        self.partial = partial_path(path)
        self.manifest = manifest
        refuse_existing(path, BankError)
        if self.partial.exists() and not resume:
            raise BankError(
                f"{self.partial} is an unfinished bank: add --resume to go on, or delete it"
            )
        places = (self.partial / "manifest.json", self.partial / "plan.json")
        found = (record_there(each, BankManifest, BankError, "plan") for each in places)
        begun = next(filter(None, found), None)
        if begun is None or plan_of(begun) != plan_of(manifest):
            finished = self._finished_rows(begun) if begun else {}
            if not finished.keys() <= set(keys):
                raise BankError(
                    f"{self.partial} was begun with other data or another model; delete it, or "
                    "choose another --out"
                )
            self._begin(labels, keys, finished)

    def _finished_rows(self, begun: BankManifest) -> dict[str, int]:
        """Return key → row of what is finished of another extraction.

        Where that came from another source or model, under a key that no row has.
        """
        ours, theirs = ((m.contract, m.dtype, m.source_digest) for m in (self.manifest, begun))
        if begun.source_digest is None or ours != theirs:
            return {"\n": 0}
        keys = read_lines(self.partial / "keys.txt", BankError)
        return {keys[row]: row for chunk in self._chunks(begun.rows, done=True) for row in chunk}

    def _begin(self, labels: Rows | None, keys: list[str], finished: Mapping[str, int]) -> None:
        # whole or not there: after a full disk the same command can be run again
        with folder_written_whole(self.partial) as folder:
            (folder / "done").mkdir()
            if labels is not None:
                np.save(folder / "labels.npy", labels)
            write_lines(folder / "keys.txt", keys)
            path = folder / "features.npy"
            shape = (self.manifest.rows, self.manifest.dim)
            features = np.lib.format.open_memmap(path, "w+", self.manifest.dtype, shape)
            if hasattr(os, "posix_fallocate"):  # a full disk shows now and not in the middle
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, features.offset + features.nbytes)
            if finished:
                before = self._features()
                for chunk in pieces(range(len(keys)), CHUNK):
                    rows = [finished.get(keys[row], -1) for row in chunk]
                    if min(rows) >= 0:
                        features[chunk.start : chunk.stop] = before[rows]
                        _mark(folder, chunk).touch()
                features.flush()
            (folder / "plan.json").write_text(self.manifest.to_json(), encoding="utf-8")

    def _chunks(self, rows: int, done: bool) -> list[range]:
        """Return the chunks of `rows` rows that are done, or those that are not, in order."""
        whole = (self.partial / "manifest.json").exists()
        every = pieces(range(rows), CHUNK)
        return [c for c in every if (whole or _mark(self.partial, c).exists()) == done]

    def _features(self) -> np.memmap:
        path, dtype = self.partial / "features.npy", self.manifest.dtype
        return open_array(path, "features", BankError, (dtype,), ndim=2)

    def missing(self) -> list[range]:
        """Return the chunks of rows that are still to be written, in order."""
        return self._chunks(self.manifest.rows, done=False)

    def write(self, chunk: range, features: Float[np.ndarray, "n d"], keys: list[str]) -> None:
        """Write one chunk and mark it done.

        Raises:
            FeatureError: a feature is NaN, infinite or zero, or the bank's dtype cannot hold its
                direction.
        """
        rows = _stored(features, self.manifest.dtype, keys)
        path = self.partial / "features.npy"
        with disk_full_as_error(self.partial):
            offset = self._features().offset
            with path.open("r+b") as file:
                file.seek(offset + chunk.start * rows.shape[1] * rows.itemsize)
                file.write(rows.data)
            sync_file(path)
            _mark(self.partial, chunk).touch()
            sync_file(self.partial / "done")

    def finish(self) -> FeatureBank:
        """Give the bank its manifest and its name. Every chunk must be written."""
        if left := self.missing():
            raise BankError(f"{self.partial} still lacks {len(left)} chunks of {CHUNK} rows")
        if not (self.partial / "manifest.json").exists():
            write_atomically(self.partial / "manifest.json", self._sealed().to_json())
        # before the rename, so that none of them stays, whenever a kill falls
        shutil.rmtree(self.partial / "done", ignore_errors=True)
        (self.partial / "plan.json").unlink(missing_ok=True)
        self.partial.rename(self.path)
        sync_file(self.path.parent)
        return FeatureBank(self.path)

    def _sealed(self) -> BankManifest:
        """Return the manifest with the digests of the files and the norms of the rows."""
        names = ("features.npy", "labels.npy", "keys.txt")
        files = [self.partial / name for name in names if (self.partial / name).exists()]
        features = self._features()
        every = pieces(range(len(features)), CHUNK)
        norms = [norms_of(features[piece.start : piece.stop]) for piece in every]
        digests = {file.name: sha256_file(file) for file in files}
        ends = float(min(map(np.min, norms))), float(max(map(np.max, norms)))
        return self.manifest.model_copy(update={"digests": digests, "norms": ends})


def _mark(folder: Path, chunk: range) -> Path:
    """Return the file that says that a chunk is done."""
    return folder / "done" / f"{chunk.start // CHUNK:06d}"


def _stored(
    features: Float[np.ndarray, "n d"], dtype: str, names: Names
) -> Float[np.ndarray, "n d"]:
    """Return the rows as the bank holds them.

    Raises:
        FeatureError: see `BankWriter.write`.
    """
    with np.errstate(all="ignore"):
        given = np.asarray(features, dtype=np.float64)
        norms = norms_of(given)
        check_norms(norms, names)
        rows = np.ascontiguousarray(features, dtype=dtype)
        kept = rows.astype(np.float64)
        cosines = np.einsum("nd,nd->n", given, kept) / (norms * norms_of(kept))
    # false for NaN as well: what became zero or infinite
    lost = ~(cosines > 1 - _MOST_LOST)
    if lost.any():
        advice = "store them with --dtype float32" if dtype == "float16" else "scale them first"
        raise FeatureError(
            f"{int(lost.sum())} of {len(lost)} features are too small or too large for {dtype} "
            f"and would turn round ({named(lost, names)}; norms from {norms.min():.2g} to "
            f"{norms.max():.2g}): {advice}"
        )
    return rows
