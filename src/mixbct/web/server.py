"""A server from its start to its end: which address, which token, and a stop that lets finish."""

import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from mixbct.errors import ServeError
from mixbct.reading import read_bytes
from mixbct.web.observed import LOG

STOP_SECONDS = 30
TOKEN = "MIXBCT_TOKEN"
"""The environment's variable; a token on the command line would be seen by everybody."""


def read_token(file: Path | None) -> str | None:
    """Return the token out of a file, or else of the environment; None: there is none.

    Raises:
        ServeError: the file cannot be read.
    """
    if file is None:
        return os.environ.get(TOKEN) or None
    content = read_bytes(file, "token", ServeError, most=4096)
    return content.decode("utf-8", "replace").strip()


def check_address(host: str, token: str | None) -> None:
    """Refuse to be reached from elsewhere without a token.

    Raises:
        ServeError: it names the remedy.
    """
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here and token is None:
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
    """
    LOG.setLevel(logging.INFO)
    LOG.addHandler(logging.StreamHandler(sys.stderr))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=1024) as listening:
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
            limit_concurrency=512,
        )
        uvicorn.Server(config).run(sockets=[listening])
