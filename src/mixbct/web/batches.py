"""Searches that wait for the same index go through it together.

One batch runs at a time; what asks meanwhile waits, and is the next batch: alone, a search waits
for nobody, and sixteen at once cost little more than one.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from fastapi.concurrency import run_in_threadpool

from mixbct.gallery import Gallery, Hits
from mixbct.schemas.contract import Contract
from mixbct.web.bodies import MOST_ROWS, Given

Wanted = tuple[Contract, int, float | None, Contract | None]
"""How to search, as `Batches.search` takes it; what is searched alike is searched together."""


class _Asked(NamedTuple):
    given: Given
    answer: asyncio.Future[tuple[Hits, int]]


class Batches:
    """See above; for one event loop."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._waiting: dict[Wanted, list[_Asked]] = {}
        self._running: asyncio.Task[None] | None = None

    async def search(
        self, given: Given, contract: Contract, k: int, far: float | None, old: Contract | None
    ) -> tuple[Hits, int]:
        """Return what a batch found, and where in it the given vectors begin.

        Args:
            given: vectors of `contract`, and of `old`, where both are to be mixed.
            contract, k, far: see `Gallery.search`, and for what is raised.
            old: the old model's; None: its vectors are left alone.
        """
        asked = _Asked(given, asyncio.get_running_loop().create_future())
        self._waiting.setdefault((contract, k, far, old), []).append(asked)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await asked.answer

    async def _run(self) -> None:
        while self._waiting:
            wanted, every = next(iter(self._waiting.items()))
            rows = np.cumsum([len(asked.given.vectors) for asked in every])
            count = int((rows <= MOST_ROWS).sum())  # of the first, at least
            del self._waiting[wanted]
            if every[count:]:
                self._waiting[wanted] = every[count:]
            await self._answer(wanted, every[:count])

    async def _answer(self, wanted: Wanted, batch: Sequence[_Asked]) -> None:
        try:
            hits = await run_in_threadpool(self._search, wanted, batch)
        except Exception as problem:
            if len(batch) > 1:  # the others must not fail with one
                for each in batch:
                    await self._answer(wanted, [each])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(problem)
            return
        start = 0
        for asked in batch:
            if not asked.answer.done():
                asked.answer.set_result((hits, start))
            start += len(asked.given.vectors)

    def _search(self, wanted: Wanted, batch: Sequence[_Asked]) -> Hits:
        contract, k, far, old = wanted
        vectors = np.concatenate([asked.given.vectors for asked in batch])
        older = [asked.given.old for asked in batch if asked.given.old is not None]
        mixed = (np.concatenate(older), old) if old and older else None
        return self._gallery.search(vectors, contract, k, far, mixed)
