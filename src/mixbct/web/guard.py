"""What stands before every request: who asks, how much is read of it, and what is said of it after.

A body is read into memory here, with a bound on its bytes, on those of all requests together, and
on the time that it takes; nothing further on reads from the network.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
import traceback
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mixbct.errors import MixbctError, ServeError
from mixbct.web.observed import Observed
from mixbct.web.pages import login_page, problem

COOKIE = "mixbct"
FORGERY = "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
LEAST_TOKEN = 16
_HOURS = 12

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


class Sessions:
    """Who may ask: the token, the browser's cookie in its place, and no page of anybody else.

    Without a token, requests are taken on loopback alone; then the only strangers are pages in the
    same browser, which name themselves (Origin), or come by a name of their own (Host, DNS
    rebinding). With a token, a browser holds a cookie in its place: HttpOnly, SameSite=Strict, and
    of no use to a form of anybody else's, since what changes something also needs a number that
    only our page knows.

    Args:
        token: None: whoever is on this machine may ask.
    """

    def __init__(self, token: str | None) -> None:
        if token is not None and not (len(token) >= LEAST_TOKEN and token.isascii()):
            raise ServeError(
                f"the token has {len(token)} characters; give {LEAST_TOKEN} or more, ASCII alone: "
                "`openssl rand -hex 32` makes one"
            )
        self._token = token
        self._key = hashlib.sha256(f"mixbct session {token}".encode()).digest()

    def is_token(self, given: str) -> bool:
        """Return whether it is the token, in the same time whatever is wrong."""
        known = self._sign("token", self._token or "")
        return hmac.compare_digest(self._sign("token", given), known) and self._token is not None

    def new_cookie(self) -> str:
        """Return a cookie's value that stands for the token for some hours."""
        told = f"{int(time.time()) + 3600 * _HOURS}.{secrets.token_hex(16)}"
        return f"{told}.{self._sign('cookie', told)}"

    def forgery_token(self, cookie: str) -> str:
        """Return the number that a page sends along with what changes something."""
        return self._sign("page", cookie)

    def admit(self, method: str, headers: Headers, cookie: str) -> None:
        """Refuse a request that nobody who may ask has sent.

        Raises:
            ServeError: 401 without token or cookie, 403 where another page sent it.
        """
        if self._token is None:
            self._by_ourselves(method, headers)
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return
        if not self._is_cookie(cookie):
            raise ServeError("give the token: Authorization: Bearer TOKEN", 401)
        sent = headers.get(FORGERY, "")
        known = self.forgery_token(cookie)
        if method not in SAFE and not hmac.compare_digest(sent.encode(), known.encode()):
            raise ServeError(f"a page of ours sends {FORGERY}; load it again", 403)

    def _by_ourselves(self, method: str, headers: Headers) -> None:
        host = headers.get("host", "")
        if not is_loopback(_name_of(f"//{host}")):
            raise ServeError(f"{host[:100]!r} is no name of this machine's loopback", 403)
        origin = headers.get("origin")
        if "x-forwarded-for" in headers or "forwarded" in headers:
            raise ServeError("behind a proxy the server needs a token (--token-file)", 403)
        strange = origin is not None and origin.partition("://")[2] != host
        site = headers.get("sec-fetch-site", "none")
        # a link to here is followed; a picture or a script of another page is not given
        linked = method in SAFE and headers.get("sec-fetch-mode") == "navigate"
        if strange or (site not in ("none", "same-origin") and not linked):
            raise ServeError("a page of another site asks; only those of this server may", 403)

    def _is_cookie(self, cookie: str) -> bool:
        told, _, signed = cookie.rpartition(".")
        until = told.partition(".")[0]
        fits = hmac.compare_digest(signed.encode(), self._sign("cookie", told).encode())
        return fits and until.isdecimal() and int(until) > time.time()

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose} {text}".encode(), "sha256").hexdigest()


def is_loopback(name: str | None) -> bool:
    """Return whether a host's name or address is one that only this machine reaches."""
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


def _name_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class Guard:
    """Stands before every request.

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
