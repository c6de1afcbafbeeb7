import os
import struct
from pathlib import Path

import numpy as np
import pytest
from record_files import MAGIC, jpeg, part, payload

from mixbct.data.record_index import record_writer
from mixbct.data.recordio import RecordFile, frame
from mixbct.errors import DataError, RecordError

WORD = struct.pack("<I", MAGIC)
# one record, byte by byte: label 5.0, id 7, image b"abcde", three bytes of padding
GOLDEN = bytes.fromhex(
    "0a23d7ce1d000000000000000000a040070000000000000000000000000000006162636465000000"
)


def record_file(path: Path, content: bytes) -> RecordFile:
    (path / "t.rec").write_bytes(content)
    return RecordFile(path / "t.rec")


def test_the_bytes_of_a_record(tmp_path: Path) -> None:
    found = record_file(tmp_path, GOLDEN).image_record(0, 7)
    assert found == (7, 5.0, b"abcde")
    with record_writer(tmp_path / "w.rec") as writer:
        writer.write(7, [5], b"abcde")
        writer.write(8, [5, 6], b"xyz")
    content = (tmp_path / "w.rec").read_bytes()
    several = part(payload([5.0, 6.0], b"xyz", 8))
    assert content == GOLDEN + several
    assert (tmp_path / "w.idx").read_text() == f"7\t0\n8\t{len(GOLDEN)}\n"
    assert RecordFile(tmp_path / "w.rec").image_record(len(GOLDEN), 8) == (8, 5.0, b"xyz")


HEAD = payload(1, b"", 9)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", [b""]),
        (WORD, [b"", b""]),
        (WORD + WORD, [b"", b"", b""]),
        (b"abcd" + WORD + b"efghi", [b"abcd", b"efghi"]),
        (b"abcd" + WORD + b"efgh" + WORD + b"i", [b"abcd", b"efgh", b"i"]),
        (b"ab" + WORD + b"cd", [b"ab" + WORD + b"cd"]),  # not at a multiple of four
        (b"abc" + WORD + b"d" + WORD, [b"abc" + WORD + b"d", b""]),
    ],
)
def test_magic_words_in_a_payload_cut_it_into_parts(
    tmp_path: Path, content: bytes, parts: list[bytes]
) -> None:
    content, parts = HEAD + content, [HEAD + parts[0], *parts[1:]]
    kinds = [0] if len(parts) == 1 else [1, *[2] * (len(parts) - 2), 3]
    by_hand = b"".join(part(p, kind) for p, kind in zip(parts, kinds, strict=True))
    assert frame(content) == by_hand
    file = record_file(tmp_path, GOLDEN + by_hand + GOLDEN)
    assert file.payload(len(GOLDEN), 1) == content
    _, offsets = file.scan()
    assert offsets.tolist() == [0, len(GOLDEN), len(GOLDEN) + len(by_hand)]


def test_labels_of_records_in_parts_and_of_arrays(tmp_path: Path) -> None:
    records = [
        frame(payload(3, jpeg(0), 1)),
        frame(payload([4.0, 9.0], jpeg(1), 0)),
        frame(payload(5, jpeg(2), number=MAGIC)),  # the id is the magic word
        frame(payload(2.0**24 - 1, b"x" + WORD, 2**40)),
    ]
    assert struct.unpack_from("<I", records[2], 4)[0] >> 29 == 1
    file = record_file(tmp_path, b"".join(records))
    keys, offsets = file.scan()
    assert keys.tolist() == [1, 0, MAGIC, 2**40]
    labels, faults = file.labels(offsets, keys)
    assert labels.tolist() == [3, 4, 5, 2**24 - 1]
    assert faults == {}
    assert [file.image_record(int(o), 0).label for o in offsets] == [3, 4, 5, 2**24 - 1]


IMAGE = payload(1, b"image")
DAMAGED = {
    "another magic": (b"\0\0\0\0" + GOLDEN[4:], "found 0x00000000 where 0xced7230a should be"),
    "longer than the file": (struct.pack("<II", MAGIC, 99) + IMAGE, "99 bytes should follow, but"),
    "an unknown kind": (part(IMAGE, 4), "a part of kind 4; kinds are 0 to 3"),
    "the middle of a record": (part(IMAGE, 2), "no record begins there .*kind 2"),
    "never ends": (part(IMAGE, 1), "no record can begin there"),
    "begins twice": (part(IMAGE, 1) + part(IMAGE, 1), "kind 1 where a record should go on"),
    "no room for a header": (part(b"short"), "5 bytes are too few"),
    "no room for the labels": (
        part(struct.pack("<IfQQ", 2**31, 0, 0, 0) + b"image"),
        "2147483648 labels do not fit",
    ),
    "no image": (part(payload([1.0, 2.0], b"")), "holds no image"),
    "half a class": (part(payload(1.5, b"image")), "1.5 is no class number"),
    "below no class": (part(payload(-1, b"image")), "-1.0 is no class number"),
    "not a number": (part(payload(float("nan"), b"image")), "nan is no class number"),
    "a rounded class": (part(payload(2.0**24, b"image")), "16777216.0 is no class .*does not tell"),
    "infinite": (part(payload([float("inf")], b"image")), "inf is no class number"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_with_file_key_and_offset(tmp_path: Path, name: str) -> None:
    content, says = DAMAGED[name]
    file = record_file(tmp_path, GOLDEN + content)
    at = len(GOLDEN)
    with pytest.raises(RecordError, match=rf"t\.rec, key 17, byte \d+: .*{says}") as caught:
        file.image_record(at, 17)
    assert caught.value.keys == ["17"]
    labels, faults = file.labels(np.array([0, at]), np.array([7, 17]))
    assert labels.tolist() == [5, -1]
    assert faults == {1: str(caught.value)}


@pytest.mark.parametrize("offset", [2, 38, 40, 44, -4, 2**62])
def test_offsets_that_no_record_has(tmp_path: Path, offset: int) -> None:
    file = record_file(tmp_path, GOLDEN)
    with pytest.raises(RecordError, match=f"byte {offset}: no record can begin there"):
        file.payload(offset, 1)
    assert file.labels(np.array([offset]), np.array([1]))[0].tolist() == [-1]


def test_scanning_passes_over_damage_on_request(tmp_path: Path) -> None:
    bad = b"junk" + WORD + b"\xff\xff\xff\xff" + b"xx" + WORD + b"xx"
    content = GOLDEN + bad + GOLDEN + GOLDEN[:20]
    file = record_file(tmp_path, content)
    with pytest.raises(RecordError, match=r"t\.rec, byte 40: found"):
        file.scan()
    skipped: list[str] = []
    _, offsets = file.scan(skipped)
    assert offsets.tolist() == [0, 40 + len(bad)]
    assert len(skipped) == 2  # junk with a word in it that begins no part, and the cut tail


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"t\.rec cannot be read as a record file"):
        record_file(tmp_path, b"")
    os.mkfifo(tmp_path / "pipe.rec")
    for name in ("none.rec", "pipe.rec", "."):
        says = "there is no record file at|cannot be read as a record file: it is (a folder|no reg)"
        with pytest.raises(RecordError, match=says):
            RecordFile(tmp_path / name)


def test_too_large_a_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixbct.data.recordio.LENGTH_BITS", 4)
    assert frame(b"x" * 15)
    with pytest.raises(DataError, match="a record of 16 bytes"):
        frame(b"x" * 16)


def test_nothing_stays_of_a_writer_that_failed(tmp_path: Path) -> None:
    with pytest.raises(struct.error), record_writer(tmp_path / "t.rec") as writer:
        writer.write(-1, [1], b"x")
    assert list(tmp_path.iterdir()) == []
    with record_writer(tmp_path / "t.rec") as writer:
        pass
    assert (tmp_path / "t.idx").read_bytes() == b""
