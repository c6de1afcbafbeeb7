"""A server from its start to its end: which address, which token, and a stop that lets finish."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mixbct.errors import ServeError
from mixbct.reading import failing_as, read_bytes
from mixbct.web.guard import is_loopback
from mixbct.web.observed import LOG, Told

STOP_SECONDS = 30
HEAD_SECONDS = 10.0
HEAD_BYTES = 65_536
TOKEN = "MIXBCT_TOKEN"
"""The environment's variable; a token on the command line would be seen by everybody."""


def read_token(file: Path | None) -> str | None:
    """Return the token out of a file, or else of the environment; None: there is none.

    Raises:
        ServeError: the file cannot be read.
    """
    if file is None:
        told = os.environ.get(TOKEN)
        return None if told is None else told.strip()
    return read_bytes(file, "token", ServeError, most=4096).decode("utf-8", "replace").strip()


def check_address(host: str, token: str | None) -> None:
    """Refuse to be reached from elsewhere without a token.

    Raises:
        ServeError: it names the remedy.
    """
    if not is_loopback(host) and token is None:
        raise ServeError(
            f"{host} can be reached from elsewhere, and there is no token: write one into a file "
            f"(`openssl rand -hex 32 > token`) and give --token-file, or set {TOKEN}"
        )


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal says to stop; what is being answered is answered first.

    Args:
        app: what answers.
        host, port: where; port 0: any that is free.
        ready: told the URL once connections are taken.

    Raises:
        OSError: the address is taken, or not one of this machine's.
        ServeError: there can be no such address.
    """
    LOG.setLevel(logging.INFO)
    told = logging.StreamHandler(sys.stderr)
    told.setFormatter(Told())
    for log in (LOG, logging.getLogger("uvicorn")):
        log.addHandler(told)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with failing_as(ServeError, f"{host[:100]!r} is no address", TypeError, UnicodeError):
        opened = socket.create_server((host, port), family=family, backlog=1024)
    with opened as listening:
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            http=Bounded,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
            limit_concurrency=512,
        )
        uvicorn.Server(config).run(sockets=[listening])


class Bounded(HttpToolsProtocol):
    """A connection whose request's head is bounded in bytes, and in the time until it is there."""

    _head = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # of uvloop or asyncio
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._expect()

    def on_message_begin(self) -> None:
        """Wait for another head, where the connection is used again."""
        super().on_message_begin()
        if self._late is None:
            self._expect()

    def on_headers_complete(self) -> None:
        """Stop waiting."""
        self._done()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Close the connection where its head does not end."""
        self._head += len(data)
        super().data_received(data)
        if self._late and self._head > HEAD_BYTES:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._done()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._head, self._late = 0, self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _done(self) -> None:
        if self._late:
            self._late.cancel()
        self._late = None
