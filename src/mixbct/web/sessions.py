"""Who may ask: the token, the browser's cookie in its place, and no page of anybody else.

Without a token, requests are taken on loopback alone; then the only strangers are pages in the same
browser, which name themselves (Origin), or come by a name of their own (Host, DNS rebinding). With
a token, a browser holds a cookie in its place: HttpOnly, SameSite=Strict, and of no use to a form
of anybody else's, since what changes something also needs a number that only our page knows.
"""

import hashlib
import hmac
import ipaddress
import secrets
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from mixbct.errors import ServeError

COOKIE = "mixbct"
FORGERY = "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
LEAST_TOKEN = 16
_HOURS = 12


class Sessions:
    """See above.

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
