"""What stands before every request: who asks, how much is read of it, and what is said of it after.

A body is read into memory here, with a bound on its bytes, on those of all requests together, and
on the time that it takes; nothing further on reads from the network.
"""

import asyncio
import time
import traceback
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixbct.errors import MixbctError, ServeError
from mixbct.web.observed import Observed
from mixbct.web.pages import login_page, problem
from mixbct.web.sessions import COOKIE, Sessions

OPEN: Final = ("/healthz", "/login")
"""Paths that answer without the token; the second gives nothing but a cookie, for the token."""

MOST_BYTES: Final = 16 * 2**20
MOST_AT_ONCE: Final = 16 * MOST_BYTES
SECONDS: Final = 60.0
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """See above.

    Args:
        app: what answers.
        sessions: who may ask.
        observed: takes down what was answered.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, observed: Observed) -> None:
        self._app, self._sessions, self._observed = app, sessions, observed
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, fault = time.perf_counter(), 0, None

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope)
        body: bytes | None = b""
        try:
            if scope["path"] not in OPEN:
                cookie = request.cookies.get(COOKIE, "")
                self._sessions.admit(scope["method"], request.headers, cookie)
            most = MOST_BYTES if scope["path"] not in OPEN else 4096
            body = await self._body(request.headers, receive, most)
            if body is not None:
                await self._app(scope, _told(body, receive), answer)
        except Exception as error:
            if not isinstance(error, MixbctError):
                name, place = type(error).__name__, traceback.extract_tb(error.__traceback__)[-1]
                fault = f"{name} at {place.filename}:{place.lineno}"
                error = ServeError(f"a fault of mixbct ({name}); its log has more", 500)
            if status:
                raise
            page = login_page if getattr(error, "status", 0) == 401 else problem
            await page(request, error)(scope, receive, answer)
        finally:
            self._held -= len(body or b"")
            route = getattr(scope.get("route"), "path", "none")
            client = (scope.get("client") or ("",))[0]
            seconds = time.perf_counter() - began
            self._observed.answered(scope["method"], route, status, seconds, client, fault)

    async def _body(self, headers: Headers, receive: Receive, most: int) -> bytes | None:
        """Return the whole body; None: whoever sent it is gone.

        Raises:
            ServeError: it is too long, or takes too long.
        """
        told = headers.get("content-length", "0")
        if not told.isdecimal() or int(told) > most:
            raise ServeError(f"a body has at most {most:,} bytes", 413)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    part = message.get("body", b"")
                    parts.append(part)
                    self._held += len(part)
                    size += len(part)
                    if size > most:
                        raise ServeError(f"a body has at most {most:,} bytes", 413)
                    if self._held > MOST_AT_ONCE:
                        raise ServeError("too much is being sent at once; try again soon", 503)
                    if not message.get("more_body", False):
                        size = 0  # from here on, what the caller holds
                        return b"".join(parts)
        except TimeoutError:
            raise ServeError("the body did not come in time", 408) from None
        finally:
            self._held -= size
        return None


def _told(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and after it what comes."""
    given = False

    async def tell() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return tell
