"""What a server says about itself: Prometheus' metrics, and a line of JSON a request.

A line has no query string, body, header or cookie: no vector, key or token is ever logged.
"""

import json
import logging
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping

from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mixbct.errors import MixbctError, without_passwords
from mixbct.gallery.records import GalleryStatus
from mixbct.schemas.record import now, one_line

LOG = logging.getLogger("mixbct.web")


class Told(logging.Formatter):
    """A line of JSON for whatever is logged, by the HTTP library as well; no tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        told = record.getMessage()
        if record.name == LOG.name:
            return told
        return json.dumps({"time": now(), "level": record.levelname, "says": one_line(told)})


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Observed:
    """Requests that were answered, and what the gallery holds."""

    def __init__(self) -> None:
        into = self._registry = CollectorRegistry()
        of = ("method", "route")
        self._requests = Counter(
            "mixbct_requests", "Answered requests.", (*of, "status"), registry=into
        )
        self._seconds = Histogram(
            "mixbct_request_seconds", "Time to answer.", of, buckets=_BUCKETS, registry=into
        )
        self._rows = Gauge("mixbct_rows", "Rows a contract.", ("contract",), registry=into)
        self._switches = Gauge("mixbct_switch", "The last switch.", registry=into)

    def answered(
        self, method: str, route: str, status: int, seconds: float, client: str, fault: str | None
    ) -> None:
        """Count a request and log it; `fault` is what went wrong here, and where."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        line = {
            "time": now(),
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 2),
            "client": client,
        }
        LOG.info(json.dumps(line if fault is None else {**line, "fault": fault}))

    def metrics(self, status: GalleryStatus) -> bytes:
        """Return all of it in Prometheus' text format."""
        self._rows.clear()
        for each in status.contracts:
            self._rows.labels(str(each.contract)).set(each.rows)
        self._switches.set(status.switches[-1].number)
        return generate_latest(self._registry)


class HitCounts:
    """Counts how often each row was a hit, and hands the counts on now and then; for one loop.

    Args:
        hand_on: takes the counts by key; None: nothing is counted.
    """

    def __init__(self, hand_on: Callable[[Mapping[str, int]], object] | None) -> None:
        self.on = hand_on is not None
        self._hand_on = hand_on
        self._counts: Counts[str] = Counts()

    def add(self, keys: Iterable[str]) -> None:
        """Count hits, where that is asked for."""
        if self.on:
            self._counts.update(keys)

    async def flush(self) -> None:
        """Hand on what was counted; what cannot be stored now is kept for the next time."""
        counts, self._counts = self._counts, Counts()
        if self._hand_on is not None and counts:
            try:
                await run_in_threadpool(self._hand_on, counts)
            except MixbctError as error:
                self._counts.update(counts)
                LOG.warning(
                    json.dumps({"time": now(), "hits": without_passwords(one_line(str(error)))})
                )
