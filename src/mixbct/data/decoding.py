"""Many encoded images at once: threads that decode into one array."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mixbct.data.images import Pixels, decode_bytes
from mixbct.data.source import Images, Rows, pieces
from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing

Name = Callable[[int], str]
# few enough for all workers to have some, enough for a hand-over to cost nothing
_LEAST_A_TASK = 8
_TASKS_A_WORKER = 4
_ADVICE = (
    "\n`mixbct data verify` finds all of them; repair or delete them, or leave them out with "
    "--skip-bad: given to `data split`, it holds for all that follows"
)


class Decoder:
    """Decodes on threads; one worker decodes in the thread that asks.

    Args:
        name: whose images they are, for errors.
        preprocessing: the size and number of channels that images are brought to.
        workers: number of threads; None for one a processor, eight at most.

    The threads start at the first use, and again in a forked process, where threads do not live
    on.
    """

    def __init__(self, name: str, preprocessing: Preprocessing, workers: int | None = None) -> None:
        self._name = name
        self.preprocessing = preprocessing
        self._workers = workers or min(8, os.cpu_count() or 1)
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    def _pool(self) -> ThreadPoolExecutor:
        here = os.getpid()
        if self._threads is None or self._threads[0] != here:
            self._threads = (here, ThreadPoolExecutor(self._workers, thread_name_prefix="decode"))
        return self._threads[1]

    def read(self, rows: Rows, encoded: Callable[[int], bytes], name: Name) -> Images:
        """Decode the images of `rows`, in that order.

        Args:
            rows: which.
            encoded: the bytes of a row's image; it may raise BadImageError.
            name: the key of a row, for errors.

        Raises:
            BadImageError: it counts and names every image of `rows` that cannot be decoded.
        """

        def make(row: int) -> Pixels:
            return decode_bytes(encoded(row), self.preprocessing, name(row))

        return self.fill(rows, make, name)

    def fill(self, rows: Rows, make: Callable[[int], Pixels], name: Name) -> Images:
        """Make the images of `rows`, in that order, by `make(row)`, as `read` does.

        Raises:
            BadImageError: `make` raised it; it counts and names every row.
        """
        size, channels = self.preprocessing.size, self.preprocessing.channels
        images = np.empty((len(rows), size, size, channels), np.uint8)
        wanted = rows.tolist()

        def make_some(places: range) -> list[tuple[int, BadImageError]]:
            bad = []
            for place in places:
                try:
                    images[place] = make(wanted[place])
                except BadImageError as error:
                    bad.append((wanted[place], error))
            return bad

        least = max(_LEAST_A_TASK, -(-len(rows) // (_TASKS_A_WORKER * self._workers)))
        tasks = pieces(range(len(rows)), least)
        spread = self._pool().map if self._workers > 1 and len(tasks) > 1 else map
        problems = {name(row): error for bad in spread(make_some, tasks) for row, error in bad}
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems.values())
            said = f"{self._name}: {len(problems)} of {len(rows)} images cannot be read"
            raise BadImageError(f"{said}:\n{lines}{_ADVICE}", list(problems))
        return images
