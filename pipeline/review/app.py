"""The routes of the review server: what the pages read, and what they send.

Images are named by their `image_id` and looked up in the run's index; nothing else that a browser
sends leads to a file.
"""

import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from threading import Condition
from typing import Any

from cachetools import LRUCache, cached
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.review.decisions import DecisionMessage, UndoMessage
from pipeline.review.filter import ScoreFilter
from pipeline.review.pictures import Kind
from pipeline.review.session import ForgottenViewError, ReviewSession, UnknownImageError
from pipeline.review.sort_orders import PRIORITY
from pipeline.review.try_page import MAX_UPLOAD_BYTES, TryPage
from schemas.base import problems
from schemas.errors import ImageError, OvsegError, StorageError, UserError
from schemas.redact import redact

_BODY_BYTES = 1 << 20
_MAX_ITEMS = 200
_ANSWERS_KEPT = 256
_RUN_HEADER = "x-ovseg-run"
"""Holds the `ReviewSession.key` of the run that a page shows; so does `v` of its pictures."""
_CACHED = {"Cache-Control": "private, max-age=86400, immutable"}
"""The URL of a picture holds the run's key, which names its generation too: the browser may keep
the picture."""
_TYPES = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"
}  # fmt: skip

Handler = Callable[[Request], Awaitable[Response]]


def make_app(session: ReviewSession, try_page: TryPage) -> Starlette:
    """Return the application; `security.Guard` stands before it."""
    pages = _ReviewPages(session, try_page)
    get_routes: dict[str, Callable[[Request], Response]] = {
        "/api/run": pages.run,
        "/api/view": pages.view,
        "/api/items": pages.items,
        "/api/place": pages.place,
        "/api/image": pages.image,
        "/photo": pages.photo,
        "/tint": pages.tint,
        "/segments": lambda request: pages.picture(request, "segments"),
        "/api/try": lambda _: JSONResponse(try_page.own_method()),
        "/api/try/methods": lambda _: JSONResponse(try_page.other_methods()),
        "/api/try/warm": lambda _: JSONResponse(try_page.warm_up()),
        "/api/try/photo": lambda request: _picture(
            try_page.photo(request.query_params.get("upload", "")), "image/jpeg"
        ),
    }
    post_routes: dict[str, tuple[Callable[[bytes], Any], int]] = {
        "/api/decisions": (pages.decide, _BODY_BYTES),
        "/api/undo": (pages.undo, _BODY_BYTES),
        "/api/try/segment": (lambda body: try_page.segment(_json(body)), _BODY_BYTES),
        "/api/try/upload": (try_page.upload, MAX_UPLOAD_BYTES),
    }
    return Starlette(
        routes=[
            Route("/", _file("index.html")),
            Route("/try", _file("try.html")),
            Route("/static/{name}", _static),
            *(Route(path, _get(handler, session)) for path, handler in get_routes.items()),
            *(
                Route(path, _post(handler, limit, session), methods=["POST"])
                for path, (handler, limit) in post_routes.items()
            ),
        ],
        exception_handlers={
            OvsegError: _deliberate_error,
            ValidationError: _validation_error,
            HTTPException: _http_error,
            ClientDisconnect: lambda _, __: Response(status_code=400),  # nobody reads it
        },
    )


class _ReviewPages:
    """The handlers of the review page; each request runs in a thread."""

    def __init__(self, session: ReviewSession, try_page: TryPage) -> None:
        self._session = session
        self._try_page = try_page
        answers: LRUCache[str, Any] = LRUCache(_ANSWERS_KEPT)
        # A message that is sent again gets the first answer, also while that is being made.
        self._answer_once: Callable[[str, Callable[[], Any]], Any] = cached(
            answers, key=lambda nonce, answer: nonce, condition=Condition()
        )(lambda nonce, answer: answer())

    def run(self, request: Request) -> Response:
        del request
        self._session.refresh()
        return JSONResponse(self._session.facts())

    def view(self, request: Request) -> Response:
        wanted = ScoreFilter.model_validate(dict(request.query_params))
        return JSONResponse(self._session.open_view(wanted, self._try_page.text_vector))

    def items(self, request: Request) -> Response:
        start, limit = (_whole_number(request, name) for name in ("start", "limit"))
        view = request.query_params.get("view", "")
        items = self._session.items(view, start, min(limit, _MAX_ITEMS))
        return JSONResponse({"items": items})

    def place(self, request: Request) -> Response:
        view = request.query_params.get("view", "")
        return JSONResponse({"place": self._session.place(view, _image_id(request))})

    def image(self, request: Request) -> Response:
        order = request.query_params.get("order", PRIORITY)
        return JSONResponse(self._session.image(_image_id(request), order))

    def photo(self, request: Request) -> Response:
        return self.picture(
            request, "large" if request.query_params.get("size") == "large" else "small"
        )

    def picture(self, request: Request, kind: Kind) -> Response:
        data = self._session.picture(_image_id(request), kind)
        return _picture(data, "image/jpeg" if kind in ("small", "large") else "image/png")

    def tint(self, request: Request) -> Response:
        data, name = self._session.tint(_image_id(request))
        if request.query_params.get("tint", "") == name:
            return _picture(data, "image/png")
        # Somebody has decided since the page was told the name: not to be kept by it.
        return Response(data, media_type="image/png", headers={"Cache-Control": "no-store"})

    def decide(self, body: bytes) -> Any:
        message = DecisionMessage.model_validate(_json(body))
        decisions = message.as_decisions(time.time())
        return self._once(message.nonce, lambda: self._session.decide(decisions, message.nonce))

    def undo(self, body: bytes) -> Any:
        message = UndoMessage.model_validate(_json(body))
        return self._once(
            message.nonce, lambda: self._session.undo(time.time(), message.source, message.nonce)
        )

    def _once(self, nonce: str, answer: Callable[[], Any]) -> Any:
        return self._answer_once(nonce, answer) if nonce else answer()


def _check_run(request: Request, session: ReviewSession) -> None:
    """Refuse a page that was loaded when this address served another run, or generation of it.

    What a person decides on the masks of one generation is not stored on those of another.
    """
    key, given = session.key, request.headers.get(_RUN_HEADER) or request.query_params.get("v", "")
    if given in ("", key):
        return
    (run, now), (its_run, before) = (text.partition("-")[::2] for text in (key, given))
    if its_run != run:
        raise HTTPException(409, "Another run than the page's is reviewed at this address now.")
    raise UserError(
        f"this page shows generation {before} of the run's images, and generation {now} is "
        "reviewed now: load the page again"
    )


def _get(handler: Callable[[Request], Response], session: ReviewSession) -> Handler:
    def answer(request: Request) -> Response:
        _check_run(request, session)
        return handler(request)

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(answer, request)

    return endpoint


def _post(handler: Callable[[bytes], Any], max_bytes: int, session: ReviewSession) -> Handler:
    async def endpoint(request: Request) -> Response:
        body = await _body(request, max_bytes)

        def answer() -> Any:
            _check_run(request, session)
            return handler(body)

        return JSONResponse(await run_in_threadpool(answer))

    return endpoint


async def _body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body; never more than the limit is held in memory."""
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
        # Also refuses NaN, lone surrogates and very deep nesting, which fail later on.
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise HTTPException(400, "expected JSON") from error


def _image_id(request: Request) -> str:
    return request.query_params.get("id", "")


def _whole_number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(400, f"expected a whole number for {name}")
    return int(text)


def _picture(data: bytes, kind: str) -> Response:
    return Response(data, media_type=kind, headers=_CACHED)


@cache
def _assets() -> dict[str, bytes]:
    """Return the files of the pages by name; they are read once, and no other file is opened."""
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


def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return JSONResponse({"error": problems(error)[0]}, 400)


def _deliberate_error(_: Request, error: Exception) -> Response:
    statuses = {UnknownImageError: 404, ForgottenViewError: 410, StorageError: 503}
    status = next((n for kind, n in statuses.items() if isinstance(error, kind)), 422)
    code = str(error.code) if isinstance(error, ImageError) else ""
    return JSONResponse({"error": redact(str(error)), "code": code}, status)


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
