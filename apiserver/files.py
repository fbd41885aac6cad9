"""The file server: artifacts, models and debug images, over HTTP on a port of its own (server_api.md, 2.8).

The field name of an uploaded part is the path under which it is kept, literally: the SDK has percent-encoded what it
wanted encoded, and asks for the same text encoded once more. Decoding it here would lose every non-ASCII project.

Files are what strangers uploaded, so they are served in a sandbox: a page among them cannot act with the credentials
of the person who looks at it.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .errors import ApiError
from .file_tree import DiskFullError, FileTree, OccupiedPathError, OpenFile, PathError, Upload, parts_of

if TYPE_CHECKING:
    from .app import Services

Authenticate = Callable[[Request], Awaitable[object]]

#: Handed to a thread at once when writing and reading: large enough for the hop not to count.
_BLOCK_BYTES = 512 * 1024
_COMMON_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox allow-scripts",
}
_CORS_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Range",
}


def create_files_app(services: Services) -> Starlette:
    """The file server of a running API server: its folder, its credentials."""

    async def authenticate(request: Request) -> object:
        return await services.auth.identify(request.headers)

    return files_app(services.config.files, authenticate)


def files_app(root: Path, authenticate: Authenticate) -> Starlette:
    """Make the file server for the files below `root`; `authenticate` raises `ApiError` for an unknown caller."""
    tree = FileTree(root)
    server = _FileServer(tree, authenticate)
    return Starlette(
        routes=[
            Route("/health", _health),
            Route("/delete_many", server.delete_many, methods=["POST"]),
            Route("/", server.upload, methods=["POST"]),
            Route("/", _greeting, methods=["GET", "HEAD"]),
            Route("/{path:path}", _preflight, methods=["OPTIONS"]),
            Route("/{path:path}", server.download, methods=["GET", "HEAD"]),
            Route("/{path:path}", server.delete, methods=["DELETE"]),
        ],
        exception_handlers={
            ApiError: _unauthorised,
            PathError: _not_found,
            OccupiedPathError: _occupied,
            DiskFullError: _disk_full,
            FormParserError: _bad_form,
        },
    )


class _FileServer:
    def __init__(self, tree: FileTree, authenticate: Authenticate) -> None:
        self._tree = tree
        self._authenticate = authenticate

    async def upload(self, request: Request) -> Response:
        await self._authenticate(request)
        form = _IncomingForm(self._tree, _boundary_of(request))
        try:
            async for block in _blocks(request):
                await asyncio.to_thread(form.feed, block)
            form.finish()
        except ClientDisconnect:
            return Response(status_code=400)
        finally:
            form.close()
        if not form.stored:
            return _text("There is no file in this request: send multipart/form-data with a file part", 400)
        return JSONResponse(form.stored, headers=_COMMON_HEADERS)

    async def download(self, request: Request) -> Response:
        await self._authenticate(request)
        path = _path_of(request)
        file = await asyncio.to_thread(self._tree.open, path)
        headers = {**_COMMON_HEADERS, **_describe(path, file, attachment="download" in request.query_params)}
        if _is_fresh(request, file):
            os.close(file.handle)
            return Response(status_code=304, headers=headers)
        return _FileResponse(file, _range_of(request, file), headers)

    async def delete(self, request: Request) -> Response:
        await self._authenticate(request)
        path = _path_of(request)
        await asyncio.to_thread(self._tree.delete, path)
        return JSONResponse("/".join(parts_of(path)), headers=_COMMON_HEADERS)

    async def delete_many(self, request: Request) -> Response:
        await self._authenticate(request)
        try:
            body = await request.json()
            files = [str(name) for name in body["files"]]
        except (ValueError, KeyError, TypeError):
            return _text('Expected {"files": ["path", ...]}', 400)
        return JSONResponse(await asyncio.to_thread(self._delete_each, files), headers=_COMMON_HEADERS)

    def _delete_each(self, files: list[str]) -> dict[str, object]:
        deleted: dict[str, str] = {}
        errors: dict[str, list[str]] = {}
        for name in files:
            path = unquote(name, errors="surrogateescape")
            try:
                self._tree.delete_with_content(path)
                deleted[name] = "/".join(parts_of(path))
            except PathError:
                reason = "Not found" if path.strip("/") else "Empty path not allowed"
                errors.setdefault(reason, []).append(name)
            except OSError as error:
                errors.setdefault(str(error.strerror), []).append(name)
        return {"deleted": deleted, "errors": errors}


class _IncomingForm:
    """A multipart body, stored while it arrives. Parts that carry no file are skipped."""

    def __init__(self, tree: FileTree, boundary: bytes) -> None:
        self.stored: list[str] = []
        self._tree = tree
        self._upload: Upload | None = None
        self._parts: tuple[str, ...] = ()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_name_goes_on,
                "on_header_value": self._header_value_goes_on,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data_goes_on,
                "on_part_end": self._part_ends,
            },
        )

    def feed(self, data: bytes) -> None:
        self._parser.write(data)

    def finish(self) -> None:
        """Check that the body was complete."""
        self._parser.finalize()
        if self._upload:
            raise FormParserError("the body ended inside a part")

    def close(self) -> None:
        if self._upload:
            self._upload.discard()

    def _part_begins(self) -> None:
        self._disposition = b""

    def _header_name_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_goes_on(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"filename" in options and b"name" in options:
            self._parts = parts_of(os.fsdecode(options[b"name"]))
            self._upload = self._tree.begin()

    def _data_goes_on(self, data: bytes, start: int, end: int) -> None:
        if self._upload:
            self._upload.write(memoryview(data)[start:end])

    def _part_ends(self) -> None:
        if self._upload:
            self._upload.keep(self._parts)
            self._upload = None
            self.stored.append("/".join(self._parts).encode("utf-8", "replace").decode())


class _FileResponse(Response):
    """Part or all of an open file; closes it when sent."""

    def __init__(self, file: OpenFile, span: range | None, headers: Mapping[str, str]) -> None:
        self._file = file
        self._span = range(file.size) if span is None else span
        super().__init__(status_code=200 if span is None else 206 if span else 416, headers=dict(headers))
        if span is not None:
            shown = f"{span.start}-{span.stop - 1}" if span else "*"
            self.headers["Content-Range"] = f"bytes {shown}/{file.size}"
        self.headers["Content-Length"] = str(len(self._span))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                for start in range(self._span.start, self._span.stop, _BLOCK_BYTES):
                    size = min(_BLOCK_BYTES, self._span.stop - start)
                    block = await asyncio.to_thread(os.pread, self._file.handle, size, start)
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(self._file.handle)


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in blocks worth a thread."""
    pending = bytearray()
    async for chunk in request.stream():
        pending += chunk
        if len(pending) >= _BLOCK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def _boundary_of(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise FormParserError("expected multipart/form-data with a boundary")
    return options[b"boundary"]


def _path_of(request: Request) -> str:
    """Decode the path once. Starlette's own decoding loses bytes that are no UTF-8."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return unquote(raw.partition(b"?")[0].decode("ascii", "surrogateescape"), errors="surrogateescape")


def _describe(path: str, file: OpenFile, *, attachment: bool) -> dict[str, str]:
    kind, encoding = mimetypes.guess_type(path)
    headers = {
        "Content-Type": kind if kind and not encoding else "application/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": file.etag,
        "Last-Modified": formatdate(file.modified, usegmt=True),
        "Cache-Control": "no-cache",
    }
    if attachment:
        name = quote(path.rpartition("/")[2], errors="surrogateescape")
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return headers


def _is_fresh(request: Request, file: OpenFile) -> bool:
    known = request.headers.get("if-none-match")
    if known is not None:
        return known.strip() == "*" or file.etag in (tag.strip().removeprefix("W/") for tag in known.split(","))
    since = _http_date(request.headers.get("if-modified-since"))
    return since is not None and int(file.modified) <= since


def _range_of(request: Request, file: OpenFile) -> range | None:
    """Read the asked range: None means the whole file, an empty range that nothing of it exists.

    Several ranges at once are answered with the whole file, which the protocol allows.
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d*)-(\d*)\s*", request.headers.get("range", ""))
    if not match or match.groups() == ("", "") or not _range_applies(request, file):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, file.size - int(last)), file.size)
    if last and int(last) < int(first):
        return None
    stop = min(int(last) + 1, file.size) if last else file.size
    return range(int(first), stop) if int(first) < stop else range(0)


def _range_applies(request: Request, file: OpenFile) -> bool:
    condition = request.headers.get("if-range")
    if condition is None or condition == file.etag:
        return True
    date = _http_date(condition)
    return date is not None and int(file.modified) == date


def _http_date(text: str | None) -> int | None:
    try:
        return int(parsedate_to_datetime(text).timestamp()) if text else None
    except (ValueError, TypeError):
        return None


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"}, headers=_COMMON_HEADERS)


async def _greeting(request: Request) -> Response:
    return _text("OK", 200)


async def _preflight(request: Request) -> Response:
    return Response(headers={**_COMMON_HEADERS, **_CORS_HEADERS})


def _text(text: str, status: int) -> Response:
    return PlainTextResponse(text, status_code=status, headers=_COMMON_HEADERS)


async def _unauthorised(request: Request, error: Exception) -> Response:
    return _text(str(error), error.code if isinstance(error, ApiError) else 401)


async def _not_found(request: Request, error: Exception) -> Response:
    return _text("Not found", 404)


async def _occupied(request: Request, error: Exception) -> Response:
    return _text(f"A file cannot be stored there: {error}", 400)


async def _disk_full(request: Request, error: Exception) -> Response:
    return _text("No space left for this file", 507)


async def _bad_form(request: Request, error: Exception) -> Response:
    return _text(f"Malformed upload: {error}", 400)
