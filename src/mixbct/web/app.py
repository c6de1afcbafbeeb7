"""The application: the API, the page, and what machines ask, behind the guard.

The API, version 1, is a thin coat over the service; every answer is JSON, or a part of the page.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from mixbct import __version__
from mixbct.errors import MixbctError, ServeError
from mixbct.gallery.records import EnrolReport, Rollback, UpgradePlan
from mixbct.schemas.record import one_line
from mixbct.web.bodies import Answer, Problem, Removed, RollbackAsked, Status, SwitchAsked, given
from mixbct.web.guard import COOKIE, Guard, Sessions
from mixbct.web.pages import answered, login_page, problem, render
from mixbct.web.serving import Asked, Queries, Serving
from mixbct.workflows.service import apply_upgrade, asked_model

MOST_KEYS = 100
MOST_HITS = 1000


# not `def`: that would be a thread's work
async def _serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


async def _asked(
    k: Annotated[int, Query(ge=1, le=MOST_HITS, description="Hits a query.")] = 5,
    far: Annotated[
        float | None, Query(gt=0, lt=1, description="False-accept rate [the edge's].")
    ] = None,
    both: Annotated[
        bool | None, Query(description="Mix the old model's query in [as the server does].")
    ] = None,
    beside: Annotated[
        bool, Query(description="Show what the old model finds by itself, too.")
    ] = False,
) -> Asked:
    return Asked(k, far, both, beside)


At = Annotated[Serving, Depends(_serving)]
How = Annotated[Asked, Depends(_asked)]
Keys = Annotated[list[str], Query(min_length=1, max_length=MOST_KEYS, description="Stored items.")]
ContractName = Annotated[str | None, Query(description="Of vectors: name or id.")]

_VECTOR = {"type": "array", "items": {"type": "number"}}
_VECTORS = {"oneOf": [_VECTOR, {"type": "array", "items": _VECTOR}]}
_JSON = {
    "type": "object",
    "required": ["vectors"],
    "properties": {"vectors": _VECTORS, "old_vectors": _VECTORS},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_CONTENT: dict[str, Any] = {
    "image/*": _BINARY,
    "application/octet-stream": _BINARY,
    "application/json": {"schema": _JSON},
}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": _CONTENT}}

router = APIRouter(
    prefix="/v1", responses={"4XX": {"model": Problem, "description": "What is wrong."}}
)


@router.get("/status", response_model=Status)
def status(request: Request, at: At) -> Response:
    """What the gallery holds, which model queries it, how far an upgrade or a backfill is."""
    return answered(request, at.status(), "state.html.j2")


@router.post("/search", response_model=Answer, openapi_extra=BODY)
async def search(request: Request, at: At, how: How, contract: ContractName = None) -> Response:
    """Search with an image, or with vectors of the query model, which are named by a contract."""
    named = await at.contract(contract) if contract else None
    body = await given(request, named.dim if named else None)
    if isinstance(body, bytes):
        found = await at.search_things([body], how)
    else:
        assert named is not None
        count = len(body.vectors)
        names = ["vector"] if count == 1 else [f"vector {i}" for i in range(count)]
        found = await at.search(Queries(names, body, named), how)
    return answered(request, found, "found.html.j2", at=at)


@router.get("/search", response_model=Answer)
async def search_by_key(request: Request, at: At, how: How, key: Keys) -> Response:
    """Search with stored items: with their vectors, or with their pictures."""
    return answered(request, await at.search_things(key, how), "found.html.j2", at=at)


@router.post("/items", response_model=EnrolReport, openapi_extra=BODY)
async def enrol(
    request: Request,
    at: At,
    key: Annotated[list[str], Query(min_length=1, description="Of each item.")],
    label: Annotated[str | None, Query(description="Of all of them [not known].")] = None,
    contract: ContractName = None,
    replace: Annotated[bool, Query(description="Replace items of the same key.")] = False,
) -> Response:
    """Enrol an image by the query model, or vectors."""
    named = await at.contract(contract) if contract else None
    body = await given(request, named.dim if named else None)
    if isinstance(body, bytes):
        model = await run_in_threadpool(at.gallery.query_model)
        vectors = await at.embedding(at.vector_of, model, body)
        of = model.contract
    else:
        assert named is not None
        vectors, of = body.vectors, named
    labels = [label or None] * len(key)
    report = await run_in_threadpool(at.gallery.enrol, key, labels, vectors, of, replace)
    return answered(request, report, "done.html.j2")


@router.delete("/items", response_model=Removed)
def remove(request: Request, at: At, key: Keys) -> Response:
    """Take items out: all of them, or none."""
    removed = Removed(gallery=at.gallery.place, removed=at.gallery.remove(key))
    return answered(request, removed, "done.html.j2")


@router.post("/upgrade/plan", response_model=UpgradePlan)
def plan(request: Request, at: At, asked: SwitchAsked) -> Response:
    """What a switch would change; nothing is changed."""
    contract, _ = asked_model(at.model_folder(asked.model), asked.edges)
    return answered(request, at.gallery.plan(contract, *asked.edges), "plan.html.j2", done=False)


@router.post("/upgrade/apply", response_model=UpgradePlan)
def apply(request: Request, at: At, asked: SwitchAsked) -> Response:
    """Switch the query model, once all that its searches need is built."""
    contract, folder = asked_model(at.model_folder(asked.model), asked.edges)
    done = apply_upgrade(at.gallery, contract, folder, asked.edges)
    return answered(request, done, "plan.html.j2", done=True)


@router.post("/upgrade/rollback", response_model=Rollback)
def rollback(request: Request, at: At, asked: RollbackAsked) -> Response:
    """Undo the last switch that is not undone."""
    edges, leave_out = asked.edges, asked.leave_out
    done = at.gallery.rollback(*edges, leave_out=leave_out, seen=asked.switch)
    return answered(request, done, "done.html.j2")


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
    app.include_router(router)
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


def page(request: Request, at: At) -> Response:
    """The page for people."""
    cookie = request.cookies.get(COOKIE, "")
    return render(
        "page.html.j2",
        state=at.status(),
        forgery=request.app.state.sessions.forgery_token(cookie) if cookie else "",
        signed_in=bool(cookie),
    )


def picture(at: At, key: str) -> Response:
    """A small picture of a stored item."""
    png = at.pictures.png(key)
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


def health(at: At) -> Response:
    """Whether the gallery can be read; answers without a token."""
    try:
        at.gallery.query_model()
    except MixbctError as error:  # whoever asks need not know why
        raise ServeError("the gallery cannot be read", 503) from error
    return Response('{"status":"ok"}', media_type="application/json")


def metrics(at: At) -> Response:
    """What Prometheus takes down."""
    told = at.observed.metrics(at.gallery.status())
    return Response(told, media_type="text/plain; version=0.0.4; charset=utf-8")


def _refused(request: Request, error: HTTPException) -> Response:
    response = problem(request, ServeError(str(error.detail), error.status_code))
    response.headers.update(error.headers or {})
    return response


def _malformed(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return problem(request, ServeError(one_line(f"{place}: {first['msg']}"), 422))
