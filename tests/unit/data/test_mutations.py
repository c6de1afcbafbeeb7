"""A thousand damaged files: a named error or plain data, and nothing else."""

import contextlib
import pickle
import re
import resource
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from record_files import MAGIC, faces, jpeg, part, payload, write

from mixbct.data.folder import FolderSource
from mixbct.data.ijb import IjbImages, read_layout
from mixbct.data.ijb_layout import lay_out
from mixbct.data.pairs import read_pairs_bin
from mixbct.data.records import RecordSource
from mixbct.errors import BadImageError, MixbctError
from mixbct.evaluation.templates import pool_templates
from mixbct.schemas.model import Preprocessing

RGB8 = Preprocessing(size=8, channels=3)
RECORD_MUTANTS, BIN_MUTANTS, TABLE_MUTANTS = 250, 40, 60  # of three, of eight, of six files
# what is taken whatever the file's size (an index is read in blocks of 1 MiB), and for each byte
FIXED, PER_BYTE = 2_500_000, 60
MARGIN = 1 << 28
TRACED = 6  # one in so many


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, cut, double, drop, or write large and special numbers over a place."""
    kind = rng.integers(5)
    at = int(rng.integers(len(data)))
    changed = bytearray(data)
    if kind == 0:
        for place in rng.integers(0, len(data), int(rng.integers(1, 6))):
            changed[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del changed[at:]
    elif kind == 2:
        del changed[at : at + int(rng.integers(1, 50))]
    elif kind == 3:
        changed[at:at] = changed[at : at + int(rng.integers(1, 50))]
    else:
        lies = (0, 1, 2**29 - 1, 2**31 - 1, 2**31, 2**32 - 1, MAGIC, 0x7FC00000)
        lie = struct.pack("<I", lies[rng.integers(len(lies))])
        start = at // 4 * 4 if rng.random() < 0.7 else at
        changed[start : start + 4] = lie
    return bytes(changed)


def mutate_index(data: bytes, rng: np.random.Generator) -> bytes:
    """As `mutate`, half of the time; else put another number or none in the place of one."""
    if rng.random() < 0.5:
        return mutate(data, rng)
    words = data.split()
    digits = int(rng.integers(0, 25))
    words[rng.integers(len(words))] = b"".join(b"%d" % rng.integers(10) for _ in range(digits))
    lines = zip(words[0::2], words[1::2], strict=False)
    return b"".join(key + b"\t" + offset + b"\n" for key, offset in lines)


def measured(action: Callable[[], None], size: int, trace: bool) -> bool:
    """Run an action on files of `size` bytes; return whether it went well, not with an error.

    What Python allocates is counted with `trace`, which is slow.
    """
    if trace:
        tracemalloc.start()
    try:
        action()
    except MixbctError:
        return False
    finally:
        if trace:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < FIXED + PER_BYTE * size
    return True


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Let nothing that follows a length of half a gigabyte get it."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MARGIN, before[1]))
    with pytest.raises(MemoryError):
        bytearray(2 * MARGIN)
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def record_set(folder: Path) -> Path:
    """Write a set with a header, labels in arrays, records in parts and one a person."""
    faces(folder, (3, 2), "insightface")
    cut = struct.pack("<I", MAGIC)
    records = {
        **{i: part(payload(i % 2, jpeg(i), i)) for i in (1, 2)},
        0: part(payload([6.0, 8.0], b"")),
        3: part(payload([1.0, 7.0], jpeg(3), 3)),
        4: part(payload(0, b"", 4), 1) + part(jpeg(4), 3),
        5: part(payload(1, jpeg(5), 5), 0),
        6: part(payload([1.0, 3.0], b"", 6)),
        7: part(payload([3.0, 6.0], b"", 7) + cut[:3]),
    }
    return write(folder, records)


def use(folder: Path, skip_bad: bool) -> None:
    """Do with a record set what commands do, and check what comes out."""
    source = RecordSource(folder, RGB8, skip_bad=skip_bad)
    source.workers = 1
    keys, labels = source.keys(), source.labels()
    assert len(set(keys)) == len(keys) == len(labels) == len(source) > 0
    assert labels.min() == 0
    assert labels.max() == len(source.classes()) - 1
    source.digest()
    for row in range(len(source)):
        assert 0 < len(source.encoded(row)) < source.path.stat().st_size


def decode_all(folder: Path) -> None:
    """Decode what is left; a damaged image may say that it is larger than its file."""
    source = RecordSource(folder, RGB8, skip_bad=True)
    source.workers = 1
    with contextlib.suppress(BadImageError):
        assert source.read(np.arange(len(source))).shape == (len(source), 8, 8, 3)


@pytest.mark.parametrize("name", ["train.rec", "train.idx", "neither"])
def test_mutated_record_files(tmp_path: Path, name: str) -> None:
    """`neither`: the record file is damaged and there is no index."""
    rng = np.random.default_rng(1)
    folder = record_set(tmp_path)
    path = folder / ("train.idx" if name == "train.idx" else "train.rec")
    if name == "neither":
        (folder / "train.idx").unlink()
    whole = path.read_bytes()
    use(folder, skip_bad=False)
    strict, skipping = 0, 0
    for number in range(RECORD_MUTANTS):
        path.write_bytes((mutate_index if name == "train.idx" else mutate)(whole, rng))
        size = sum(file.stat().st_size for file in folder.iterdir())
        strict += measured(lambda: use(folder, skip_bad=False), size, number % TRACED == 0)
        if measured(lambda: use(folder, skip_bad=True), size, number % TRACED == 1):
            skipping += 1
            decode_all(folder)
    # some are harmless, skipping saves most of the others
    assert 0.05 * RECORD_MUTANTS < strict < 0.7 * RECORD_MUTANTS
    assert 0.6 * RECORD_MUTANTS < skipping < RECORD_MUTANTS


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_mutated_bin_files(tmp_path: Path, protocol: int, as_arrays: bool) -> None:
    rng = np.random.default_rng(2)
    images: list[object] = [jpeg(i) for i in range(4)]
    if as_arrays:
        images = [np.frombuffer(jpeg(i), np.uint8) for i in range(4)]
    whole = pickle.dumps((images, [True, False]), protocol)
    path = tmp_path / "t.bin"

    def use_bin() -> None:
        found = read_pairs_bin(path, RGB8)
        assert found.pairs.shape == (len(found.same), 2)
        assert len(found.images) == 2 * len(found.same) > 0
        assert sum(len(found.images.encoded(i)) for i in range(4)) < 2 * len(whole)  # type: ignore[attr-defined]
        found.images.digest()

    fine = 0
    for number in range(BIN_MUTANTS):
        # the images are most of the file; every other time the damage is outside of them
        changed = mutate(whole, rng)
        if number % 2:
            head = int(rng.integers(1, 160))
            changed = mutate(whole[:head], rng) + whole[head:]
        path.write_bytes(changed)
        fine += measured(use_bin, len(changed), number % TRACED < 2)
    assert 1 < fine < BIN_MUTANTS


def mutate_text(data: bytes, rng: np.random.Generator) -> bytes:
    """As `mutate`, half of the time; else put something else in the place of a word."""
    if rng.random() < 0.5:
        return mutate(data, rng)
    words = [
        b"-1",
        b"9" * 30,
        b"1e400",
        b"nan",
        b"",
        b"\n",
        b"1 2",
        b"\xff",
        b"\0",
        b'"',
        b"\xef\xbb\xbf",
    ]
    places = [match.span() for match in re.finditer(rb"[^\s,]+", data)]
    start, stop = places[rng.integers(len(places))]
    return data[:start] + words[rng.integers(len(words))] + data[stop:]


TABLES = (
    *("face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt"),
    *("1N_gallery_G1.csv", "1N_gallery_G2.csv", "1N_probe_mixed.csv"),
)


@pytest.fixture(scope="module")
def ijb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out five people with three images each."""
    folder = tmp_path_factory.mktemp("ijb")
    for person in range(5):
        (folder / "faces" / str(person)).mkdir(parents=True)
        for i in range(3):
            (folder / "faces" / str(person) / f"{i}.jpg").write_bytes(jpeg(3 * person + i))
    lay_out(FolderSource(folder / "faces", RGB8), folder / "ijb", impostors=2)
    return folder / "ijb"


@pytest.mark.parametrize("table", TABLES)
def test_mutated_ijb_tables(ijb: Path, table: str) -> None:
    rng = np.random.default_rng(3)
    path = ijb / "meta" / f"ijbc_{table}"
    whole = path.read_bytes()

    def use_layout(skip_bad: bool) -> None:
        found = read_layout(ijb, skip_bad)
        count = len(found.names)
        assert 0 < count == len(found.templates) == len(found.media) == len(found.scores) <= 16
        assert (found.scores > 0).all()
        assert np.isfinite(found.points).all()
        assert len(found.pairs) == len(found.same) <= 20
        known = set(found.templates.tolist())
        for ids in (found.pairs.ravel(), found.probes.templates):
            assert set(ids.tolist()) <= known
        pool_templates(np.ones((count, 4), np.float32), found.templates, found.media, found.scores)
        IjbImages(found, RGB8).digest()

    fine = 0
    try:
        for number in range(TABLE_MUTANTS):
            path.write_bytes(mutate_text(whole, rng))
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            fine += measured(lambda: use_layout(number % 2 == 1), size, number % TRACED < 2)  # noqa: B023
    finally:
        path.write_bytes(whole)
    assert 0 < fine < TABLE_MUTANTS
