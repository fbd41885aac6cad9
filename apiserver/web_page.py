"""The web page below `/ui` of the API's port: three static files, for everybody.

What the page shows it asks from the API, with the cookie that `auth.login` sets; without one it shows a login form.
The server never asks for Basic credentials by itself: a browser would keep those, and send them for pages of other
sites too. Links that the SDK prints lead to the page as well.
"""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

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


def page_routes() -> list[Route]:
    """The routes of the page; they come before those of the API."""
    return [
        Route("/ui", _page),
        Route("/ui/", _page),
        Route("/ui/{name}", _part),
        Route("/projects/{project}/tasks/{task}/output/log", _task_page),
        Route("/projects/{project}/experiments/{task}/output/log", _task_page),
    ]


async def _page(request: Request) -> Response:
    return _file("page.html")


async def _part(request: Request) -> Response:
    name = request.path_params["name"]
    return _file(name) if name in _KINDS and name != "page.html" else Response(status_code=404)


async def _task_page(request: Request) -> Response:
    """Where the SDK says that the results are."""
    task = request.path_params["task"]
    return RedirectResponse(f"/ui#task={task}" if task.isalnum() else "/ui")


def _file(name: str) -> Response:
    return Response((_FOLDER / name).read_bytes(), media_type=_KINDS[name], headers=_HEADERS)
