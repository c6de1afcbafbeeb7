"""What opening a record file found is kept, and never outlives the files that it was found in."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from record_files import faces, jpeg, part, payload, write

from mixbct.data import records
from mixbct.data.recordio import RecordFile
from mixbct.data.records import RecordSource
from mixbct.errors import RecordError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(records, "SETTLED", -1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def never(*_: object) -> None:
    raise AssertionError("the records were looked at")


@pytest.mark.parametrize("index", [True, False])
def test_a_second_opening_looks_at_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: bool
) -> None:
    folder = faces(tmp_path / "faces", (3, 1, 2))
    if not index:
        (folder / "train.idx").unlink()
    first = RecordSource(folder, RGB8)
    monkeypatch.setattr(RecordFile, "labels", never)
    monkeypatch.setattr(RecordFile, "scan", never)
    for skip_bad in (False, True):
        again = RecordSource(folder, RGB8, skip_bad=skip_bad)
        assert again.digest() == first.digest()
        assert (again.keys(), again.classes()) == (first.keys(), first.classes())
        rows = np.array([4, 0])
        np.testing.assert_array_equal(again.read(rows), first.read(rows))


def test_an_edit_of_one_label_is_seen_even_where_times_are_set_back(tmp_path: Path) -> None:
    folder = faces(tmp_path / "faces", (3, 1, 2))
    RecordSource(folder, RGB8)
    file = folder / "train.rec"
    before = file.stat()
    content = file.read_bytes()
    head = part(payload(2, jpeg(6), 6))[:24]  # of the last image
    assert content.count(head) == 1
    file.write_bytes(content.replace(head, part(payload(1, jpeg(6), 6))[:24]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert RecordSource(folder, RGB8).labels().tolist() == [0, 0, 0, 1, 2, 1]


def test_a_shifted_index_is_refused_beside_what_was_kept(tmp_path: Path) -> None:
    folder = faces(tmp_path / "faces", (3, 1, 2))
    RecordSource(folder, RGB8)
    lines = (folder / "train.idx").read_text().splitlines()
    offsets = [line.split("\t")[1] for line in lines]
    shifted = [f"{i}\t{at}\n" for i, at in enumerate([offsets[0], *offsets[2:], offsets[1]])]
    (folder / "train.idx").write_text("".join(shifted))
    with pytest.raises(RecordError, match="says that it is number 2"):
        RecordSource(folder, RGB8)


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "json"])
def test_what_was_kept_and_damaged_is_made_anew(tmp_path: Path, damage: str) -> None:
    folder = faces(tmp_path / "faces", (3, 1, 2))
    digest = RecordSource(folder, RGB8).digest()
    kept, said = folder / ".train.rows.npy", folder / ".train.rows.json"
    content = bytearray(kept.read_bytes())
    if damage == "flip":
        content[-8] ^= 1
    elif damage == "cut":
        del content[-8:]
    kept.write_bytes(content)
    if damage == "other":
        np.save(kept, np.zeros(3))
    if damage == "json":
        said.write_text("{")
    assert RecordSource(folder, RGB8).digest() == digest
    assert np.load(kept).shape == (3, 6)
    assert json.loads(said.read_text())["classes"] == [0, 1, 2]


def test_where_nothing_can_be_written_it_is_kept_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = faces(tmp_path / "faces", (3, 1, 2))
    (folder / ".train.rows.npy" / "in the way").mkdir(parents=True)
    digest = RecordSource(folder, RGB8).digest()
    assert len(list((tmp_path / "cache" / "mixbct" / "records").iterdir())) == 2
    monkeypatch.setattr(RecordFile, "labels", never)
    assert RecordSource(folder, RGB8).digest() == digest


def test_nothing_is_kept_of_files_that_may_still_change_or_are_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = {i: part(payload(0.5 if i == 1 else i, jpeg(i), i)) for i in range(3)}
    RecordSource(write(tmp_path / "damaged", damaged), RGB8, skip_bad=True)
    monkeypatch.setattr(records, "SETTLED", 60.0)
    RecordSource(faces(tmp_path / "fresh"), RGB8)
    assert not list(tmp_path.rglob(".train.rows.*"))
