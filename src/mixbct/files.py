"""Writes that are whole or not there: a reader never sees half a file or half a folder."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from mixbct.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# NumPy and safetensors report a full disk without its number, in these words
_FULL_WORDS = (" requested and ", "Not enough free space to write", "No space left on device")


@contextlib.contextmanager
def disk_full_as_error(path: Path) -> Iterator[None]:
    """Turn "no space left", whoever says it, into a `DiskFullError` that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in _FULL and not any(
            words in str(error) for words in _FULL_WORDS
        ):
            raise
        raise DiskFullError(
            f"no space left while writing {path}; free some space and run the same command "
            "again (what was finished before is intact)"
        ) from error


def sync_file(path: Path) -> None:
    """Flush one file, or one folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def file_written_whole(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write; on success it takes the name `path`, on an error nothing stays."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_as_error(path):
        try:
            with partial.open("wb") as file:
                yield file
            sync_file(partial)
            partial.replace(path)
            sync_file(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` so that `path` holds either the old or the new content."""
    with file_written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; on success it takes the name `path`.

    A folder that already has that name is replaced, after the new one is complete. On an
    error nothing of the new folder stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with disk_full_as_error(path):
            partial.mkdir()
            yield partial
            for file in sorted(partial.rglob("*")):
                sync_file(file)
            sync_file(partial)
            if path.exists():
                aside = path.with_name(f".{path.name}.{os.getpid()}.old")
                path.rename(aside)
                partial.rename(path)
                shutil.rmtree(aside)
            else:
                partial.rename(path)
            sync_file(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
