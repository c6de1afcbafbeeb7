import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.data import open_source
from mixbct.data.folder import FolderSource
from mixbct.data.info import info
from mixbct.data.source import read_lines, write_lines
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


@pytest.mark.parametrize("name", [b"bad\xff", b"line\nbreak", b"line\rbreak"])
@pytest.mark.parametrize("place", ["class", "image", "note"])
def test_names_that_are_no_line_of_text_are_refused_where_they_are_used(
    tmp_path: Path, make_folder, name: bytes, place: str
) -> None:
    make_folder(tmp_path / "s", {"a": 1, "b": 1})
    folder = os.fsencode(tmp_path / "s" / ("" if place == "class" else "a"))
    path = folder + b"/" + name + {"class": b"", "image": b".png", "note": b".txt"}[place]
    try:
        if place == "class":
            os.mkdir(path)  # noqa: PTH102
        else:
            os.close(os.open(path, os.O_CREAT))
    except OSError:
        pytest.skip("this file system refuses the name itself")
    if place == "note":
        assert len(FolderSource(tmp_path / "s", RGB8)) == 2
        return
    with pytest.raises(DataError, match=r"\\(udcff|n|r).* holds a line break, .* rename it"):
        FolderSource(tmp_path / "s", RGB8)


@pytest.mark.parametrize(
    "name",
    [
        "no-break\u00a0space",
        "Screenshot 2024-01-01 at 9.41.00\u202fAM",
        "山田\u3000太郎",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "next\u0085line",
        "line\u2028separator",
        "عربي\u200f",
        "tab\tstop",
        " blanks ",
    ],
)
def test_ordinary_names_are_taken_as_they_are(tmp_path: Path, make_folder, name: str) -> None:
    path = make_folder(tmp_path / "s", {name: 2, "b": 1})
    (path / name / "1.png").rename(path / name / f"{name}.png")
    (path / name / "Icon\r").touch()
    source = FolderSource(path, RGB8)
    assert {f"{name}/0.png", f"{name}/{name}.png"} < set(source.keys())
    assert source.read(np.arange(3)).shape == (3, 8, 8, 3)
    write_lines(tmp_path / "keys.txt", source.keys())
    assert read_lines(tmp_path / "keys.txt") == source.keys()


def test_other_suffixes_are_counted_and_named(
    tmp_path: Path, make_folder, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_folder(tmp_path / "s", {"a": 1, "b": 1})
    (path / "a/0.png").rename(path / "a/0.JFIF")
    for name in ("a/1.gif", "a/2.GIF", "b/3.tif", "b/4.heic", "README", ".hidden"):
        (path / name).touch()
    source = FolderSource(path, RGB8)
    assert source.keys() == ["a/0.JFIF", "b/0.png"]
    assert source.passed_over == {".gif": 2, ".tif": 1, ".heic": 1, "no suffix": 1}
    for _ in range(3):
        opened = open_source(path, RGB8)
    said = "5 files were passed over that are no images by their suffix: .gif 2, "
    assert [said in record.getMessage() for record in caplog.records] == [True]
    assert caplog.records[0].getMessage().startswith(f"{opened}: ")
    found = info(opened)
    assert found.passed_over == source.passed_over
    (path / "b/0.png").unlink()
    with pytest.raises(DataError, match=r"1 of 2 class folders have no image: b;"):
        FolderSource(path, RGB8)


def test_odd_things_in_a_class_folder_never_stop_or_hang(tmp_path: Path, make_folder) -> None:
    path = make_folder(tmp_path / "s", {"a": 1, "b": 1})
    (path / "a/loop").symlink_to("loop")
    (path / "a/loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(path / "b/pipe.png")
    (path / "b/empty.webp").touch()
    (path / "loop").symlink_to("loop")
    source = FolderSource(path, RGB8)
    assert source.keys() == ["a/0.png", "a/loop.jpg", "b/0.png", "b/empty.webp", "b/pipe.png"]
    assert len(source.digest()) == 64
    with pytest.raises(BadImageError) as caught:
        source.read(np.arange(5))
    assert caught.value.keys == ["a/loop.jpg", "b/empty.webp", "b/pipe.png"]
    for says in ("symbolic links", "empty.webp is not a readable image: it is empty", "regular"):
        assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["loop", "long", "pipe", "file", "missing"])
def test_a_path_that_holds_no_data_is_a_named_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / ("x" * 5000 if kind == "long" else kind)
    with pytest.raises(DataError) as caught:
        open_source(path, RGB8)
    assert len(str(caught.value)) < 600
    with pytest.raises(DataError):
        FolderSource(path, RGB8)
