"""The routes of the review page: what the browser asks for, and what it may say.

Images are named by their `image_id` and looked up among the run's; nothing else that comes from a
browser leads to a file.
"""

import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.review.cache import BoundedCache
from pipeline.review.desk import Desk
from pipeline.review.index import ReviewIndex
from pipeline.review.messages import Said, Undo
from pipeline.review.orders import DOUBT
from pipeline.review.try_page import TryPage
from pipeline.review.views import Filter
from schemas.base import problems
from schemas.errors import ImageError, OvsegError, StorageError
from schemas.redact import redact

_BODY_BYTES = 1 << 20
_MOST_ITEMS = 200
_KEPT_ANSWERS = 256
_RUN_HEADER = "x-ovseg-run"
"""Names the run that a page shows, `Desk.key`; so does `v` of its pictures."""
_KEPT = {"Cache-Control": "private, max-age=86400, immutable"}
"""Pictures are asked for with the run's fingerprint, so they may be kept."""
_TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"
}  # fmt: skip

Handler = Callable[[Request], Awaitable[Response]]


def make_app(desk: Desk, try_page: TryPage) -> Starlette:
    """Return the application; `security.Guard` stands before it."""
    pages = _Pages(desk)
    asked: dict[str, Callable[[Request], Response]] = {
        "/api/run": pages.run,
        "/api/view": pages.view,
        "/api/items": pages.items,
        "/api/place": pages.place,
        "/api/image": pages.image,
        "/photo": pages.photo,
        "/tint": pages.tint,
        "/regions": pages.regions,
        "/api/try": lambda _: JSONResponse(try_page.own_method()),
        "/api/try/methods": lambda _: JSONResponse(try_page.other_methods()),
        "/api/try/warm": lambda _: JSONResponse(try_page.warm()),
        "/api/try/photo": lambda request: _picture(
            try_page.photo(request.query_params.get("upload", "")), "image/jpeg"
        ),
    }
    told: dict[str, tuple[Callable[[bytes], Any], int]] = {
        "/api/decisions": (pages.decide, _BODY_BYTES),
        "/api/undo": (pages.undo, _BODY_BYTES),
        "/api/try/segment": (lambda body: try_page.segment(_json(body)), _BODY_BYTES),
        "/api/try/upload": (try_page.upload, try_page.max_bytes),
    }
    return Starlette(
        routes=[
            Route("/", _file("index.html")),
            Route("/try", _file("try.html")),
            Route("/static/{name}", _static),
            *(Route(path, _get(handler, desk.key)) for path, handler in asked.items()),
            *(
                Route(path, _post(handler, limit, desk.key), methods=["POST"])
                for path, (handler, limit) in told.items()
            ),
        ],
        exception_handlers={
            OvsegError: _mistake,
            ImageError: _mistake,
            ValidationError: _mistake,
            HTTPException: _http_error,
            ClientDisconnect: _gone_away,
        },
    )


class _Pages:
    """The handlers that read the run; each runs in a thread of its own."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._answers: BoundedCache[Any] = BoundedCache(_KEPT_ANSWERS, lambda _: 1)

    def run(self, request: Request) -> Response:
        del request
        self._desk.refresh()
        return JSONResponse(self._desk.table.facts())

    def view(self, request: Request) -> Response:
        wanted = Filter.model_validate(dict(request.query_params))
        return JSONResponse(self._desk.table.open_view(wanted))

    def items(self, request: Request) -> Response:
        start, limit = (_whole(request, name) for name in ("start", "limit"))
        items = self._desk.table.items(
            request.query_params.get("view", ""), start, min(limit, _MOST_ITEMS)
        )
        if items is None:
            raise _forgotten()
        return JSONResponse({"items": items})

    def place(self, request: Request) -> Response:
        table = self._desk.table
        found = table.place(request.query_params.get("view", ""), _row(table.index, request))
        if found is None:
            raise _forgotten()
        return JSONResponse({"place": None if found < 0 else found})

    def image(self, request: Request) -> Response:
        order = request.query_params.get("order", DOUBT)
        table = self._desk.table
        return JSONResponse(table.look(_row(table.index, request), order))

    def photo(self, request: Request) -> Response:
        size = "large" if request.query_params.get("size") == "large" else "small"
        pictures = self._desk.table.pictures
        return _picture(pictures.photo(_row(pictures.index, request), size), "image/jpeg")

    def tint(self, request: Request) -> Response:
        pictures = self._desk.table.pictures
        return _picture(pictures.tint(_row(pictures.index, request)), "image/png")

    def regions(self, request: Request) -> Response:
        pictures = self._desk.table.pictures
        return _picture(pictures.regions(_row(pictures.index, request)), "image/png")

    def decide(self, body: bytes) -> Any:
        said = Said.model_validate(_json(body))
        decisions = said.as_decisions(time.time())
        return self._once(said.nonce, lambda: self._desk.table.decide(decisions, said.nonce))

    def undo(self, body: bytes) -> Any:
        said = Undo.model_validate(_json(body))
        return self._once(
            said.nonce, lambda: self._desk.table.undo(time.time(), said.source, said.nonce)
        )

    def _once(self, nonce: str, work: Callable[[], Any]) -> Any:
        return self._answers.get(nonce, work) if nonce else work()


def _row(index: ReviewIndex, request: Request) -> int:
    row = index.row(request.query_params.get("id", ""))
    if row is None:
        raise HTTPException(404, "no image of this run")
    return row


def _forgotten() -> HTTPException:
    return HTTPException(410, "this list was forgotten: filter again")


def _check_run(request: Request, key: str) -> None:
    """Refuse a page that was loaded when another run was served at this address."""
    told = request.headers.get(_RUN_HEADER) or request.query_params.get("v", "")
    if told not in ("", key):
        raise HTTPException(409, "Another run than the page's is reviewed at this address now.")


def _get(handler: Callable[[Request], Response], run: str) -> Handler:
    async def endpoint(request: Request) -> Response:
        _check_run(request, run)
        return await run_in_threadpool(handler, request)

    return endpoint


def _post(handler: Callable[[bytes], Any], max_bytes: int, run: str) -> Handler:
    async def endpoint(request: Request) -> Response:
        _check_run(request, run)
        body = await _body(request, max_bytes)
        return JSONResponse(await run_in_threadpool(handler, body))

    return endpoint


async def _body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body, of which no more than the limit is ever held."""
    too_long = HTTPException(413, f"more than {max_bytes >> 20} MB")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        # Refuses what would be trouble later: half characters, endless depth, NaN.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(400, "expected JSON") from error


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(400, f"expected a whole number for {name}")
    return int(text)


def _picture(data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers=_KEPT)


@cache
def _assets() -> dict[str, bytes]:
    """Return the files of the pages by name: read once, and no other name is ever opened."""
    folder = Path(__file__).parent / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in _TYPES}


def _file(name: str) -> Handler:
    async def endpoint(_: Request) -> Response:
        return _asset(name)

    return endpoint


async def _static(request: Request) -> Response:
    return _asset(request.path_params["name"])


def _asset(name: str) -> Response:
    data = _assets().get(name)
    if data is None:
        raise HTTPException(404, "no such page")
    return Response(
        data, media_type=_TYPES[Path(name).suffix], headers={"Cache-Control": "no-cache"}
    )


def _mistake(_: Request, error: Exception) -> Response:
    if isinstance(error, ValidationError):
        return JSONResponse({"error": problems(error)[0]}, 400)
    code = str(error.code) if isinstance(error, ImageError) else ""
    status = 503 if isinstance(error, StorageError) else 422
    return JSONResponse({"error": redact(str(error)), "code": code}, status)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def _gone_away(_: Request, error: Exception) -> Response:
    """Answer nobody: the browser left while it was still sending."""
    del error
    return Response(status_code=400)
