from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from record_files import faces, jpeg, part, payload, write

from mixbct.data import open_source
from mixbct.data.array import ArraySource, write_array
from mixbct.data.convert import convert
from mixbct.data.folder import FolderSource
from mixbct.data.records import RecordSource
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)


def photos(folder: Path) -> Path:
    for name in ("Ann", "Bo B", "字"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            (folder / name / f"{i}.jpg").write_bytes(jpeg(i))
    rng = np.random.default_rng(0)
    for suffix in ("png", "bmp", "webp"):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "Ann" / f"x.{suffix}", lossless=True)
    return folder


def test_there_and_back(tmp_path: Path) -> None:
    folder = FolderSource(photos(tmp_path / "p"), RGB8)
    ticks: list[tuple[int, int]] = []
    done = convert(folder, tmp_path / "r", progress=lambda *at: ticks.append(at))
    assert (done.images, done.classes, done.skipped) == (9, 3, ())
    assert ticks[-1] == (9, 9)
    records = open_source(tmp_path / "r", RGB8)
    assert isinstance(records, RecordSource)
    assert records.keys() == [str(i) for i in range(1, 10)]
    assert records.classes() == folder.classes()
    rows = np.arange(9)
    np.testing.assert_array_equal(records.labels(), folder.labels())
    np.testing.assert_array_equal(records.read(rows), folder.read(rows))
    for row, key in enumerate(folder.keys()):
        same = records.encoded(row) == (folder.path / key).read_bytes()
        assert same == key.endswith(("jpg", "png"))
    convert(records, tmp_path / "back")
    back = FolderSource(tmp_path / "back", RGB8)
    assert back.classes() == folder.classes()
    np.testing.assert_array_equal(back.read(rows), folder.read(rows))
    assert back.keys()[0] == "Ann/1.jpg"
    convert(back, tmp_path / "again")
    rec = [(tmp_path / name / "train.rec").read_bytes() for name in ("r", "again")]
    assert rec[0] == rec[1]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_array_becomes_png_without_loss(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, channels), dtype=np.uint8)
    write_array(
        tmp_path / "a", pixels, np.array([1, 0, 1]), ["x", "y"], ["a", "b", "c"], [], "t", {}
    )
    convert(ArraySource(tmp_path / "a"), tmp_path / "r")
    records = RecordSource(tmp_path / "r", Preprocessing(size=8, channels=channels))
    np.testing.assert_array_equal(records.read(np.arange(3)), pixels)
    assert records.labels().tolist() == [1, 0, 1]


def test_keys_of_one_length_keep_the_order(tmp_path: Path) -> None:
    source = RecordSource(faces(tmp_path / "r", (12, 1)), RGB8)
    convert(source, tmp_path / "f")
    names = sorted(path.name for path in (tmp_path / "f/0").iterdir())
    assert names == [f"{i:02d}.jpg" for i in range(1, 13)]


def test_bad_images_stop_it_or_are_skipped(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p")
    (folder / "Ann/x.bmp").write_bytes(b"BM no bitmap")
    source = FolderSource(folder, RGB8)
    with pytest.raises(BadImageError, match=r"Ann/x\.bmp"):
        convert(source, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    done = convert(source, tmp_path / "r", skip_bad=True)
    assert (done.images, done.skipped) == (8, ("Ann/x.bmp",))
    assert len(RecordSource(tmp_path / "r", RGB8)) == 8
    write(tmp_path / "bad", {0: part(payload(0, b"no image"))})
    with pytest.raises(DataError, match="none of the 1 images"):
        convert(RecordSource(tmp_path / "bad", RGB8), tmp_path / "x", skip_bad=True)


@pytest.mark.parametrize("name", ["佐藤\u3000花", "a\u00a0b", "9\u202fpm", "👩\u200d🔬"])
def test_blanks_and_joiners_of_all_kinds_may_be_in_class_names(tmp_path: Path, name: str) -> None:
    faces(tmp_path / "r", (2, 1))
    (tmp_path / "r/train.classes.txt").write_text(f"{name}\nb\n", encoding="utf-8")
    convert(RecordSource(tmp_path / "r", RGB8), tmp_path / "f")
    assert sorted(p.name for p in (tmp_path / "f" / name).iterdir()) == ["1.jpg", "2.jpg"]


def test_the_keys_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "p")
    for i in range(20):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / "Ann" / f"{i}.bmp")
    listed = []
    keys = FolderSource.keys
    monkeypatch.setattr(FolderSource, "keys", lambda self: listed.append(1) or keys(self))
    convert(FolderSource(folder, RGB8), tmp_path / "r")
    assert len(listed) < 5


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a\tb", "x" * 300])
def test_class_names_do_not_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    faces(tmp_path / "r", (1, 1))
    (tmp_path / "r/train.classes.txt").write_text(f"{name}\nfine\n")
    with pytest.raises(DataError, match="cannot be a folder's"):
        convert(RecordSource(tmp_path / "r", RGB8), tmp_path / "f")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(DataError, match="there already"):
        convert(RecordSource(faces(tmp_path / "r"), RGB8), tmp_path / "f")
