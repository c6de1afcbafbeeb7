"""What requests carry: vectors as numbers, never one by one; images as they are.

A body is in memory, bounded by the guard, and never written anywhere. Lists within lists are
refused by the parser before they are deep (orjson stops at 1,024), and by their shape after.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import Request
from jaxtyping import Float32

from mixbct.errors import ServeError

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
    if not isinstance(content, dict) or not {"vectors"} <= set(content) <= {
        "vectors",
        "old_vectors",
    }:
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
