"""Reads ahead: the next batches are read in a thread while the present one is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import TypeVar

ItemT = TypeVar("ItemT")
BatchT = TypeVar("BatchT")


def read_ahead(
    items: Iterable[ItemT], read: Callable[[ItemT], BatchT], depth: int = 2
) -> Iterator[BatchT]:
    """Yield `read(item)` for every item, in order, with up to `depth` of them under way.

    An error of `read` is raised where its batch would have been yielded.
    """
    waiting: deque[Future[BatchT]] = deque()
    executor = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        for item in items:
            waiting.append(executor.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def ahead_of(batches: Iterable[BatchT]) -> Iterator[BatchT]:
    """Yield what is given, which is asked for one more in a thread while the last is used."""
    source = iter(batches)
    for batch in read_ahead(repeat(None), lambda _: next(source, None), depth=1):
        if batch is None:
            return
        yield batch
