"""The feature bank: embeddings with labels, keys and a manifest, memory-mapped.

A folder with

    manifest.json   contract, data digest, counts, class names (`BankManifest`)
    features.npy    [N, D] float16 or float32, raw outputs; whoever reads normalises
    labels.npy      [N] int64, indices into the manifest's classes
    keys.txt        one key a line
    credible.npy    [N] bool, once denoised, with credible.json

While it is being written the folder is called NAME.partial and has one done-mark a chunk; the
finished folder gets its name by a rename. A folder without `manifest.json` is not a bank.
"""

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from pydantic import Field

from mixbct.data.source import Rows, read_lines, write_lines
from mixbct.errors import BankError, FeatureError
from mixbct.files import disk_full_as_error, folder_written_whole, sync_file, write_atomically
from mixbct.schemas.data import BankManifest
from mixbct.schemas.record import SCHEMA_VERSION, Record, read_record

CHUNK = 8192


class DenoiseManifest(Record):
    """`credible.json` in a feature bank: how `credible.npy` came about."""

    schema_version: Literal[1] = SCHEMA_VERSION
    keep: float = Field(gt=0, le=1)
    normalise_columns: bool
    credible: int
    rows: int


Names = Sequence[str] | Sequence[int] | Rows
"""What to call rows in errors: keys, or row numbers."""


def normalise(
    features: Float[np.ndarray, "n d"], names: Names | None = None
) -> Float32[np.ndarray, "n d"]:
    """Return the rows with Euclidean norm 1, as float32.

    Args:
        features: of any float type.
        names: what errors call the rows; their numbers from 0 where not given.

    Raises:
        FeatureError: a row holds NaN or infinity, or is zero; it names the first of them.
    """
    # torch converts float16 ten times as fast as NumPy; the copy is there since it may not see
    # memory that is read-only
    rows: np.ndarray = torch.from_numpy(np.array(features)).float().numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        # summed as float64, so that processors that add in another order agree on the float32
        norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64)).astype(np.float32)
    check_norms(norms, names)
    rows /= norms[:, None]
    return rows


def check_norms(norms: Float32[np.ndarray, " n"], names: Names | None = None) -> None:
    """Refuse features that cannot be normalised, judged by their Euclidean norms.

    Raises:
        FeatureError: a norm is NaN, infinite, or zero; it names the first of them.
    """
    _refuse(~np.isfinite(norms), "NaN or infinity in", names)
    _refuse(norms == 0, "zero vectors:", names)


def _refuse(bad: Bool[np.ndarray, " n"], what: str, names: Names | None) -> None:
    count = int(bad.sum())
    if count:
        called = [i if names is None else names[i] for i in np.flatnonzero(bad)[:5]]
        first = ", ".join(c if isinstance(c, str) else f"row {c}" for c in called)
        raise FeatureError(
            f"{what} {count} of {len(bad)} features ({first}{', …' if count > 5 else ''}); "
            "they cannot be compared: look at those images and at the model that embedded them"
        )


class FeatureBank:
    """A finished bank, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "manifest.json").exists():
            partial = partial_path(path)
            unfinished = (
                f"; {partial} is an unfinished one: run the same extraction with --resume"
                if partial.exists()
                else "; make one with `mixbct extract`"
            )
            raise BankError(f"there is no feature bank at {path}{unfinished}")
        self.manifest = read_record(path / "manifest.json", BankManifest, BankError, "manifest")
        try:
            self.features: np.ndarray = np.load(path / "features.npy", mmap_mode="r")
            self.labels: np.ndarray = np.load(path / "labels.npy")
        except (OSError, ValueError, EOFError) as error:
            raise BankError(f"the feature bank {path} is damaged: {error}") from error
        shape = (self.manifest.rows, self.manifest.dim)
        if self.features.shape != shape or self.labels.shape != shape[:1]:
            raise BankError(
                f"the feature bank {path} is damaged: its manifest says {shape}, its features "
                f"are {self.features.shape} and its labels {self.labels.shape}"
            )
        if self.features.dtype != np.dtype(self.manifest.dtype) or self.labels.dtype != np.int64:
            raise BankError(
                f"the feature bank {path} is damaged: features {self.features.dtype}, "
                f"labels {self.labels.dtype}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.manifest.classes):
            raise BankError(
                f"the feature bank {path} is damaged: labels {self.labels.min()} to "
                f"{self.labels.max()}, but {len(self.manifest.classes)} classes"
            )

    def __len__(self) -> int:
        return self.manifest.rows

    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; `labels` point into it."""
        return self.manifest.classes

    def keys(self) -> list[str]:
        """Return the key of every row."""
        try:
            keys = read_lines(self.path / "keys.txt")
        except (OSError, UnicodeDecodeError) as error:
            raise BankError(f"the feature bank {self.path} is damaged: {error}") from error
        if len(keys) != len(self):
            raise BankError(
                f"the feature bank {self.path} is damaged: {len(keys)} keys for {len(self)} rows"
            )
        return keys

    def read(self, rows: Rows) -> Float32[np.ndarray, "n d"]:
        """Return the features of `rows`, normalised."""
        try:
            return normalise(self.features[rows], rows)
        except FeatureError as error:
            raise FeatureError(f"the feature bank {self.path}: {error}") from error

    def all(self) -> Float32[np.ndarray, "n d"]:
        """Return every feature, normalised, in memory."""
        return normalise(self.features, self.keys())

    def credible(self) -> Bool[np.ndarray, " n"] | None:
        """Return which rows denoising kept, or None where the bank was not denoised."""
        record, path = self.path / "credible.json", self.path / "credible.npy"
        if not record.exists():
            return None
        read_record(record, DenoiseManifest, BankError, "denoising record")
        again = f"run `mixbct denoise {self.path}` again"
        try:
            credible: np.ndarray = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise BankError(f"{path} is damaged: {error}; {again}") from error
        if credible.shape != self.labels.shape or credible.dtype != np.bool_:
            raise BankError(f"{path} does not fit its bank; {again}")
        return credible

    def save_credible(
        self, credible: Bool[np.ndarray, " n"], keep: float, normalise_columns: bool
    ) -> DenoiseManifest:
        """Record which rows are credible, and how that was decided."""
        record = DenoiseManifest(
            keep=keep,
            normalise_columns=normalise_columns,
            credible=int(credible.sum()),
            rows=len(credible),
        )
        # the record first goes, last comes: credible.npy without it does not count
        (self.path / "credible.json").unlink(missing_ok=True)
        content = io.BytesIO()
        np.save(content, credible)
        write_atomically(self.path / "credible.npy", content.getvalue())
        write_atomically(self.path / "credible.json", record.to_json())
        return record


def partial_path(path: Path) -> Path:
    """Return where a bank is written until it is whole."""
    return path.with_name(f"{path.name}.partial")


def _reserve(descriptor: int, size: int) -> None:
    """Reserve `size` bytes, so that a full disk shows now and not in the middle."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


class BankWriter:
    """Writes a bank chunk by chunk; chunks that were finished before are known and kept.

    Args:
        path: where the finished bank will be.
        manifest: what it will hold. A partial bank with another manifest is refused.
        labels: [N] int64.
        keys: N names.
        resume: go on with a partial bank; without it one that is there is an error.

    Raises:
        BankError: a bank, or (without `resume`) a partial one, is already there, or the
            partial one came from other data or another model.
        DiskFullError: the whole size is reserved up front, so that this shows at once.
    """

    def __init__(
        self, path: Path, manifest: BankManifest, labels: Rows, keys: list[str], resume: bool
    ) -> None:
        self.path = path
        self.partial = partial_path(path)
        self.manifest = manifest
        if path.exists():
            raise BankError(f"{path} is already there; choose another --out, or delete it")
        if self.partial.exists() and not resume:
            raise BankError(
                f"{self.partial} is an unfinished extraction: add --resume to go on with it, or "
                "delete it"
            )
        plan = self.partial / "plan.json"
        if self.partial.exists() and plan.exists():
            begun = read_record(plan, BankManifest, BankError, "plan")
            if begun.model_dump(exclude={"created"}) != manifest.model_dump(exclude={"created"}):
                raise BankError(
                    f"{self.partial} was begun with other data or another model; delete it, or "
                    "choose another --out"
                )
        else:
            self._begin(labels, keys)

    def _begin(self, labels: Rows, keys: list[str]) -> None:
        # whole or not there: after a full disk the same command can be run again
        with folder_written_whole(self.partial) as folder:
            (folder / "done").mkdir()
            np.save(folder / "labels.npy", labels)
            write_lines(folder / "keys.txt", keys)
            shape = (self.manifest.rows, self.manifest.dim)
            dtype = np.dtype(self.manifest.dtype)
            with (folder / "features.npy").open("wb") as file:
                header = {
                    "descr": np.lib.format.dtype_to_descr(dtype),
                    "fortran_order": False,
                    "shape": shape,
                }
                np.lib.format.write_array_header_1_0(file, header)
                _reserve(file.fileno(), file.tell() + shape[0] * shape[1] * dtype.itemsize)
            (folder / "plan.json").write_text(self.manifest.to_json(), encoding="utf-8")

    def missing(self) -> list[range]:
        """Return the chunks of rows that are still to be written, in order."""
        done = {int(mark.name) for mark in (self.partial / "done").iterdir()}
        rows = self.manifest.rows
        starts = range(0, rows, CHUNK)
        return [range(s, min(s + CHUNK, rows)) for i, s in enumerate(starts) if i not in done]

    def write(self, chunk: range, features: Float[np.ndarray, "n d"], keys: list[str]) -> None:
        """Write one chunk and mark it done.

        Raises:
            FeatureError: a feature is NaN, infinite in the bank's dtype, or zero.
        """
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(features, dtype=self.manifest.dtype)
        normalise(rows, keys)
        with disk_full_as_error(self.partial):
            with (self.partial / "features.npy").open("r+b") as file:
                np.lib.format.read_magic(file)
                np.lib.format.read_array_header_1_0(file)
                file.seek(chunk.start * rows.shape[1] * rows.itemsize, 1)
                file.write(rows.data)
            sync_file(self.partial / "features.npy")
            (self.partial / "done" / f"{chunk.start // CHUNK:06d}").touch()
            sync_file(self.partial / "done")

    def finish(self) -> FeatureBank:
        """Give the bank its manifest and its name. Every chunk must be written."""
        left = self.missing()
        if left:
            raise BankError(f"{self.partial} still lacks {len(left)} chunks of {CHUNK} rows")
        write_atomically(self.partial / "manifest.json", self.manifest.to_json())
        self.partial.rename(self.path)
        sync_file(self.path.parent)
        shutil.rmtree(self.path / "done")
        (self.path / "plan.json").unlink()
        return FeatureBank(self.path)
