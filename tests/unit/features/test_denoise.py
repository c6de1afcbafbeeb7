"""Denoising against a slow loop over the classes in double precision."""

import inspect
import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixbct.data.bank import FeatureBank
from mixbct.data.bank_writer import BankWriter
from mixbct.data.foreign_bank import bank_of_vectors
from mixbct.data.source import unseen
from mixbct.errors import FeatureError, RecipeError
from mixbct.features import by_class
from mixbct.features.denoise import credible_rows, denoise, mean_distances
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, Preprocessing


def slow(
    features: np.ndarray, labels: np.ndarray, keep: str, normalise_columns: bool
) -> np.ndarray:
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    if normalise_columns:
        norms = np.linalg.norm(rows, axis=0)
        rows /= np.where(norms > 0, norms, 1)
    credible = np.zeros(len(rows), dtype=bool)
    for label in set(labels.tolist()):
        members = [i for i in range(len(labels)) if labels[i] == label]
        mean = sum(rows[i] for i in members) / len(members)
        members.sort(key=lambda i: (np.linalg.norm(rows[i] - mean), i))
        credible[members[: math.ceil(Fraction(keep) * len(members))]] = True
    return credible


def data(dtype: str = "float32", largest: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled labels with gaps (up to `largest`), classes of 1 to 40 rows."""
    rng = np.random.default_rng(0)
    sizes = {3: 1, 4: 1, 9: 2, 20: 10, 21: 40, largest: 17, 5: 33, 7: 10}
    labels = np.repeat([*sizes], [*sizes.values()])
    rng.shuffle(labels)
    features = rng.normal(size=(len(labels), 12)) * rng.uniform(0.1, 30, (len(labels), 1))
    return features.astype(dtype), labels


@pytest.mark.parametrize("normalise_columns", [False, True])
@pytest.mark.parametrize("keep", ["0.9", "0.7", "0.1", "0.55", "1", "0.001"])
@pytest.mark.parametrize(("dtype", "largest"), [("float16", 60), ("float32", 1000)])
def test_it_equals_a_loop_over_the_classes(
    dtype: str, largest: int, keep: str, normalise_columns: bool
) -> None:
    features, labels = data(dtype, largest)
    before = features.copy()
    found = credible_rows(features, labels, float(keep), normalise_columns)
    np.testing.assert_array_equal(features, before)
    expected = slow(features, labels, keep, normalise_columns)
    if keep in ("0.1", "0.001", "0.55"):
        # of a class of two both are equally far from the mean: rounding chooses
        assert found[labels == 9].sum() == expected[labels == 9].sum()
        found, expected = found[labels != 9], expected[labels != 9]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("keep", "rows", "kept"),
    [(0.7, 10, 7), (0.9, 10, 9), (0.1, 10, 1), (0.9, 30, 27), (0.3, 10, 3), (0.9, 1, 1),
     (0.9, 2, 2), (0.9, 11, 10), (0.29, 100, 29), (0.57, 100, 57), (1.0, 7, 7), (1e-5, 7, 1),
     (1e-9, 7, 1)],
)  # fmt: skip
def test_the_number_kept_is_exact(keep: float, rows: int, kept: int) -> None:
    features = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    assert credible_rows(features, np.zeros(rows, dtype=np.int64), keep).sum() == kept
    pairs = credible_rows(np.repeat(features, 2, axis=0), np.arange(2 * rows) % 2, keep)
    assert [pairs[0::2].sum(), pairs[1::2].sum()] == [kept, kept]


def test_the_far_ones_go() -> None:
    features = np.tile(np.array([[1.0, 0.0]], np.float32), (10, 1))
    features[4] = [-1, 0]
    found = credible_rows(features, np.full(10, 6), 0.9)
    np.testing.assert_array_equal(np.flatnonzero(~found), [4])


def test_length_does_not_count() -> None:
    features, labels = data()
    scaled = features * np.random.default_rng(1).uniform(1, 9, (len(labels), 1)).astype(np.float32)
    np.testing.assert_array_equal(
        credible_rows(features, labels, 0.7), credible_rows(scaled, labels, 0.7)
    )


def too_large_for_memory(
    features: np.ndarray, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> np.memmap:
    """Map the array from a file that has to be read in windows."""
    monkeypatch.setattr(by_class, "WINDOW", window)
    monkeypatch.setattr(by_class, "fits_in_memory", lambda size: size < features.nbytes)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    return mapped


@pytest.mark.parametrize("window", [None, 20, 7])
@pytest.mark.parametrize("normalise_columns", [False, True])
def test_ties_go_to_the_earlier_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalise_columns: bool, window: int | None
) -> None:
    one = np.random.default_rng(0).normal(size=(1, 37)).astype(np.float32)
    features = np.repeat(one, 20, axis=0)
    labels = np.arange(20) % 2
    if window:
        features = too_large_for_memory(features, window, tmp_path, monkeypatch)
    found = credible_rows(features, labels, 0.5, normalise_columns)
    np.testing.assert_array_equal(np.flatnonzero(found), np.arange(10))


@pytest.mark.parametrize("normalise_columns", [False, True])
def test_a_column_of_zeros_stays_one(normalise_columns: bool) -> None:
    features, labels = data()
    features[:, 3] = 0
    found = credible_rows(features, labels, 0.7, normalise_columns)
    np.testing.assert_array_equal(found, slow(features, labels, "0.7", normalise_columns))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("normalise_columns", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 34, 113, 5000])
@pytest.mark.parametrize("share", [1, 150, 5000])
@pytest.mark.parametrize("threads", [1, 3])
def test_neither_chunk_nor_share_nor_threads_matter(
    monkeypatch: pytest.MonkeyPatch, chunk: int, share: int, threads: int, normalise_columns: bool
) -> None:
    """Classes of 1 to some 60 rows, gaps between them, and classes that just fit in a chunk."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2000, 16)).astype(np.float16)
    labels = np.concatenate([rng.integers(3, 60, 1999), [1990]])
    assert 34 in np.bincount(labels)
    expected = mean_distances(features, labels, normalise_columns)
    marked = credible_rows(features, labels, 0.6, normalise_columns)
    monkeypatch.setattr(by_class, "CHUNK", chunk)
    monkeypatch.setattr(by_class, "_SHARE", share)
    with torch_threads(threads):
        found = mean_distances(features, labels, normalise_columns)
        again = credible_rows(features, labels, 0.6, normalise_columns)
        assert torch.get_num_threads() == threads
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    np.testing.assert_array_equal(again, marked)


@pytest.mark.parametrize("normalise_columns", [False, True])
@pytest.mark.parametrize(("chunk", "window"), [(1, 2000), (7, 1), (64, 300), (113, 1999)])
def test_windows_give_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    window: int,
    normalise_columns: bool,
) -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2000, 16)).astype(np.float16)
    labels = rng.integers(0, 60, 2000)
    monkeypatch.setattr(by_class, "CHUNK", chunk)
    expected = mean_distances(features, labels, normalise_columns)
    mapped = too_large_for_memory(features, window, tmp_path, monkeypatch)
    found = mean_distances(mapped, labels, normalise_columns)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        credible_rows(mapped, labels, 0.6, normalise_columns),
        credible_rows(features, labels, 0.6, normalise_columns),
    )


@pytest.mark.parametrize(("window", "passes"), [(None, 1), (300, 2)])
def test_how_often_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int | None, passes: int
) -> None:
    """Once, where memory holds the bank and a class fits in a chunk; else for means and distances.

    A number of each row is looked up before its row is.
    """
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2000, 16)).astype(np.float16)
    labels = rng.integers(0, 60, 2000)
    if window:
        features = too_large_for_memory(features, window, tmp_path, monkeypatch)
    read: list[np.ndarray] = []
    select = torch.index_select

    def watched(source: torch.Tensor, dim: int, index: torch.Tensor, **to: Any) -> torch.Tensor:
        if source.shape == features.shape:
            read.append(index.numpy())
        return select(source, dim, index, **to)

    monkeypatch.setattr(torch, "index_select", watched)
    credible_rows(features, labels)
    assert (np.bincount(np.concatenate(read)) == passes).all()
    if window:
        # from front to end: no row comes before one of an earlier window
        windows = np.concatenate(read)[:2000] // window
        assert (np.diff(windows) >= 0).all()
    else:
        # a class's rows come together
        assert (np.diff(labels[np.concatenate(read)]) != 0).sum() < 60 + len(read)


@pytest.mark.parametrize("classes", [200, 1])
def test_an_interrupt_ends_it_at_once(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    """Threads stop in the middle of what they were given, and no thread is left."""
    monkeypatch.setattr(by_class, "CHUNK", 1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 4)).astype(np.float32)
    read: list[int] = []
    select = torch.index_select

    def slow(source: torch.Tensor, dim: int, index: torch.Tensor, **to: Any) -> torch.Tensor:
        if source.shape == features.shape:
            read.append(len(index))
            time.sleep(0.001)
        return select(source, dim, index, **to)

    def interrupt(done: int, total: int) -> None:
        if done > len(features):
            read.append(-1)
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "index_select", slow)
    with torch_threads(2), pytest.raises(KeyboardInterrupt):
        credible_rows(features, rng.integers(0, classes, 3000), progress=interrupt)
    assert 0 < read.index(-1) < 1500
    assert len(read) - read.index(-1) < 10  # of 188 rows that each thread was given
    assert not [each for each in threading.enumerate() if each.name.startswith("denoise")]


def test_each_thread_computes_alone_and_no_other_is_told_to() -> None:
    """What a thread says holds for those that begin to use torch later, unless it is taken back."""
    found: list[int] = []

    def ask() -> None:
        found.append(torch.get_num_threads())

    with torch_threads(3):
        with by_class._threads_of_one() as threads:
            together = threading.Barrier(3)

            def alone(_: int) -> int:
                together.wait(20)
                return torch.get_num_threads()

            assert list(threads.map(alone, range(3))) == [1, 1, 1]
            newcomer = threading.Thread(target=ask)
            newcomer.start()
            newcomer.join()
        assert found == [3]
        assert torch.get_num_threads() == 3


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    features, labels = data()
    expected = mean_distances(features, labels), credible_rows(features, labels, 0.7)
    with mode():
        found = mean_distances(features, labels), credible_rows(features, labels, 0.7)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("largest", [21, 22, 100, 455, 10**6, 2**40, 2**62])
def test_gaps_in_labels_do_not_matter(monkeypatch: pytest.MonkeyPatch, largest: int) -> None:
    """Nor what the array of labels is like: tables have a row a class that is there."""
    features, labels = data(largest=largest)
    _, dense = np.unique(labels, return_inverse=True)
    expected = mean_distances(features, dense.astype(np.int64))
    found: list[int] = []
    zeros = torch.zeros

    def watched(rows: int, *more: Any, **named: Any) -> torch.Tensor:
        found.append(rows)
        return zeros(rows, *more, **named)

    monkeypatch.setattr(torch, "zeros", watched)
    labels.setflags(write=False)
    np.testing.assert_array_equal(mean_distances(features, labels), expected)
    assert max(found) <= len(set(labels.tolist()))
    backward = mean_distances(features[::-1].copy(), labels[::-1])
    np.testing.assert_allclose(backward[::-1], expected, rtol=3e-6)


def test_labels_of_other_rows_are_refused() -> None:
    features, labels = data()
    for some in (labels[1:], np.append(labels, 0)):
        with pytest.raises(
            FeatureError, match=rf"{len(features)} features have {len(some)} labels"
        ):
            # as whoever runs it, without a look at shapes before
            inspect.unwrap(by_class.measured_rows)(features, some, False, unseen, None)


@pytest.mark.parametrize(("view", "asked"), [(None, 0), (np.array, 0), (lambda x: x, 1),
    (lambda x: x[1:], 1), (np.asarray, 1), (lambda x: np.asarray(x)[::2][:, 1:], 1)])  # fmt: skip
def test_of_what_is_mapped_it_is_asked_whether_memory_holds_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    view: Callable[[np.ndarray], np.ndarray] | None,
    asked: int,
) -> None:
    features, labels = data()
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    given = features if view is None else view(mapped)
    sizes: list[int] = []
    monkeypatch.setattr(by_class, "fits_in_memory", lambda size: bool(sizes.append(size)) or True)
    expected = mean_distances(np.array(given), labels[: len(given)])
    np.testing.assert_array_equal(mean_distances(given, labels[: len(given)]), expected)
    assert sizes == [given.nbytes] * asked


@pytest.mark.parametrize(("dim", "rows"), [(1, 9), (3, 9), (100_000, 5), (700_000, 1)])
def test_a_chunk_stays_in_the_cache(monkeypatch: pytest.MonkeyPatch, dim: int, rows: int) -> None:
    features = np.random.default_rng(0).normal(size=(9, dim)).astype(np.float32)
    unit = features.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    expected = np.linalg.norm(unit - unit.mean(0), axis=1)
    read: list[int] = []
    select = torch.index_select

    def watched(source: torch.Tensor, dim: int, index: torch.Tensor, **to: Any) -> torch.Tensor:
        if source.shape == features.shape:
            read.append(len(index))
        return select(source, dim, index, **to)

    monkeypatch.setattr(torch, "index_select", watched)
    found = mean_distances(features, np.zeros(9, np.int64))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert max(read) == rows


def test_windows_refuse_a_bad_row_before_they_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = data()
    features[99] = np.nan
    mapped = too_large_for_memory(features, 40, tmp_path, monkeypatch)
    ticks: list[int] = []
    with pytest.raises(FeatureError, match=r"NaN.*\(row 99\)"):
        credible_rows(mapped, labels, progress=lambda done, _: ticks.append(done))
    assert ticks[-1] == len(features)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "NaN"), (np.inf, "NaN"), (0, "zero")])
def test_bad_rows_are_named_by_their_place_in_the_bank(
    monkeypatch: pytest.MonkeyPatch, value: float, says: str
) -> None:
    monkeypatch.setattr(by_class, "CHUNK", 20)
    features, labels = data()
    features[[47, 51]] = value
    with pytest.raises(FeatureError, match=rf"{says}.*\(row 47, row 51\)"):
        credible_rows(features, labels)


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, math.nan])
def test_keep_out_of_range(keep: float) -> None:
    with pytest.raises(RecipeError, match=f"at most 1, found {keep}"):
        credible_rows(*data(), keep=keep)


@pytest.mark.parametrize(
    ("normalise_columns", "window", "passes"),
    [(False, None, 2), (True, None, 2), (False, 40, 2), (True, 40, 3)],
)
@pytest.mark.parametrize("chunk", [50, 5000])
def test_progress_runs_over_all_passes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    normalise_columns: bool,
    window: int | None,
    passes: int,
    chunk: int,
) -> None:
    """Rows that are in the cache for the second look are read once."""
    monkeypatch.setattr(by_class, "CHUNK", chunk)
    monkeypatch.setattr(by_class, "_SHARE", 50)
    features, labels = data()
    rows = len(features)
    if window:
        features = too_large_for_memory(features, window, tmp_path, monkeypatch)
    ticks: list[tuple[int, int]] = []
    credible_rows(features, labels, 0.9, normalise_columns, lambda *tick: ticks.append(tick))
    if window and chunk > rows:
        passes -= 1
    done = [so_far for so_far, _ in ticks]
    assert done == sorted(set(done))
    assert done[-1] == passes * rows
    assert {rows * i for i in range(1, passes)} <= set(done)
    if chunk < rows:
        assert np.diff([0, *done]).max() <= (rows if not (window or normalise_columns) else 100)
    assert {total for _, total in ticks} == {passes * rows}


def make_bank(path: Path, features: np.ndarray, labels: np.ndarray) -> FeatureBank:
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    contract = Contract(
        name="m",
        weights="w",
        preprocessing=Preprocessing(size=8, channels=1),
        dim=features.shape[1],
    )
    manifest = BankManifest(
        contract=contract,
        data_digest="d",
        rows=len(features),
        dim=features.shape[1],
        dtype="float16",
        classes=classes,
    )
    keys = list(map(str, range(len(features))))
    writer = BankWriter(path, manifest, labels, keys, resume=False)
    for chunk in writer.missing():
        rows = slice(chunk.start, chunk.stop)
        writer.write(chunk, features[rows], keys[rows])
    return writer.finish()


def test_a_bank_records_what_was_decided(tmp_path: Path) -> None:
    features, labels = data("float16")
    bank = make_bank(tmp_path / "bank", features, labels)
    record = denoise(bank, 0.7, normalise_columns=True)
    found = FeatureBank(tmp_path / "bank").credible()
    assert found is not None
    np.testing.assert_array_equal(found, slow(features, labels, "0.7", True))
    assert (record.keep, record.normalise_columns) == (0.7, True)
    assert (record.credible, record.rows) == (found.sum(), len(labels))


def test_memory_is_bounded_by_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's share: torch works on the same arrays, and holds the class means beside them."""
    rows, dim = 30_000, 64
    rng = np.random.default_rng(0)
    features = rng.normal(size=(rows, dim)).astype(np.float16)
    bank = make_bank(tmp_path / "bank", features, rng.integers(0, 50, rows))
    monkeypatch.setattr(by_class, "CHUNK", 500)
    tracemalloc.start()
    try:
        credible_rows(bank.features, bank.labels(), 0.9, True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = rows * dim * 4  # the bank in float32: 7.7 MB
    a_row = 80  # a handful of 8-byte numbers
    assert peak < rows * a_row + 6 * 500 * dim * 4 < whole / 2


def test_a_row_that_was_changed_since_is_refused(tmp_path: Path) -> None:
    """One flipped bit makes a number of 10³⁸, which would move its class's mean to an axis."""
    vectors = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    labels, keys = ["a", "b", "c"] * 3, [f"k{i}" for i in range(9)]
    path = bank_of_vectors(vectors, labels, keys, "net", tmp_path / "bank").path / "features.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(FeatureError, match=r"bank: norms that are not within .*1 of 9 .*row 8"):
        denoise(FeatureBank(tmp_path / "bank"))
