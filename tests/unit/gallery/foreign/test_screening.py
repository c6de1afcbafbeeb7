"""What of a source is passed on, and what is said of the rest."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from mixbct.data.foreign_bank import declared_contract
from mixbct.errors import GalleryError
from mixbct.gallery.foreign.rows import ForeignRows, VectorSource
from mixbct.gallery.foreign.screening import Screening, _Seen
from mixbct.gallery.records import Batch

DIM = 4


def source_of(keys: list[str], vectors: np.ndarray, bad: dict[str, list[str]]) -> VectorSource:
    labels = [None if i % 3 else f"class {i}" for i in range(len(keys))]

    def read(count: int) -> Iterator[ForeignRows]:
        for start in range(0, len(keys), count):
            part = slice(start, start + count)
            yield ForeignRows(keys[part], labels[part], vectors[part], bad if not start else {})

    rows = len(keys) + sum(map(len, bad.values()))
    return VectorSource("elsewhere", declared_contract("old", DIM), rows, read)


@pytest.fixture
def spoilt() -> VectorSource:
    keys = [f"item {i}" for i in range(30)]
    vectors = np.random.default_rng(0).normal(size=(30, DIM)).astype(np.float32)
    vectors[7, 1] = np.nan
    vectors[8, 2] = np.inf
    vectors[9] = 3e38  # whose norm is beyond float32
    vectors[10] = 0
    vectors[11] = 1e-30  # whose norm is none as float32 would square it
    keys[12] = "a\nb"
    keys[13] = ""
    keys[20] = keys[25] = "item 3"
    keys[6] = "item 5"  # in one batch with it
    return source_of(keys, vectors, {"no vector": ["x", "y"]})


def run(screening: Screening, rows: int = 5) -> list[Batch]:
    ticks: list[tuple[int, int]] = []
    batches = [*screening.batches(rows, lambda *tick: ticks.append(tick))]
    assert ticks[-1] == (32, 32)
    return batches


def pass_on(screening: Screening, rows: int, passed: list[str]) -> None:
    for batch in screening.batches(rows, lambda done, total: None):
        passed += batch.keys


def test_bad_rows_are_left_out_and_counted(spoilt: VectorSource) -> None:
    screening = Screening(spoilt, skip_bad=True)
    batches = run(screening)
    keys = [key for batch in batches for key in batch.keys]
    expected = [i for i in range(30) if i not in (6, 7, 8, 9, 10, 12, 13, 20, 25)]
    assert keys == [f"item {i}" for i in expected]
    labels = [label for batch in batches for label in batch.labels]
    assert labels == [None if i % 3 else f"class {i}" for i in expected]
    assert np.concatenate([batch.vectors for batch in batches]).shape == (len(keys), DIM)
    assert {batch.contract for batch in batches} == {spoilt.contract}
    said = {each.why: (each.rows, each.first) for each in screening.left_out()}
    assert said == {
        "no vector": (2, ("x", "y")),
        "NaN or infinity": (3, ("item 7", "item 8", "item 9")),
        "zero vectors": (1, ("item 10",)),
        "keys or labels with a line break, a NUL or half a character": (2, ("a\\nb", "")),
        "keys that were there before in the source": (3, ("item 5", "item 3", "item 3")),
    }


def test_without_skipping_all_are_named_and_nothing_after_them_passes(spoilt: VectorSource) -> None:
    screening = Screening(spoilt, skip_bad=False)
    passed: list[str] = []
    with pytest.raises(GalleryError) as error:
        pass_on(screening, 5, passed)
    assert passed == []  # the first batch holds some
    for words in ("2 with no vector (x, y)", "3 with NaN or infinity", "1 with zero", "--skip-bad"):
        assert words in str(error.value)
    clean = source_of(["a", "b", "a"], np.ones((3, DIM), dtype=np.float32), {})
    with pytest.raises(GalleryError, match=r"1 with keys that were there before.*\(a\)"):
        pass_on(Screening(clean, skip_bad=False), 2, passed)
    assert passed == ["a", "b"]


def test_the_digest_is_of_the_content_however_it_is_batched(spoilt: VectorSource) -> None:
    digests = set()
    for rows in (1, 7, 100):
        screening = Screening(spoilt, skip_bad=True)
        run(screening, rows)
        digests.add(screening.digest())
    assert len(digests) == 1
    other = source_of(["a"], np.ones((1, DIM), dtype=np.float32), {})
    screening = Screening(other, skip_bad=True)
    list(screening.batches(9, lambda done, total: None))
    parts = (b"a\n", b"class 0\n", np.ones(DIM, dtype=np.float32).tobytes())
    joined = b"".join(hashlib.sha256(part).digest() for part in parts)
    assert screening.digest() == hashlib.sha256(joined).hexdigest()


def test_seen_keys_against_a_set() -> None:
    rng, seen, known = np.random.default_rng(1), _Seen(), set()
    for _ in range(60):
        keys = [f"{number}" for number in rng.integers(0, 3000, rng.integers(0, 120))]
        expected = []
        for key in keys:
            expected.append(key in known)
            known.add(key)
        assert seen.again(keys).tolist() == expected
    assert sum(map(len, seen._runs)) == len(known)
    assert len(seen._runs) < 12
