import multiprocessing
import os
import shutil
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from record_files import faces, jpeg, part, payload, write

from mixbct.data import open_source
from mixbct.data.images import decode_bytes
from mixbct.data.info import info
from mixbct.data.record_index import record_writer
from mixbct.data.records import RecordSource
from mixbct.errors import DataError, RecordError
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)


@pytest.mark.parametrize("header", ["insightface", "others", "none"])
def test_the_three_ways_to_lay_out_a_set(tmp_path: Path, header: str) -> None:
    source = RecordSource(faces(tmp_path, (3, 1, 2), header), RGB8)
    first = 0 if header == "none" else 1
    assert source.keys() == [str(first + i) for i in range(6)]
    assert source.labels().tolist() == [0, 0, 0, 1, 2, 2]
    assert source.classes() == ("0", "1", "2")
    assert source.groups() == [""] * 6
    assert [source.encoded(i) for i in range(6)] == [jpeg(i + 1) for i in range(6)]
    expected = np.stack([decode_bytes(jpeg(i), RGB8, "") for i in (6, 1, 3)])
    np.testing.assert_array_equal(source.read(np.array([5, 0, 2])), expected)
    found = info(source)
    assert (found.images, found.classes, found.largest_class) == (6, 3, 3)


def test_an_image_with_several_labels_and_key_0_is_no_header(tmp_path: Path) -> None:
    records = {i: part(payload([2.0 * i, 9.0], jpeg(i))) for i in range(3)}
    source = RecordSource(write(tmp_path, records), RGB8)
    assert source.labels().tolist() == [0, 1, 2]
    assert source.classes() == ("0", "2", "4")


def test_a_large_count_is_a_rounded_float(tmp_path: Path) -> None:
    """42,474,558 is no float32; its neighbour 42,474,560 counts two records too many."""
    end = np.float32(42_474_558)
    assert int(end) - 42_474_558 == 2
    last = 42_474_557
    records = {
        0: part(payload([float(end), 0.0], b"")),
        **{last - i: part(payload(i, jpeg(i))) for i in range(2)},
        **{last + i: part(payload([1.0, 2.0], b"")) for i in (1, 2, 3)},
    }
    # the images before the last two are missing, and only they
    with pytest.raises(RecordError, match="lacks 42474555 of the 42474557 images"):
        RecordSource(write(tmp_path, records), RGB8)
    source = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert source.keys() == [str(last - 1), str(last)]


def test_a_missing_index_is_rebuilt_and_kept_on_request(tmp_path: Path) -> None:
    before = RecordSource(faces(tmp_path), RGB8)
    text = (tmp_path / "train.idx").read_bytes()
    (tmp_path / "train.idx").unlink()
    source = RecordSource(tmp_path, RGB8)
    assert not (tmp_path / "train.idx").exists()
    assert source.digest() == before.digest()
    source.save_index()
    assert (tmp_path / "train.idx").read_bytes() == text


def packed_late(folder: Path, order: list[int]) -> dict[str, tuple[bytes, int]]:
    """Write a set as insightface's packer: images, the header, people; `order` mixes the records.

    Return the image and the class of each key.
    """
    labels = [0, 0, 0, 1, 2, 2]
    records = {
        # label and "aligned", as its lists say
        key: part(payload([float(label), 1.0], jpeg(key), key))
        for key, label in enumerate(labels, 1)
    }
    records[0] = part(payload([7.0, 10.0], b"", 0))
    people = {7: (1.0, 4.0), 8: (4.0, 5.0), 9: (5.0, 7.0)}
    records |= {key: part(payload(ends, b"", key)) for key, ends in people.items()}
    write(folder, {key: records[key] for key in (list(records)[place] for place in order)})
    return {str(key): (jpeg(key), label) for key, label in enumerate(labels, 1)}


@pytest.mark.parametrize("order", ["0123456789", "6012345789", "4916082573", "9876543210"])
def test_keys_are_the_ids_in_any_order_of_records(tmp_path: Path, order: str) -> None:
    known = packed_late(tmp_path, list(map(int, order)))
    indexed = RecordSource(tmp_path, RGB8)
    (tmp_path / "train.idx").unlink()

    def check(source: RecordSource) -> None:
        found = {
            key: (source.encoded(row), int(source.labels()[row]))
            for row, key in enumerate(source.keys())
        }
        assert found == known
        assert source.digest() == indexed.digest()

    for skip_bad in (False, True):
        check(RecordSource(tmp_path, RGB8, skip_bad=skip_bad))
    RecordSource(tmp_path, RGB8).save_index()
    assert (tmp_path / "train.idx").exists()
    check(RecordSource(tmp_path, RGB8))


def test_a_damaged_record_shifts_no_key_of_the_others(tmp_path: Path) -> None:
    known = packed_late(tmp_path, list(range(10)))
    damage(tmp_path, 2, 0, b"oops")
    (tmp_path / "train.idx").unlink()
    source = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert source.keys() == ["1", "3", "4", "5", "6"]
    assert [source.encoded(row) for row in range(5)] == [known[key][0] for key in source.keys()]  # noqa: SIM118
    assert len(source.skipped) == 2  # the place, and that the header counts one more


def test_ids_that_number_nothing_need_the_index(tmp_path: Path) -> None:
    """Some programs leave every id 0."""
    write(tmp_path, {key: part(payload(key, jpeg(key))) for key in range(3)})
    assert RecordSource(tmp_path, RGB8).labels().tolist() == [0, 1, 2]
    (tmp_path / "train.idx").unlink()
    with pytest.raises(RecordError, match=r"key 0 occurs more than once .* fetch the index again"):
        RecordSource(tmp_path, RGB8)
    with pytest.raises(DataError, match=r"holds no image: .*key 0 occurs more than once"):
        RecordSource(tmp_path, RGB8, skip_bad=True)


def test_an_index_of_shifted_keys_is_refused(tmp_path: Path) -> None:
    faces(tmp_path, header="none")
    lines = (tmp_path / "train.idx").read_text().splitlines()
    moved = [f"{number}\t{line.split()[1]}\n" for number, line in enumerate(lines, -1)]
    (tmp_path / "train.idx").write_text("".join(moved[1:]))
    says = r"5 of 5 records .*\n.*key 0, byte \d+: the record there says that it is number 1\n"
    with pytest.raises(RecordError, match=says) as caught:
        RecordSource(tmp_path, RGB8).labels()
    assert "delete the index" in str(caught.value)
    with pytest.raises(DataError, match=r"holds no image: .*it is number 1"):
        RecordSource(tmp_path, RGB8, skip_bad=True)
    (tmp_path / "train.idx").unlink()
    assert RecordSource(tmp_path, RGB8).labels().tolist() == [0, 0, 0, 1, 2, 2]


def test_copied_records_keep_the_keys_of_their_index(tmp_path: Path) -> None:
    """Sets are put together of others' records as they are: their ids then occur twice."""
    write(tmp_path, {key: part(payload(key, jpeg(key), 1 + key % 2)) for key in range(1, 5)})
    source = RecordSource(tmp_path, RGB8)
    assert (source.keys(), source.labels().tolist()) == (["1", "2", "3", "4"], [0, 1, 2, 3])


@pytest.mark.parametrize("label", [2.0**24, 20_000_001.0, 2.0**31 - 128])
def test_classes_that_a_float_merges_are_refused(tmp_path: Path, label: float) -> None:
    records = {i: part(payload(label + i, jpeg(i), i)) for i in range(2)}
    write(tmp_path, {**records, 2: part(payload([3.0, 1.0], jpeg(2), 2))})
    with pytest.raises(RecordError, match=r"2 of 3 records .*\n.*from 16,777,216 on a float32"):
        RecordSource(tmp_path, RGB8).labels()
    rest = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert (rest.keys(), len(rest.skipped)) == (["2"], 2)
    with pytest.raises(DataError, match="16777216: record files hold classes as float32"):  # noqa: SIM117
        with record_writer(tmp_path / "w.rec") as writer:
            writer.write(1, [2**24], jpeg(0))


def damage(folder: Path, key: int, at: int, data: bytes) -> int:
    """Overwrite bytes of a record; return its offset."""
    words = [line.split() for line in (folder / "train.idx").read_text().splitlines()]
    offset = next(int(offset) for name, offset in words if name == str(key))
    content = bytearray((folder / "train.rec").read_bytes())
    content[offset + at : offset + at + len(data)] = data
    (folder / "train.rec").write_bytes(content)
    return offset


def test_damaged_records_are_named_together_or_skipped_and_counted(tmp_path: Path) -> None:
    faces(tmp_path, header="others")
    offsets = damage(tmp_path, 2, 0, b"oops"), damage(tmp_path, 5, 12, struct.pack("<f", -7))
    with pytest.raises(RecordError, match="2 of 6 records") as caught:
        RecordSource(tmp_path, RGB8)
    assert caught.value.keys == ["2", "5"]
    for key, offset in zip((2, 5), offsets, strict=True):
        assert f"key {key}, byte {offset}:" in str(caught.value)
    rest = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert rest.keys() == ["1", "3", "4", "6"]
    assert rest.labels().tolist() == [0, 0, 1, 2]
    assert len(rest.skipped) == 2
    assert rest.read(np.arange(4)).shape == (4, 8, 8, 3)


def test_a_cut_tail_is_named_or_skipped(tmp_path: Path) -> None:
    faces(tmp_path, header="none")
    content = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(content[:-30])
    with pytest.raises(RecordError, match=r"key 5, byte \d+: \d+ bytes should follow, but"):
        RecordSource(tmp_path, RGB8).labels()
    assert len(RecordSource(tmp_path, RGB8, skip_bad=True)) == 5
    (tmp_path / "train.rec").write_bytes(content[:1200])
    says = r"key 5, byte \d+: no record can begin there, the file has 1200 bytes\n.*fetch the files"
    with pytest.raises(RecordError, match=says):
        RecordSource(tmp_path, RGB8).labels()
    rest = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert 0 < len(rest) < 5
    assert len(rest) + len(rest.skipped) == 6


def test_an_index_that_lacks_images_is_refused(tmp_path: Path) -> None:
    faces(tmp_path)
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(RecordError, match=r"lacks 1 of the 6 images .* the first is key 3"):
        RecordSource(tmp_path, RGB8)
    rest = RecordSource(tmp_path, RGB8, skip_bad=True)
    assert rest.keys() == ["1", "2", "4", "5", "6"]
    assert len(rest.skipped) == 1


@pytest.mark.parametrize("end", [0.0, 2.5, -3.0, float("nan"), 1e30])
def test_a_header_that_counts_nothing_is_refused(tmp_path: Path, end: float) -> None:
    write(tmp_path, {0: part(payload([end, 1.0], b"")), 1: part(payload(0, jpeg(0)))})
    with pytest.raises(RecordError, match=r"key 0, byte 0: the header gives"):
        RecordSource(tmp_path, RGB8)


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {0: part(payload([1.0, 1.0], b""))})
    with pytest.raises(DataError, match="holds no image"):
        RecordSource(tmp_path, RGB8)


@pytest.mark.parametrize(
    ("names", "says"), [("a\nb\n", "2 lines"), ("a\nb\na\n", "2 different"), ("\udcff", "UTF-8")]
)
def test_class_names_must_fit(tmp_path: Path, names: str, says: str) -> None:
    faces(tmp_path)
    (tmp_path / "train.classes.txt").write_bytes(names.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=rf"train\.classes\.txt.*{says}"):
        RecordSource(tmp_path, RGB8).classes()


def test_class_names_from_another_editor(tmp_path: Path) -> None:
    faces(tmp_path)
    (tmp_path / "train.classes.txt").write_bytes(b"\xef\xbb\xbfanna\r\nbea \r\ncid\r\n\r\n")
    assert RecordSource(tmp_path, RGB8).classes() == ("anna", "bea", "cid")


@pytest.mark.parametrize("content", [b"anna\n\ncid\n", b"anna\r\n \t\r\ncid\r\nd"])
def test_a_class_without_a_name_is_refused(tmp_path: Path, content: bytes) -> None:
    faces(tmp_path)
    (tmp_path / "train.classes.txt").write_bytes(content)
    says = r"train\.classes\.txt, line 2: expected the name of class 1 \(write one.*found ''"
    with pytest.raises(DataError, match=says):
        RecordSource(tmp_path, RGB8)


def test_which_file_is_opened(tmp_path: Path) -> None:
    faces(tmp_path / "a")
    assert isinstance(open_source(tmp_path / "a"), RecordSource)
    assert len(open_source(tmp_path / "a/train.rec", RGB8)) == 6
    shutil.copy(tmp_path / "a/train.rec", tmp_path / "a/other.rec")
    assert "train.rec" in str(open_source(tmp_path / "a"))
    (tmp_path / "a/train.rec").rename(tmp_path / "a/third.rec")
    with pytest.raises(DataError, match=r"2 record files; expected train\.rec"):
        open_source(tmp_path / "a")


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    source = RecordSource(faces(tmp_path, (20, 20)), RGB8)
    source.workers = 3
    rows = np.random.default_rng(0).integers(0, 40, (50, 30))
    expected = [source.read(some) for some in rows]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(source.read, rows), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def _child(source: RecordSource, total: int) -> None:
    # past the test runner, whose threads the child does not have
    os._exit(0 if int(source.read(np.arange(len(source))).sum()) == total else 1)


def test_a_forked_process_reads_too(tmp_path: Path) -> None:
    source = RecordSource(faces(tmp_path, (20, 20)), RGB8)
    source.workers = 2
    total = int(source.read(np.arange(40)).sum())  # the decoding threads run before the fork
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: what is tested
        children = [
            multiprocessing.get_context("fork").Process(target=_child, args=(source, total))
            for _ in range(3)
        ]
        for child in children:
            child.start()
    assert int(source.read(np.arange(40)).sum()) == total
    for child in children:
        child.join(60)
        assert child.exitcode == 0


@pytest.mark.parametrize(
    "name", ["x" * 5000 + ".rec", "loop.rec", "a\0b.rec", "no/t.rec", "pipe.rec"]
)
def test_paths_that_lead_nowhere_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.rec").symlink_to(tmp_path / "loop.rec")
    os.mkfifo(tmp_path / "pipe.rec")
    with pytest.raises(
        RecordError, match=r"there is no record file at|cannot be read as a record file: \S"
    ):
        RecordSource(tmp_path / name, RGB8)
