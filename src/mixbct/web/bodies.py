"""What requests carry, and what is answered beside the records that the command line prints.

Vectors come as numbers, never one by one; images as they are.

A body is in memory, bounded by the guard, and never written anywhere. Lists within lists are
refused by the parser before they are deep (orjson stops at 1,024), and by their shape after.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import Request
from jaxtyping import Float32
from pydantic import Field

from mixbct.errors import ServeError
from mixbct.gallery.records import ContractRows, GalleryStatus, SearchReport
from mixbct.schemas.contract import Contract
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import Record

MOST_ROWS = 1024
"""Vectors a request."""


@dataclass(frozen=True)
class Given:
    """Vectors, and those by the old model of the same things."""

    vectors: Float32[np.ndarray, "n d"]
    old: Float32[np.ndarray, "n e"] | None = None


async def given(request: Request, dim: int | None) -> bytes | Given:
    """Return what a request carries, an encoded image or vectors, by its content type.

    Args:
        request: `image/*`: an image. `application/json`: {"vectors": …, "old_vectors": …}, each a
            vector or several. `application/octet-stream`: float32, little-endian, row by row.
        dim: of the vectors; None: the request does not say of what they are.

    Raises:
        ServeError: it is something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    if kind.startswith("image/"):
        return body
    if kind not in ("application/json", "application/octet-stream"):
        raise ServeError(
            f"a body of type {kind[:80]!r}; send an image (image/*), vectors as JSON "
            "(application/json) or as float32 (application/octet-stream)",
            415,
        )
    if dim is None:
        raise ServeError("say of which contract the vectors are: ?contract=NAME, or its id", 422)
    if kind == "application/octet-stream":
        if not body or len(body) % (4 * dim):
            raise ServeError(
                f"{len(body):,} bytes are no rows of {dim} float32 ({4 * dim} bytes each)", 422
            )
        return Given(_few(np.frombuffer(body, "<f4").astype(np.float32).reshape(-1, dim)))
    if body.count(b"[") > 2 * MOST_ROWS + 4:  # before it is parsed: no number has one
        raise ServeError(f"too many lists; send {MOST_ROWS:,} vectors at most", 413)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise ServeError(f"the body is no JSON: {str(problem)[:200]}", 422) from None
    known = {"vectors", "old_vectors"}
    if not isinstance(content, dict) or not {"vectors"} <= set(content) <= known:
        raise ServeError('expected {"vectors": […]}, and "old_vectors" for both queries', 422)
    vectors = _array(content["vectors"])
    older = None if content.get("old_vectors") is None else _array(content["old_vectors"])
    if older is not None and len(older) != len(vectors):
        raise ServeError(f"{len(vectors):,} vectors, but {len(older):,} old_vectors", 422)
    return Given(vectors, older)


def _array(content: Any) -> Float32[np.ndarray, "n d"]:
    try:
        found = np.atleast_2d(np.asarray(content))
    except (ValueError, OverflowError, RecursionError):
        found = np.empty(0, object)
    if found.dtype.kind not in "fiu" or found.ndim != 2 or not found.size:
        raise ServeError("vectors are a list of numbers, or a list of such of one length", 422)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by name
        return _few(found.astype(np.float32))


def _few(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    if len(vectors) > MOST_ROWS:
        raise ServeError(f"{len(vectors):,} vectors; send {MOST_ROWS:,} at most", 413)
    return vectors


class Answer(SearchReport):
    """What was found, and what the old model finds beside it."""

    both: bool = Field(description="whether the old model's query was mixed in")
    old: SearchReport | None = Field(description="by the old model alone, where it was asked for")
    old_missing: str | None = Field(None, description="why the old model could not run")


class Problem(Record):
    """What is wrong, as RFC 9457 has it (`application/problem+json`)."""

    type: str = "about:blank"
    title: str = Field(description="the error's name, such as SwitchedError")
    status: int
    detail: str = Field(description="what is wrong and what to do next")


class SwitchAsked(Record):
    """Another query model."""

    model: str | None = Field(
        None, description="the name of a folder in the server's --models; none: by edges alone"
    )
    edges: tuple[Edge, ...] = Field((), description="what `mixbct gate` wrote, as it is")


class RollbackAsked(Record):
    """The last switch undone."""

    switch: int | None = Field(None, description="its number; if another came since, nothing is")
    leave_out: bool = Field(False, description="take out rows that cannot be searched then")
    edges: tuple[Edge, ...] = Field((), description="to rows that came since, to keep them")


class Removed(Record):
    """Items that were taken out."""

    gallery: str
    removed: int


class BothQueries(Record):
    """Whether queries of both models are mixed, and what that costs."""

    on: bool = Field(description="unless a search says otherwise")
    old_model: Contract | None = Field(description="none: there is none")
    query_seconds: float | None = Field(description="mean, to embed an image by the query model")
    old_seconds: float | None = Field(description="the same by the old model: the cost of both")


class Status(Record):
    """A gallery in service at one moment."""

    gallery: GalleryStatus
    both: BothQueries
    counts_hits: bool
    models: tuple[str, ...] = Field(description="those that can be switched to by name")

    @property
    def coverage(self) -> list[tuple[ContractRows, float]]:
        """Return what part of the rows is of which contract: how far a backfill is."""
        rows = max(self.gallery.rows, 1)
        return [(each, each.rows / rows) for each in self.gallery.contracts]
