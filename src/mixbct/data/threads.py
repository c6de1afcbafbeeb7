"""Threads that are all there from the first."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread


def started(name: str, count: int, begin: Callable[[], None] | None = None) -> ThreadPoolExecutor:
    """Return threads that have all begun.

    They are started by another thread. A stop comes to the main thread at any moment: one that fell
    between a start and its registering would leave a thread that nobody tells to end.

    Args:
        name: of the threads, for whoever looks at a process.
        count: how many.
        begin: what each does first.
    """
    threads, together = ThreadPoolExecutor(count, name, begin), Barrier(count)

    def start_all() -> None:
        try:
            list(threads.map(lambda _: together.wait(), range(count)))
        except RuntimeError:  # the program is ending
            together.abort()

    starter = Thread(target=start_all)
    starter.start()
    starter.join()
    return threads
