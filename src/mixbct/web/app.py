"""The application: the API, the page, and what machines ask, behind the guard."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import unquote_plus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from mixbct import __version__
from mixbct.errors import MixbctError, ServeError
from mixbct.schemas.record import one_line
from mixbct.web import api
from mixbct.web.guard import Guard
from mixbct.web.pages import login_page, problem, render
from mixbct.web.serving import Serving
from mixbct.web.sessions import COOKIE, Sessions

FLUSH_SECONDS = 5.0


def make_app(serving: Serving, token: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        serving: what it answers from.
        token: without which nothing is answered; None: whoever is on this machine may ask.
    """
    app = FastAPI(
        title="mixbct",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.serving, app.state.sessions = serving, Sessions(token)
    app.include_router(api.router)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/pictures", picture, include_in_schema=False)
    app.mount("/static", StaticFiles(packages=[("mixbct.web", "static")]))
    app.add_api_route("/login", login, methods=["POST"], include_in_schema=False)
    app.add_api_route("/logout", logout, methods=["POST"], include_in_schema=False)
    app.add_api_route("/healthz", health, include_in_schema=False)
    app.add_api_route("/metrics", metrics, include_in_schema=False)
    app.add_exception_handler(MixbctError, problem)
    app.add_exception_handler(HTTPException, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _malformed)  # type: ignore[arg-type]
    app.add_middleware(Guard, sessions=app.state.sessions, observed=serving.observed)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hand counted hits on every few seconds, and at the end."""
    hits = app.state.serving.hits

    async def now_and_then() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await hits.flush()

    task = asyncio.create_task(now_and_then())
    yield
    task.cancel()
    await hits.flush()


def page(request: Request) -> Response:
    """The page for people."""
    serving: Serving = request.app.state.serving
    cookie = request.cookies.get(COOKIE, "")
    return render(
        "page.html.j2",
        state=serving.status(),
        forgery=request.app.state.sessions.forgery_token(cookie) if cookie else "",
        signed_in=bool(cookie),
    )


def picture(request: Request, key: str) -> Response:
    """A small picture of a stored item."""
    png = request.app.state.serving.pictures.png(key)
    return Response(png, media_type="image/png", headers={"cache-control": "private, max-age=300"})


async def login(request: Request) -> Response:
    """Take the token, and give a cookie in its place."""
    sessions: Sessions = request.app.state.sessions
    form = (await request.body()).decode("latin-1")
    given = unquote_plus(form.partition("token=")[2])
    if not sessions.is_token(given):
        return login_page(request, ServeError("that is not the token", 401))
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, sessions.new_cookie(), httponly=True, samesite="strict", secure=secure
    )
    return response


def logout() -> Response:
    """Take the cookie away."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE)
    return response


def health(request: Request) -> Response:
    """Whether the gallery can be read; answers without a token."""
    try:
        request.app.state.serving.gallery.query_model()
    except MixbctError as error:  # whoever asks need not know why
        raise ServeError("the gallery cannot be read", 503) from error
    return Response('{"status":"ok"}', media_type="application/json")


def metrics(request: Request) -> Response:
    """What Prometheus takes down."""
    serving: Serving = request.app.state.serving
    told = serving.observed.metrics(serving.gallery.status())
    return Response(told, media_type="text/plain; version=0.0.4; charset=utf-8")


def _refused(request: Request, error: HTTPException) -> Response:
    response = problem(request, ServeError(str(error.detail), error.status_code))
    response.headers.update(error.headers or {})
    return response


def _malformed(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return problem(request, ServeError(one_line(f"{place}: {first['msg']}"), 422))
