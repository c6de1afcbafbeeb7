from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixbct.data.array import ArraySource, write_array
from mixbct.errors import DataError
from mixbct.schemas.data import ArrayManifest


def write(path: Path, **changes: Any) -> ArrayManifest:
    parts: dict[str, Any] = {
        "images": np.arange(4 * 2 * 2, dtype=np.uint8).reshape(4, 2, 2, 1),
        "labels": np.array([0, 2, 2, 0]),
        "classes": ("a", "b", "c"),
        "keys": ["字/p", "c/q", "c/r", "a/s"],
        "groups": ["y", "x", "", "y"],
        "name": "tiny",
        "origin": {"made": "by hand"},
    }
    return write_array(path, **{**parts, **changes})


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    manifest = write(tmp_path / "a")
    source = ArraySource(tmp_path / "a")
    assert source.manifest == manifest
    assert source.manifest.origin == {"made": "by hand"}
    assert source.labels().tolist() == [0, 2, 2, 0]
    assert source.classes() == ("a", "b", "c")
    assert source.keys() == ["字/p", "c/q", "c/r", "a/s"]
    assert source.groups() == ["y", "x", "", "y"]
    assert source.read(np.array([3]))[0, :, :, 0].tolist() == [[12, 13], [14, 15]]


@pytest.mark.parametrize("groups", [[], ["", "", "", ""]])
def test_without_groups(tmp_path: Path, groups: list[str]) -> None:
    assert write(tmp_path / "a", groups=groups).groups == ()
    assert ArraySource(tmp_path / "a").groups() == [""] * 4
    assert not (tmp_path / "a" / "groups.npy").exists()


def test_images_are_memory_mapped(tmp_path: Path) -> None:
    write(tmp_path / "a")
    source = ArraySource(tmp_path / "a")
    with (tmp_path / "a" / "images.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert source.read(np.array([3]))[0, 1, 1, 0] == 255


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": np.array([0, 1, 2, 3])}, "3 classes"),
        ({"labels": np.array([0, 1, 2, -1])}, "3 classes"),
        ({"keys": ["p", "q", "p", "s"]}, "1 keys of 'tiny' occur more than once"),
        ({"keys": ["p"]}, "1 keys"),
        ({"groups": ["x"]}, "1 groups"),
        ({"keys": ["p", "q", "r", "s\n"]}, "line break"),
        ({"images": np.zeros((4, 2, 3, 1), np.uint8)}, "2 × 3 × 1"),
        ({"images": np.zeros((4, 2, 2, 4), np.uint8)}, "2 × 2 × 4"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_leave_nothing(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        write(tmp_path / "a", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.npy", np.zeros((3, 2, 2, 1), np.uint8)),
        ("images.npy", np.zeros((4, 2, 2, 1), np.float32)),
        ("labels.npy", np.zeros(4, np.int32)),
        ("labels.npy", np.array([0, 1, 2, 3])),
        ("groups.npy", np.array([0, -1, 0, 0])),
    ],
)
def test_files_that_do_not_fit_the_manifest_are_refused(
    tmp_path: Path, name: str, content: np.ndarray
) -> None:
    write(tmp_path / "a")
    np.save(tmp_path / "a" / name, content)
    with pytest.raises(DataError, match=f"damaged: {name}"):
        ArraySource(tmp_path / "a")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "groups.npy", "keys.txt"])
@pytest.mark.parametrize("keep", [None, 0, 7])
def test_missing_and_truncated_files_are_refused(
    tmp_path: Path, name: str, keep: int | None
) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="damaged"):
        ArraySource(tmp_path / "a")


def test_no_array_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image array"):
        ArraySource(tmp_path)
