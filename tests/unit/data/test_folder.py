import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.data.folder import FolderSource
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)


def test_sorted_classes_files_and_any_case_of_suffix(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    for key in ("b/2.JPG", "b/10.jpeg", "B/x.Png", "a/1.bmp", "a/0.WebP"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        image.save(tmp_path / key)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / ".hidden.jpg").write_text("not an image")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "README.md").write_text("not an image")
    source = FolderSource(tmp_path, RGB8)
    assert source.classes() == ("B", "a", "b")
    assert source.keys() == ["B/x.Png", "a/0.WebP", "a/1.bmp", "b/10.jpeg", "b/2.JPG"]
    assert source.labels().tolist() == [0, 1, 1, 2, 2]
    assert source.groups() == [""] * 5
    assert source.read(np.arange(5)).shape == (5, 8, 8, 3)


def test_every_bad_image_of_a_batch_is_counted_and_named(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 4, "b": 4})
    (path / "a" / "2.png").write_bytes(b"broken")
    (path / "b" / "0.png").write_bytes((path / "b" / "0.png").read_bytes()[:60])
    (path / "b" / "3.png").unlink()
    (path / "b" / "3.png").symlink_to(path / "nowhere.png")
    source = FolderSource(path, RGB8)
    with pytest.raises(BadImageError, match="3 of 9 images cannot be read") as caught:
        source.read(np.array([0, 1, 2, 3, 4, 5, 6, 7, 2]))
    assert caught.value.keys == ["a/2.png", "b/0.png", "b/3.png"]
    for key in caught.value.keys:
        assert key in str(caught.value)
    assert "--skip-bad" in str(caught.value)
    assert len(source.read(np.array([0, 1, 3]))) == 3


def test_a_class_with_one_image_is_allowed(tmp_path: Path, make_folder) -> None:
    source = FolderSource(make_folder(tmp_path / "s", {"a": 1, "b": 2}), RGB8)
    assert source.labels().tolist() == [0, 1, 1]


def test_empty_classes_are_named(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 1, "b": 0, "c": 0})
    (path / "c" / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"2 of 3 class folders have no image: b, c"):
        FolderSource(path, RGB8)


def test_images_outside_class_folders_are_refused(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 1})
    Image.new("RGB", (8, 8)).save(path / "loose.jpg")
    with pytest.raises(DataError, match=r"1 images lie outside.*loose\.jpg.*CLASS/1\.jpg"):
        FolderSource(path, RGB8)


def test_folders_inside_class_folders_are_refused(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 1, "a/deeper": 1})
    with pytest.raises(DataError, match=r"folders in it \(deeper\)"):
        FolderSource(path, RGB8)


def test_a_folder_without_class_folders_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folder; expected one folder a class"):
        FolderSource(tmp_path, RGB8)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "missing"):
        with pytest.raises(DataError, match="not a readable folder"):
            FolderSource(path, RGB8)


@pytest.mark.parametrize("name", [b"bad\xff", b"line\nbreak"])
def test_names_that_are_not_text_are_refused(tmp_path: Path, name: bytes) -> None:
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)  # noqa: PTH102
    except OSError:
        pytest.skip("this file system refuses the name itself")
    with pytest.raises(DataError, match="not printable UTF-8"):
        FolderSource(tmp_path, RGB8)
