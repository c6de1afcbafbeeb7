"""What of a source can be stored: all that is wrong with rows is counted, and some are named."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from mixbct.data.bank import norms_of
from mixbct.errors import GalleryError
from mixbct.gallery.foreign.rows import ForeignRows, VectorSource
from mixbct.gallery.records import Batch, LeftOut
from mixbct.gallery.rules import no_names
from mixbct.schemas.contract import Contract

NAMED = 5
_NOT_FINITE, _ZERO = "NaN or infinity", "zero vectors"
_TWICE = "keys that were there before in the source"
_BAD_NAME = "keys or labels with a line break, a NUL or half a character"


class Screening:
    """Passes on the rows of a source that can be stored, and keeps account of the others.

    Args:
        source: where they come from.
        skip_bad: leave out what cannot be stored. Without it nothing is passed on any more once a
            row was bad: the rest is read to count all that is, and then refused.
    """

    def __init__(self, source: VectorSource, skip_bad: bool) -> None:
        self._source, self._skip_bad = source, skip_bad
        self._seen = _Seen()
        self._bad: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._digests = [hashlib.sha256() for _ in ForeignRows._fields[:3]]
        self.passed = 0

    def digest(self) -> str:
        """Return the SHA-256 over the keys, the labels and the vectors that were read so far."""
        return hashlib.sha256(b"".join(each.digest() for each in self._digests)).hexdigest()

    def left_out(self) -> tuple[LeftOut, ...]:
        """Return what was wrong with rows so far, with the first of their keys."""
        return tuple(
            LeftOut(why=why, rows=rows, first=first) for why, (rows, first) in self._bad.items()
        )

    def batches(self, rows: int, progress: Callable[[int, int], None]) -> Iterator[Batch]:
        """Yield batches of about so many rows; `progress` is called with (rows read, in all).

        Raises:
            GalleryError: a row is bad, and bad ones are not to be skipped.
        """
        read = 0
        for found in self._source.read(rows):
            labels = [name or "" for name in found.labels]
            for digest, names in zip(self._digests, (found.keys, labels), strict=False):
                digest.update("\n".join([*names, ""]).encode("utf-8", "surrogatepass"))
            self._digests[2].update(np.ascontiguousarray(found.vectors).data)
            good = self._good(found, self._source.contract)
            if self._skip_bad or not self._bad:
                self.passed += len(good.keys)
                if good.keys:
                    yield good
            read += len(found.keys) + sum(map(len, found.bad.values()))
            progress(read, max(read, self._source.rows))
        if self._bad and not self._skip_bad:
            left_out = self.left_out()
            said = "; ".join(f"{each.rows:,} with {each.why} ({each.names})" for each in left_out)
            raise GalleryError(
                f"{self._source.name} has rows that cannot be stored: {said}. "
                f"{self.passed:,} rows before the first of them were looked at and are stored; the "
                "same command with --skip-bad goes on, and leaves those out"
            )

    def _good(self, rows: ForeignRows, contract: Contract) -> Batch:
        """Return the rows of a batch that can be stored; count and name the others."""
        for why, keys in rows.bad.items():
            self._count(why, keys)
        with np.errstate(all="ignore"):
            norms = norms_of(rows.vectors).astype(np.float32)
        wrong = {*no_names([*rows.keys, *rows.labels])}
        pairs = zip(rows.keys, rows.labels, strict=True)
        named = np.array([bool(pair[0]) and wrong.isdisjoint(pair) for pair in pairs], dtype=bool)
        finite = np.isfinite(norms)
        good = finite & (norms > 0) & named
        again = good.copy()
        again[good] = self._seen.again([rows.keys[row] for row in np.flatnonzero(good)])
        every = Batch(rows.keys, rows.labels, rows.vectors, contract)
        if good.all() and not again.any():
            return every
        for why, bad in (
            (_NOT_FINITE, ~finite),
            (_ZERO, norms == 0),
            (_BAD_NAME, finite & (norms > 0) & ~named),
            (_TWICE, again),
        ):
            self._count(why, [rows.keys[row] for row in np.flatnonzero(bad)])
        return every.part(np.flatnonzero(good & ~again).tolist())

    def _count(self, why: str, keys: Sequence[str]) -> None:
        if keys:
            rows, first = self._bad.get(why, (0, ()))
            first += tuple(ascii(key)[1:-1] for key in keys[: NAMED - len(first)])
            self._bad[why] = rows + len(keys), first


class _Seen:
    """Tells which keys came before, from 8 bytes of each: Python's keyed hash of 64 bits.

    Of ten million keys, two are taken for one with a chance of 3e-6. The hashes lie in sorted runs,
    each longer than the next, which are merged as they grow.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def again(self, keys: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return which of the keys came before, in earlier calls or in this one."""
        hashes = np.fromiter(map(hash, keys), dtype=np.int64, count=len(keys))
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        known = np.zeros(len(keys), dtype=bool)
        known[1:] = ordered[1:] == ordered[:-1]
        for run in self._runs:
            known |= run[np.searchsorted(run, ordered).clip(max=len(run) - 1)] == ordered
        if not known.all():
            self._runs.append(ordered[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()])))
        found = np.empty(len(keys), dtype=bool)
        found[order] = known
        return found
