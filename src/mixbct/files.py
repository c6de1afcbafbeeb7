"""Writes that are whole or not there: a reader never sees half a file or half a folder.

What is being written stands beside its place, under a name of its own, and is held by a lock of
the system's (`flock`), which ends with its process however that ends. What nobody holds was left
by a kill, and the next write to the same place takes it away.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from mixbct.errors import DiskFullError, Error

_FULL = (errno.ENOSPC, errno.EDQUOT)
# NumPy and safetensors report a full disk without its number, in these words
_FULL_WORDS = (" requested and ", "Not enough free space to write", "No space left on device")
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def disk_full_as_error(path: Path) -> Iterator[None]:
    """Turn "no space left", whoever says it, into a `DiskFullError` that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = any(words in str(error) for words in _FULL_WORDS)
        if not told and getattr(error, "errno", None) not in _FULL:
            raise
        raise DiskFullError(
            f"no space left while writing {path}; free some space and run the same command "
            "again (what was finished before is intact)"
        ) from error


def user_cache() -> Path:
    """Return where what can be made anew is kept for this user, whatever the folder.

    Of a user without a home it is a place where nothing can be, whose name says what helps.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        cache = Path(os.devnull, "no home, set XDG_CACHE_HOME")
    return cache / "mixbct"


def refuse_existing(path: Path, error: Error) -> None:
    """Refuse to write where something is."""
    if path.exists():
        raise error(f"{path} is there already: choose another --out, or delete it")


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
    with _partial(path, Path.touch) as partial:
        with partial.open("wb") as file:
            yield file
        sync_file(partial)
        partial.replace(path)


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
    with _partial(path, Path.mkdir) as partial:
        yield partial
        for file in sorted(partial.rglob("*")):
            sync_file(file)
        sync_file(partial)
        if not path.exists():
            partial.rename(path)
        elif not _exchanged(partial, path):
            # no single step does it here: a kill in between leaves the old folder aside, and
            # `sweep` brings it back
            aside = partial.with_suffix(".old")
            path.rename(aside)
            try:
                partial.rename(path)
            except BaseException:
                aside.rename(path)
                raise
            _delete(aside)


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _partial(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Yield what `make` made beside `path`, locked; what is left of it at the end is deleted."""
    with disk_full_as_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        while True:
            partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
            make(partial)
            lock = _lock(partial, wait=True)
            if partial.exists():  # and was not swept before it was locked
                break
        try:
            yield partial
            sync_file(path.parent)
        finally:
            _delete(partial)
            if lock is not None:
                os.close(lock)


def sweep(path: Path) -> None:
    """Take away what killed writers of `path` left; a folder that one put aside comes back."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]+\.(partial|old)")
    for left in [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]:
        lock = _lock(left)
        if lock is not None:
            if left.suffix == ".old" and not path.exists():
                left.rename(path)
            else:
                _delete(left)
            os.close(lock)


def _lock(path: Path, wait: bool = False) -> int | None:
    """Return a descriptor that holds the lock of `path`; None where another has it, or none can."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the disk cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    names = [os.fsencode(path) for path in (one, other)]
    return call is not None and call(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
