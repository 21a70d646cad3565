"""A review server on the loopback in a thread of the test, and a plain HTTP client."""

import asyncio
import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from PIL import Image
from starlette.types import ASGIApp, Message

from pipeline.review.server import Address, listen
from pipeline.run.folder import RunFolder

OWN = {"X-Ovseg": "1"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Requests to one server; `url` is the one that the server printed."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a path as it is, without escaping."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        return self.request("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, OWN)

    def shown(self, **wanted: Any) -> list[dict[str, Any]]:
        """Return all images that pass a filter, in the order of the grid."""
        view = self.get("/api/view", **wanted).json
        items: list[dict[str, Any]] = []
        while len(items) < view["total"]:
            page = self.get("/api/items", view=view["view"], start=len(items), limit=4)
            items += page.json["items"]
        return items

    def decide(self, **decision: Any) -> Answer:
        return self.post("/api/decisions", {"decisions": [decision]})


def read_picture(data: bytes) -> np.ndarray:
    """Return the pixels of a JPEG or PNG file."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def answer_of(
    app: ASGIApp, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    """Return the answer of an ASGI application to one request without a body, and no server."""
    target = urlsplit(path)
    given = {"host": "127.0.0.1:8420", **(headers or {})}
    scope = {
        "type": "http", "method": method, "path": target.path, "raw_path": target.path.encode(),
        "query_string": target.query.encode(), "root_path": "", "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start, *parts = sent
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], answered, b"".join(part["body"] for part in parts))


@contextmanager
def serving(run: RunFolder, address: Address | None = None, only: str = "") -> Iterator[Client]:
    """Serve a run at a free port until the block ends."""
    listening = listen(run, address or Address(port=0), only=only)
    thread = threading.Thread(target=listening.serve)
    thread.start()
    try:
        yield Client(listening.url)
    finally:
        listening.server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()
