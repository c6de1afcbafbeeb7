"""Writes are whole or not there, and a full disk is a named error."""

import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mixbct import files
from mixbct.errors import DiskFullError
from mixbct.files import (
    disk_full_as_error,
    file_written_whole,
    folder_written_whole,
    sha256_file,
    user_cache,
    write_atomically,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_write_atomically_takes_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "grüße")
    assert path.read_bytes() == "grüße".encode()
    write_atomically(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert names(path.parent) == ["a.txt"]


def test_an_exception_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write_half() -> None:
        with file_written_whole(path) as file:
            file.write(b"half of")
            file.flush()
            assert path.read_text() == "old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_at_the_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DiskFullError, match=f"no space left while writing {path}"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    folder = tmp_path / "folder"
    with pytest.raises(DiskFullError), folder_written_whole(folder) as partial:
        (partial / "x").write_text("x")
    assert names(tmp_path) == ["a"]


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_full_as_error(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(OSError, match="something else"), disk_full_as_error(tmp_path):
        raise OSError("something else")


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with folder_written_whole(path) as partial:
        (partial / "inner").mkdir()
        (partial / "inner" / "x").write_text("x")
        assert not path.exists()
    assert (path / "inner" / "x").read_text() == "x"
    assert names(path.parent) == ["folder"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")

    def write_half() -> None:
        with folder_written_whole(path) as partial:
            (partial / "new").write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]
    with folder_written_whole(path) as partial:
        (partial / "new").write_text("new")
        assert names(path) == ["old"]
    assert names(path) == ["new"]
    assert names(tmp_path) == ["folder"]


def test_what_a_killed_process_of_the_same_number_left_is_not_taken_up(tmp_path: Path) -> None:
    left = tmp_path / f".folder.{os.getpid()}.partial"
    left.mkdir()
    (left / "stale").write_text("stale")
    with folder_written_whole(tmp_path / "folder") as partial:
        (partial / "x").write_text("x")
    assert names(tmp_path / "folder") == ["x"]


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()


WRITERS = {
    "numpy": lambda folder: np.save(folder / "a.npy", np.zeros(100_000)),
    "numpy, large": lambda folder: np.save(folder / "a.npy", np.zeros(4_000_000)),
    "safetensors": lambda folder: save_file({"a": torch.zeros(100_000)}, folder / "a"),
    "python": lambda folder: (folder / "a").write_bytes(bytes(400_000)),
}

ON_A_TINY_DISK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
sys.path.insert(0, {here!r})
from test_files import WRITERS
from mixbct.errors import DiskFullError
from mixbct.files import folder_written_whole
disk = Path({disk!r})
for name, write in WRITERS.items():
    try:
        with folder_written_whole(disk / "folder") as folder:
            write(folder)
    except DiskFullError:
        assert not list(disk.iterdir()), name
    else:
        raise SystemExit(name + " wrote more than there is room for")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """NumPy and safetensors do not pass on the system's error number, yet it must be seen."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k t "$1" && shift && "$@"']
    try:
        tried = subprocess.run([*mount, "-", str(disk), "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if tried.returncode:
        pytest.skip("a small file system cannot be mounted here without root")
    program = ON_A_TINY_DISK.format(here=str(Path(__file__).parent), disk=str(disk))
    run = subprocess.run(
        [*mount, "-", str(disk), sys.executable, "-c", program], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from mixbct.files import file_written_whole, folder_written_whole
path = Path(sys.argv[1])
with file_written_whole(path / "file") as file, folder_written_whole(path / "folder") as folder:
    file.write(bytes(1000))
    file.flush()
    (folder / "half").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)])
    assert killed.returncode == -9
    others = [".file.txt", ".file.partial", ".other.0123456789abcdef.partial", "file.0.partial"]
    for name in others:
        (tmp_path / name).touch()
    assert len(names(tmp_path)) == 2 + len(others)
    write_atomically(tmp_path / "file", "new")
    with folder_written_whole(tmp_path / "folder") as folder:
        (folder / "x").touch()
    assert names(tmp_path) == sorted([*others, "file", "folder"])


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    with file_written_whole(tmp_path / "a") as first, folder_written_whole(tmp_path / "b") as one:
        first.write(b"first")
        write_atomically(tmp_path / "a", "second")
        with folder_written_whole(tmp_path / "b") as two:
            (two / "second").touch()
        (one / "first").touch()
        assert names(tmp_path / "b") == ["second"]
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"
    assert names(tmp_path / "b") == ["first"]
    assert names(tmp_path) == ["a", "b"]


def test_threads_do_not_lose_each_others_files(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        texts = [f"{i} " * 10_000 for i in range(64)]
        list(pool.map(lambda text: write_atomically(tmp_path / "a", text), texts))
    assert (tmp_path / "a").read_text(encoding="utf-8") in texts
    assert names(tmp_path) == ["a"]


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that cannot exchange two names in one step, as some network disks."""
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)


def replace_folder(path: Path) -> None:
    with folder_written_whole(path) as partial:
        (partial / "new").touch()


@pytest.mark.usefixtures("no_exchange")
def test_a_folder_is_replaced_where_names_cannot_be_exchanged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    replace_folder(tmp_path / "folder")
    assert names(tmp_path / "folder") == ["new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.usefixtures("no_exchange")
def test_a_second_rename_that_fails_loses_neither_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            replace_folder(tmp_path / "folder")
    assert names(tmp_path / "folder") == ["old"]
    assert names(tmp_path) == ["folder"]


KILLED_BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from mixbct import files
files._exchanged = lambda one, other: False
rename = Path.rename
def killing(self, target):
    if self.suffix == ".partial":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = killing
with files.folder_written_whole(Path(sys.argv[1])) as folder:
    (folder / "new").touch()
"""


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN_RENAMES, str(path)])
    assert killed.returncode == -9
    assert not path.exists()

    def write_half() -> None:
        with folder_written_whole(path):
            assert names(path) == ["old"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["folder"]


def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path: Path) -> None:
    """Linux exchanges the names in one step."""
    if sys.platform != "linux":
        pytest.skip("this system needs two steps")
    path = tmp_path / "folder"
    replace_folder(path)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [replace_folder(path) for _ in range(40)])
        while not writing.done():
            assert path.exists()
        writing.result()


def test_a_user_without_a_home_does_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    cache = user_cache()
    assert not cache.exists()
    with pytest.raises(OSError, match="set XDG_CACHE_HOME"):
        write_atomically(cache / "rows.npy", b"rows")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert user_cache() == Path("/cache/mixbct")
