from pathlib import Path

import numpy as np
import pytest

from mixbct.data import open_source
from mixbct.data.array import ArraySource, write_array
from mixbct.data.folder import FolderSource
from mixbct.data.info import info
from mixbct.errors import DataError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)


def test_folder_and_array_are_told_apart(tmp_path: Path, make_folder) -> None:
    folder = open_source(make_folder(tmp_path / "f", {"a": 2, "b": 3}), RGB8)
    assert isinstance(folder, FolderSource)
    write_array(
        tmp_path / "a",
        folder.read(np.arange(5)),
        folder.labels(),
        folder.classes(),
        folder.keys(),
        [],
        "t",
        {},
    )
    array = open_source(tmp_path / "a", RGB8)
    assert isinstance(array, ArraySource)
    assert array.keys() == folder.keys()


@pytest.mark.parametrize(("size", "channels"), [(9, 3), (8, 1)])
def test_an_array_of_another_shape_is_refused(tmp_path: Path, size: int, channels: int) -> None:
    write_array(
        tmp_path, np.zeros((1, 8, 8, 3), np.uint8), np.array([0]), ["a"], ["k"], [], "t", {}
    )
    with pytest.raises(DataError, match=f"size 8 with 3 channels, not size {size} with {channels}"):
        open_source(tmp_path, Preprocessing(size=size, channels=channels))


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*nowhere"):
        open_source(tmp_path / "nowhere", RGB8)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ('{"kind": "feature-bank"}', "holds a feature-bank, not images"),
        ("{}", "unknown kind"),
        ("[]", "unknown kind"),
        ("not JSON", "cannot be read"),
        ('{"kind": "image-array"}', "not a readable image array"),
    ],
)
def test_other_manifests_are_refused(tmp_path: Path, manifest: str, says: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=says):
        open_source(tmp_path, RGB8)


def test_info_counts(tmp_path: Path) -> None:
    write_array(
        tmp_path,
        np.zeros((7, 8, 8, 3), np.uint8),
        np.array([0, 2, 2, 3, 3, 3, 4]),
        list("abcde"),
        list("1234567"),
        ["x", "x", "y", "", "", "y", "y"],
        "t",
        {},
    )
    found = info(ArraySource(tmp_path))
    assert (found.images, found.classes) == (7, 4)
    assert (found.smallest_class, found.median_class, found.largest_class) == (1, 1.5, 3)
    assert found.single_image_classes == ("a", "e")
    assert found.empty_classes == ("b",)
    assert found.groups == {"x": 2, "y": 3}
