"""The page and its parts, from templates in which everything foreign is escaped."""

import base64
import functools
import hashlib
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment
from pydantic import BaseModel

from mixbct.errors import (
    ContractError,
    DiskFullError,
    NoGalleryError,
    UnavailableError,
    without_passwords,
)
from mixbct.report.tables import visible
from mixbct.report.templates import loading
from mixbct.web.bodies import Problem

_STATUS = {ContractError: 409, DiskFullError: 507, NoGalleryError: 503, UnavailableError: 503}
"""Of errors whose cause is not what was asked; 422 is that of the others."""


@functools.cache
def _environment() -> Environment:
    made = loading("mixbct.web")
    made.filters["short"] = lambda contract: contract.rpartition(" (")[0] or contract
    return made


def wants_page(request: Request) -> bool:
    """Return whether a browser shows the answer."""
    return "text/html" in request.headers.get("accept", "")


def render(name: str, status: int = 200, **content: Any) -> HTMLResponse:
    """Return a page, or a part of one."""
    return HTMLResponse(visible(_environment().get_template(name).render(content)), status)


def answered(request: Request, record: BaseModel, template: str, **content: Any) -> Response:
    """Return an answer as a part of the page, or as JSON."""
    if wants_page(request):
        return render(template, answer=record, **content)
    return Response(record.model_dump_json(), media_type="application/json")


def problem(request: Request, error: Exception) -> Response:
    """Return what is wrong, as JSON or for the page."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 422)
    told = Problem(
        title=type(error).__name__,
        status=getattr(error, "status", status),
        detail=without_passwords(str(error)),
    )
    if wants_page(request):
        return render("problem.html.j2", told.status, problem=told)
    return Response(told.model_dump_json(), told.status, media_type="application/problem+json")


def login_page(request: Request, error: Exception) -> Response:
    """Return how to give the token: a form for browsers, its style inside."""
    if not wants_page(request):
        response = problem(request, error)
    else:
        wrong = request.url.path == "/login"
        style = files("mixbct.web").joinpath("static", "style.css").read_text("utf-8")
        response = render("login.html.j2", 401, style=style, wrong=wrong)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        response.headers["content-security-policy"] = (
            f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        )
    response.headers["www-authenticate"] = "Bearer"
    return response
