"""`mixbct data info`, `verify` and `split` on data with faults, and what follows from a split."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_files import faces, jpeg, part, payload, write
from typer.testing import CliRunner

from mixbct.cli.data import app
from mixbct.data import open_source
from mixbct.data.array import ArraySource, write_array
from mixbct.errors import BadImageError, DataError
from mixbct.schemas.model import Preprocessing
from mixbct.workflows.rows import open_rows

RGB8 = Preprocessing(size=8, channels=3)
Verb = Callable[..., Any]


@pytest.fixture
def data() -> Verb:
    """Return a function that runs `mixbct data` with words and returns what it printed."""

    def run(*words: str | Path) -> str:
        done = CliRunner().invoke(app, [str(word) for word in words])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def photos(folder: Path, make_folder: Verb) -> Path:
    """Five classes of four images, of which one cannot be read."""
    path = make_folder(folder / "photos", dict.fromkeys("abcde", 4))
    (path / "c/2.png").write_bytes(b"broken")
    return path


def test_a_split_looks_at_every_image_first(tmp_path: Path, make_folder: Verb, data: Verb) -> None:
    path, split = photos(tmp_path, make_folder), tmp_path / "split"
    words = ("split", path, "--out", split, "--test-classes", "2", "--old-share", "0.7")
    says = r"1 of 20 images .* cannot be read: c/2\.png; repair .*--skip-bad"
    with pytest.raises(BadImageError, match=says) as caught:
        data(*words)
    assert "\n" not in str(caught.value)
    assert not split.exists()
    assert "no image was looked at" in data(*words[:3], tmp_path / "u", *words[4:], "--unchecked")
    manifest = json.loads(data(*words, "--skip-bad", "--json"))
    assert manifest["skipped"] == ["c/2.png"]
    kept = set()
    for part_name in ("new_train", "query", "gallery"):
        plain, none = open_rows(path, RGB8, split, part_name)
        skipping, bad = open_rows(path, RGB8, split, part_name, skip_bad=True)
        assert plain.digest() == skipping.digest()
        assert none == bad == []
        kept |= set(plain.keys())
    assert kept == set(open_source(path).keys()) - {"c/2.png"}


def test_without_a_split_every_verb_leaves_the_same_rows_out(
    tmp_path: Path, make_folder: Verb
) -> None:
    path = photos(tmp_path, make_folder)
    found = [open_rows(path, Preprocessing(size=s, channels=1), skip_bad=True) for s in (8, 32)]
    assert [bad for _, bad in found] == [["c/2.png"]] * 2
    assert len({rows.digest() for rows, _ in found}) == 1


def test_damaged_records_stay_out_of_what_follows_a_split(tmp_path: Path, data: Verb) -> None:
    """Without the flag, which the split remembers, the source would not open."""
    path = tmp_path / "faces"
    records = {i: part(payload(float(i % 5), jpeg(i), i)) for i in range(20)}
    records[7] = b"oops" + records[7][4:]
    records[9] = part(payload(4.0, b"broken", 9))
    write(path, records)
    split = tmp_path / "split"
    words = ("split", path, "--out", split, "--test-classes", "2", "--old-share", "0.7")
    with pytest.raises(BadImageError, match=r"1 of 20 records .*\n.*key 7, .*\n.*--skip-bad"):
        data(*words)
    manifest = json.loads(data(*words, "--skip-bad", "--json"))
    assert "key 7" in manifest["skipped"][0]
    assert manifest["skipped"][1:] == ["9"]
    kept: set[str] = set()
    for name in ("new_train", "query", "gallery"):
        plain, _ = open_rows(path, RGB8, split, name)
        skipping, bad = open_rows(path, RGB8, split, name, skip_bad=True)
        assert plain.digest() == skipping.digest()
        assert plain.read(np.arange(len(plain))).shape[1:] == (8, 8, 3)
        assert [line for line in bad if "key 7" not in line] == []
        kept |= set(plain.keys())
    assert kept == {str(i) for i in range(20)} - {"7", "9"}


def test_a_changed_array_is_neither_verified_nor_split(tmp_path: Path, data: Verb) -> None:
    images = np.zeros((8, 8, 8, 1), np.uint8)
    keys = [str(i) for i in range(8)]
    path = tmp_path / "array"
    write_array(path, images, np.arange(8) // 2, list("abcd"), keys, [], "t", {})
    assert "all 8 images can be read" in data("verify", path)
    words = ("split", path, "--test-classes", "0", "--old-share", "0.5", "--out")
    data(*words, tmp_path / "before")
    images[5, 0, 0, 0] = 1
    np.save(path / "images.npy", images)
    for verb in (("verify", path), (*words, tmp_path / "after")):
        with pytest.raises(DataError, match="was changed after it was written"):
            data(*verb)
    assert not (tmp_path / "after").exists()
    assert isinstance(open_source(path), ArraySource)


def test_info_says_what_was_passed_over_and_that_nobody_looked(
    tmp_path: Path, make_folder: Verb, data: Verb, caplog: pytest.LogCaptureFixture
) -> None:
    path = photos(tmp_path, make_folder)
    for name in ("a/1.heic", "a/2.heic", "b/notes.txt"):
        (path / name).touch()
    said = data("info", path)
    passed = "3 files were passed over that are no images by their suffix: .heic 2, .txt 1"
    assert passed in caplog.text
    assert "no image was decoded: `data verify` and `data split` look at each" in said
    assert json.loads(data("info", path, "--json"))["passed_over"] == {".heic": 2, ".txt": 1}
    with pytest.raises(BadImageError, match=r"1 of 20 images cannot be read:\n  c/2\.png"):
        data("verify", path)
    faces(tmp_path / "faces", (3, 2), "insightface")
    assert "passed over" not in data("info", tmp_path / "faces")


@pytest.mark.parametrize("number", ["inf", "1.5", "0.0001", "7"])
def test_numbers_of_test_classes_that_cannot_be(
    tmp_path: Path, make_folder: Verb, data: Verb, number: str
) -> None:
    path = make_folder(tmp_path / "photos", dict.fromkeys("abcde", 4))
    with pytest.raises(DataError, match="test classes"):
        data("split", path, "--out", tmp_path / "split", "--test-classes", number)
