import threading
from collections.abc import Iterator

import pytest

from mixbct.data.loader import read_ahead


def test_batches_come_in_order() -> None:
    assert list(read_ahead(range(20), lambda i: i * i)) == [i * i for i in range(20)]
    assert list(read_ahead([], str)) == []
    assert list(read_ahead([1], str, depth=5)) == ["1"]


def test_the_next_batches_are_read_while_one_is_used() -> None:
    read: list[int] = []
    third = threading.Event()

    def note(item: int) -> int:
        read.append(item)
        if item == 2:
            third.set()
        return item

    batches = read_ahead(range(10), note, depth=2)
    assert next(batches) == 0
    assert third.wait(10)  # without asking for it
    batches.close()  # type: ignore[attr-defined]
    assert max(read) <= 3  # and no further than that


def test_items_are_taken_only_as_far_as_needed() -> None:
    taken = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    batches = read_ahead(items(), str, depth=3)
    next(batches)
    assert len(taken) == 4


def test_an_error_comes_where_its_batch_would() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise ValueError("row 3")
        return item

    batches = read_ahead(range(10), read)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(batches)


def test_leaving_early_ends_the_thread() -> None:
    before = threading.active_count()
    batches = read_ahead(range(1000), str)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
