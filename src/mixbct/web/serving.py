"""What requests are answered from: one gallery, with its models and pictures at hand."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import anyio
import numpy as np
from fastapi.concurrency import run_in_threadpool

from mixbct.data.images import decode_bytes
from mixbct.errors import ContractError, MixbctError, ServeError, SwitchedError
from mixbct.gallery import Gallery, Hits
from mixbct.gallery.records import QueryModel
from mixbct.gallery.rules import edges_from
from mixbct.gallery.search import own_vectors
from mixbct.schemas.contract import Contract
from mixbct.web.bodies import MOST_ROWS, Answer, BothQueries, Given, Status
from mixbct.web.encoders import Encoders, Pictures
from mixbct.web.observed import HitCounts, Observed
from mixbct.workflows.service import search_as

Wanted = tuple[Contract, int, float | None, Contract | None]
"""How to search, as `Batches.search` takes it; what is searched alike is searched together."""

T = TypeVar("T")
MOST_PIXELS = 32_000_000
"""Of an image that came with a request."""
MOST_HITS = 10_000
"""Of all queries of a request."""


class _Waiting(NamedTuple):
    given: Given
    answer: asyncio.Future[tuple[Hits, int]]


class Batches:
    """Searches that wait for the same index go through it together; for one event loop.

    One batch runs at a time; what asks meanwhile waits, and is the next batch: alone, a search
    waits for nobody, and sixteen at once cost little more than one.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._waiting: dict[Wanted, list[_Waiting]] = {}
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
        asked = _Waiting(given, asyncio.get_running_loop().create_future())
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

    async def _answer(self, wanted: Wanted, batch: Sequence[_Waiting]) -> None:
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

    def _search(self, wanted: Wanted, batch: Sequence[_Waiting]) -> Hits:
        contract, k, far, old = wanted
        vectors = np.concatenate([asked.given.vectors for asked in batch])
        older = [asked.given.old for asked in batch if asked.given.old is not None]
        mixed = (np.concatenate(older), old) if old and older else None
        return self._gallery.search(vectors, contract, k, far, mixed)


class Asked(NamedTuple):
    """How a person wants to search."""

    k: int
    far: float | None
    both: bool | None
    """None: as the server does."""
    beside: bool
    """Show what the old model finds as well."""


class Queries(NamedTuple):
    """Vectors to search with, of the query model and, where it ran, of the old one."""

    names: Sequence[str]
    given: Given
    contract: Contract
    old: Contract | None = None
    old_missing: str | None = None


@dataclass
class Serving:
    """One gallery, and what is at hand to answer from it.

    Args:
        gallery, encoders, pictures, observed, hits: what is at hand.
        both: whether a search mixes the old model's query in, unless it says otherwise.
        models: the folder whose folders can be switched to by name.
    """

    gallery: Gallery
    encoders: Encoders
    pictures: Pictures
    observed: Observed
    hits: HitCounts
    both: bool = False
    models: Path | None = None
    _known: dict[str, Contract] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._batches = Batches(self.gallery)
        # a model embeds for one thread at a time: whoever waits for it takes no thread from others
        self._few = anyio.CapacityLimiter(4)

    async def contract(self, name: str) -> Contract:
        """Return the contract that a request names; an id always means the same."""
        if name not in self._known:
            found = await run_in_threadpool(self.gallery.contract, name)
            self._known[found.id] = found
            return found
        return self._known[name]

    async def search_things(self, things: Sequence[bytes | str], asked: Asked) -> Answer:
        """Search with images, or with stored items by their keys.

        A switch in between is followed, once.
        """
        with contextlib.suppress(SwitchedError):
            return await self.search(await self.embedding(self._embed, things, asked), asked)
        return await self.search(await self.embedding(self._embed, things, asked), asked)

    async def embedding(self, call: Callable[..., T], *args: Any) -> T:
        """Return what a call gives that may wait for a model."""
        return await anyio.to_thread.run_sync(call, *args, limiter=self._few)

    async def search(self, queries: Queries, asked: Asked) -> Answer:
        """Search with vectors, those of the old model mixed in where that is wanted."""
        if len(queries.names) * asked.k > MOST_HITS:
            told = f"{len(queries.names)} queries × {asked.k} hits are more than {MOST_HITS:,}"
            raise ServeError(f"{told}; ask for less at once", 413)
        given, query, old, mixed = queries.given, queries.contract, queries.old, None
        place, names = self.gallery.place, queries.names
        if given.old is not None:
            old = old or (await run_in_threadpool(self.encoders.old_model)).contract
            mixed = old if await run_in_threadpool(self._mixes, query, old, asked.both) else None
        elif asked.both:
            raise ServeError(queries.old_missing or 'both queries need "old_vectors" too', 422)
        hits, start = await self._batches.search(given, query, asked.k, asked.far, mixed)
        found, missing = hits.report(place, query, names, start), queries.old_missing
        self.hits.add(hit.key for each in found.queries for hit in each.hits)
        beside = None
        if asked.beside and old is not None and given.old is not None:
            by_old = partial(search_as, self.gallery, given.old, old, asked.k, asked.far)
            try:
                beside = (await run_in_threadpool(by_old)).report(place, old, names)
            except MixbctError as problem:
                missing = str(problem)
        return Answer(**dict(found), both=mixed is not None, old=beside, old_missing=missing)

    def vector_of(self, model: QueryModel, thing: bytes | str) -> np.ndarray:
        """Return the vector of an image, or of a stored item, by a model."""
        if isinstance(thing, bytes):
            return self.encoders.embed(model, lambda p: decode_bytes(thing, p, "it", MOST_PIXELS))
        try:
            with self.gallery.read() as snapshot:
                return own_vectors(snapshot, [thing], model.contract)
        except ContractError:
            if thing not in self.pictures:
                raise
            return self.encoders.embed(model, lambda p: self.pictures.pixels(thing, p))

    def status(self) -> Status:
        """Return how everything is."""
        status = self.gallery.status()
        old, there = None, False
        with contextlib.suppress(MixbctError, OSError):
            model = self.encoders.old_model()
            old, there = model.contract, bool(model.folder and model.folder.is_dir())
        query = status.query_model
        return Status(
            gallery=status,
            both=BothQueries(
                on=there and old is not None and self._mixes(query, old, None),
                old_model=old,
                query_seconds=self.encoders.seconds(query),
                old_seconds=self.encoders.seconds(old) if old else None,
            ),
            counts_hits=self.hits.on,
            models=tuple(self._models()),
        )

    def model_folder(self, name: str | None) -> Path | None:
        """Return the folder of a model that can be switched to; nothing outside `models` can be.

        Raises:
            ServeError: there is none of that name.
        """
        if not name:
            return None
        if name in (known := self._models()):
            return known[name]
        told = ", ".join(known) or "none: start the server with --models FOLDER"
        raise ServeError(f"there is no model {name[:100]!r} to switch to, but: {told}", 404)

    def _models(self) -> dict[str, Path]:
        """Return the model folders, and runs that have one, by name."""
        every: list[Path] = []
        with contextlib.suppress(OSError):
            every = sorted(self.models.iterdir()) if self.models else []
        places = {each: (each / "model.json", each / "model" / "model.json") for each in every}
        # not the methods: these raise where a folder cannot be read
        return {e.name: e for e, files in places.items() if any(map(os.path.isfile, files))}

    def _mixes(self, query: Contract, old: Contract, asked: bool | None) -> bool:
        if asked is not None or not self.both:
            return bool(asked)
        with self.gallery.read() as snapshot:
            edge = edges_from(snapshot, query).get(old.id)
        return edge is not None and edge.old_queries is not None

    def _embed(self, things: Sequence[bytes | str], asked: Asked) -> Queries:
        model = self.gallery.query_model()
        vectors = np.concatenate([self.vector_of(model, thing) for thing in things])
        names = ["the image" if isinstance(thing, bytes) else thing for thing in things]
        queries = Queries(names, Given(vectors), model.contract)
        if not (asked.beside or asked.both or (asked.both is None and self.both)):
            return queries
        try:
            old = self.encoders.old_model()
            older = np.concatenate([self.vector_of(old, thing) for thing in things])
        except MixbctError as problem:
            return queries._replace(old_missing=str(problem))
        return queries._replace(given=Given(vectors, older), old=old.contract)
