"""The web page below `/ui` of the API's port: three static files and a login.

Asking for the page needs the credentials of the API, by the browser's own dialog. The answer sets the cookie that the
API takes for a login, so the page itself never sees a secret. Links that the SDK prints lead to it as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from .auth import COOKIE
from .errors import ApiError

if TYPE_CHECKING:
    from .app import Services

SESSION_SECONDS = 12 * 3600

_FOLDER = Path(__file__).parent / "web"
_KINDS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_routes(services: Services) -> list[Route]:
    """The routes of the page; they come before those of the API."""

    async def page(request: Request) -> Response:
        try:
            identity = await services.auth.identify(request.headers)
        except ApiError as error:
            ask = {"WWW-Authenticate": 'Basic realm="gpufleet", charset="UTF-8"'}
            return PlainTextResponse(error.text, status_code=401, headers={**_HEADERS, **ask})
        response = _file("page.html")
        token = services.auth.issue(identity, seconds=SESSION_SECONDS)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, token, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=secure)
        return response

    return [
        Route("/ui", page),
        Route("/ui/", page),
        Route("/ui/{name}", _part),
        Route("/projects/{project}/tasks/{task}/output/log", _task_page),
        Route("/projects/{project}/experiments/{task}/output/log", _task_page),
    ]


async def _part(request: Request) -> Response:
    name = request.path_params["name"]
    return _file(name) if name in _KINDS and name != "page.html" else Response(status_code=404)


async def _task_page(request: Request) -> Response:
    """Where the SDK says that the results are."""
    task = request.path_params["task"]
    return RedirectResponse(f"/ui#task={task}" if task.isalnum() else "/ui")


def _file(name: str) -> Response:
    return Response((_FOLDER / name).read_bytes(), media_type=_KINDS[name], headers=_HEADERS)
