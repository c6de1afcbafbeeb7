"""Sources of encoded images: threads that decode into one array."""

import functools
import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mixbct.data.images import Pixels, decode_bytes
from mixbct.data.source import Images, Rows, Source, pieces
from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing

# few enough for all workers to have some, enough for a hand-over to cost nothing
_LEAST_A_TASK = 8
_TASKS_A_WORKER = 4
_ADVICE = (
    "\n`mixbct data verify` finds all of them; repair or delete them, or leave them out with "
    "--skip-bad: given to `data split`, it holds for all that follows"
)


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: they do not live on in one that is forked from it."""
    return ThreadPoolExecutor(workers, thread_name_prefix="decode")


@dataclass(eq=False, repr=False)
class EncodedSource(Source):
    """Base of the sources whose images are stored as JPEG, PNG or the like.

    Args:
        preprocessing: the size and number of channels that images are brought to.

    Attributes:
        workers: number of threads that decode; one decodes in the thread that asks; None for one
            a processor, eight at most.
    """

    preprocessing: Preprocessing = field(kw_only=True)
    workers: int | None = field(default=None, init=False)

    @abstractmethod
    def encoded(self, row: int) -> bytes:
        """Return the stored bytes of a row's image.

        Raises:
            BadImageError: they cannot be read.
        """

    def _key(self, row: int) -> str:
        return self._keys[row]

    def _pixels(self, row: int) -> Pixels:
        return decode_bytes(self.encoded(row), self.preprocessing, self._key(row))

    def read(self, rows: Rows) -> Images:
        """Decode the images of `rows`, in that order.

        Raises:
            BadImageError: it counts and names every image of `rows` that cannot be decoded.
        """
        size, channels = self.preprocessing.size, self.preprocessing.channels
        images = np.empty((len(rows), size, size, channels), np.uint8)
        wanted = rows.tolist()

        def decode(places: range) -> dict[str, BadImageError]:
            bad = {}
            for place in places:
                try:
                    images[place] = self._pixels(wanted[place])
                except BadImageError as error:
                    bad[self._key(wanted[place])] = error
            return bad

        workers = self.workers or min(8, os.cpu_count() or 1)
        least = max(_LEAST_A_TASK, -(-len(rows) // (_TASKS_A_WORKER * workers)))
        tasks, many = pieces(range(len(rows)), least), workers > 1 and len(rows) > least
        spread = _pool(workers, os.getpid()).map if many else map
        problems = {key: error for bad in spread(decode, tasks) for key, error in bad.items()}
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems.values())
            said = f"{self}: {len(problems)} of {len(rows)} images cannot be read"
            raise BadImageError(f"{said}:\n{lines}{_ADVICE}", list(problems))
        return images
