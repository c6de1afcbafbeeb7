import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_mutations import mutate

from mixbct.data import open_source
from mixbct.data.array import ArraySource, write_array
from mixbct.data.info import info
from mixbct.errors import DataError, MixbctError
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
        ({"keys": ["p", "q", "p", "s"]}, r"4 keys \(3 different\)"),
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
    with pytest.raises(DataError, match=name):
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
    with pytest.raises(DataError, match=rf"{name}|4 images, \d different keys"):
        ArraySource(tmp_path / "a")


def test_no_array_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image array"):
        ArraySource(tmp_path)


def test_a_manifest_without_a_digest_of_groups_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    write(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert len(content.pop("groups_digest")) == 64
    path.write_text(json.dumps(content), encoding="utf-8")
    ArraySource(tmp_path / "a").verify()
    write(tmp_path / "b", groups=[])
    assert "groups_digest" not in (tmp_path / "b/manifest.json").read_text(encoding="utf-8")
    ArraySource(tmp_path / "b").verify()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("images.npy", np.full((4, 2, 2, 1), 5, np.uint8), "another content_digest;"),
        ("labels.npy", np.array([0, 2, 2, 2]), "another content_digest;"),
        ("groups.npy", np.array([1, 1, 0, 2]), "another groups_digest;"),
        ("keys.txt", "字/p\nc/q\nc/r\na/t\n", "content_digest and groups_digest"),
    ],
)
def test_what_was_changed_is_not_verified(
    tmp_path: Path, name: str, content: np.ndarray | str, says: str
) -> None:
    write(tmp_path / "a")
    ArraySource(tmp_path / "a").verify()
    if isinstance(content, str):
        (tmp_path / "a" / name).write_text(content, encoding="utf-8")
    else:
        np.save(tmp_path / "a" / name, content)
    with pytest.raises(DataError, match=says):
        ArraySource(tmp_path / "a").verify()


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 10**15},
        {"images": 0},
        {"images": -4},
        {"size": 2**40},
        {"classes": ["a", "b", "a"]},
        {"groups": ["x"]},
    ],
)
def test_a_manifest_that_lies_takes_no_memory(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}))
    with pytest.raises(DataError, match=r"images|image array|for \d names"):
        ArraySource(tmp_path / "a")


@pytest.mark.parametrize("name", ["manifest.json", "images.npy", "labels.npy", "keys.txt"])
def test_pipes_folders_and_archives_in_the_place_of_files(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=name):
        open_source(tmp_path / "a")
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=name):
        open_source(tmp_path / "a")
    path.rmdir()
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(4))
    with pytest.raises(DataError, match=name):
        open_source(tmp_path / "a")


def test_a_manifest_nested_without_end_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "name", ["manifest.json", "images.npy", "labels.npy", "groups.npy", "keys.txt"]
)
def test_mutated_arrays_are_read_or_refused_by_name(tmp_path: Path, name: str) -> None:
    """What passes `verify` is what was written."""
    write(tmp_path / "a")
    path = tmp_path / "a" / name
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    read = verified = 0
    for _ in range(100):
        path.write_bytes(mutate(whole, rng))
        with contextlib.suppress(MixbctError):
            source = open_source(tmp_path / "a")
            assert isinstance(source, ArraySource)
            pixels = source.read(np.arange(4))
            info(source)
            read += 1
            source.verify()
            verified += 1
            assert pixels.tolist() == np.arange(16).reshape(4, 2, 2, 1).tolist()
            assert [source.classes()[i] for i in source.labels()] == ["a", "c", "c", "a"]
            assert source.keys() == ["字/p", "c/q", "c/r", "a/s"]
            if source.manifest.groups_digest:
                assert source.groups() == ["y", "x", "", "y"]
    assert verified <= read < 100
