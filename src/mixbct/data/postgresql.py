"""Connections to a PostgreSQL server: opened, explained where they fail, and without a password.

A URL is as libpq reads it (`postgresql://USER@HOST:PORT/DATABASE`, `?host=/folder` for a socket),
with one parameter more, `schema`, for where mixbct's tables lie. Its password is better left out:
libpq takes one from PGPASSWORD, or from ~/.pgpass. What is shown of a URL is put together from its
harmless parts. It is an optional extra: `pip install 'mixbct[postgres]'`.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlencode

from mixbct.errors import DiskFullError, GalleryError, UnavailableError, without_passwords
from mixbct.reading import needing_extra

if TYPE_CHECKING:
    from psycopg import Connection

_SAYS: Final = {
    "28P01": "the password is wrong; give it in PGPASSWORD or in ~/.pgpass",
    "3D000": "there is no such database: make it with `createdb`, or name another one",
    "53300": "the server has no connection left; close others, or raise its max_connections",
    "55P03": "it is being written by another process; wait until that is done and run the same "
    "command again",
    "57014": "the server stopped the statement, for it took too long or someone cancelled it; "
    "nothing of it was stored",
    "25006": "it can only be read here (a standby, or a read-only role); it can be searched, but "
    "not changed",
    "42501": "this role may not do that; it can search what it may read. Ask the owner for more",
    "0A000": "the server cannot do that; has it the extension pgvector (`vector`)?",
    "58P01": "the server lacks a file; is the extension pgvector (`vector`) installed there?",
}
"""What to do, by SQLSTATE."""


def is_url(place: object) -> bool:
    """Return whether a place is a PostgreSQL server, and not a folder."""
    return isinstance(place, str) and place.startswith(("postgresql:", "postgres:"))


_PATH: Final = """
SELECT set_config('search_path', concat_ws(', ', coalesce(quote_ident(%s),
    current_setting('search_path')), quote_ident(nspname)), false)
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = extnamespace
WHERE extname = 'vector'
"""


class Server:
    """Where a database is, and how to get there.

    Args:
        url: as above.
        schema: of the tables, where the URL does not say so.

    Raises:
        GalleryError: it cannot be read as a URL, or psycopg is not installed.
    """

    def __init__(self, url: str, schema: str = "mixbct") -> None:
        with needing_extra("postgres", "a database server", GalleryError):
            import pgvector.psycopg  # noqa: F401
            import psycopg.conninfo
        parameter = re.search(r"(?<=[?&])schema=([^&]*)&?", url)
        self.schema = unquote(parameter[1]) if parameter else schema
        bare = url.replace(parameter[0], "").rstrip("?&") if parameter else url
        try:
            self._options: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(bare)
            names = "user", "host", "port", "dbname"
            user, host, port, database = (str(self._options.get(name, "")) for name in names)
            # half of a password that was not percent-encoded
            wrong = "@" in host + database or not re.fullmatch("[0-9,]*", port)
        except psycopg.Error:
            wrong = True
        if wrong or not self.schema:
            # neither the URL nor libpq's words about it: they quote the password
            raise GalleryError(
                "the URL of a database server cannot be read; write "
                "postgresql://USER@HOST:PORT/DATABASE, other characters than letters and digits in "
                "percent encoding, and leave the password to PGPASSWORD or ~/.pgpass"
            ) from None
        folder = host.startswith("/")
        shown = {"host": host} if folder else {}
        shown |= {} if self.schema == schema else {"schema": self.schema}
        self.place: str = (
            f"postgresql://{quote(user)}{'@' * bool(user)}{'' if folder else host}"
            f"{':' * bool(port)}{port}/{quote(database)}{'?' * bool(shown)}"
            f"{urlencode(shown, safe='/')}"
        )
        """The URL without its password, for people."""

    def connect(self, path: str | None = None, **options: Any) -> "Connection":
        """Open a connection that commits by itself; with pgvector's types, where it has them.

        Args:
            path: the schema in which names are looked up, besides pgvector's [the server's choice].
            options: of libpq.

        Raises:
            GalleryError: it says why, and what to do.
        """
        import psycopg
        from pgvector.psycopg import register_vector

        given: dict[str, Any] = {
            "application_name": "mixbct",
            "connect_timeout": 10,
            "client_encoding": "UTF8",
            "prepare_threshold": None,
        }
        with self.named_errors():
            connection = psycopg.connect(**given | self._options | options, autocommit=True)
            if connection.execute(_PATH, (path,)).fetchone():
                register_vector(connection)
            return connection

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Turn what the server or psycopg says into a named error that says what to do."""
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            raise self._named(error) from None

    def _named(self, error: Any) -> DiskFullError | GalleryError:
        import psycopg

        lines = without_passwords(str(error)).strip().splitlines() or [type(error).__name__]
        says, state = lines[0], error.sqlstate or ""
        if "authentication failed" in str(error) or "no password supplied" in str(error):
            state = "28P01"  # libpq has no codes for what comes before a connection
        elif re.search('database ".*" does not exist', str(error)):
            state = "3D000"
        if state in ("53100", "53200"):
            what = "space left on the disk" if state == "53100" else "memory left on the server"
            return DiskFullError(
                f"no {what} of {self.place} ({says}); free some and run the same command again "
                "(what was stored before is intact, nothing of this is stored)"
            )
        if state in _SAYS:
            return GalleryError(f"{self.place}: {_SAYS[state]} ({says})")
        if isinstance(error, psycopg.OperationalError) and (not state or state[:2] in ("57", "08")):
            return UnavailableError(
                f"{self.place} cannot be reached, or went away; nothing that was not finished is "
                f"stored. Run the same command again once the server is there ({says})"
            )
        return GalleryError(f"{self.place} cannot be used: {says}")
