"""The requests of a browser that looks through the review and try pages, without a socket."""

import asyncio
import json
import os
from typing import Any
from urllib.parse import quote, urlencode

from starlette.types import Message

from pipeline.review.server import Listening

_ORDERS = ("priority", "path")


def visit_pages(listening: Listening) -> None:
    """Send what the pages send, in place of `Listening.serve`; say which answers are faults."""
    listening.socket.close()
    browser = _Browser(listening)
    for page in ("/", "/try", "/static/grid.js"):
        browser.ask(page)
    facts = browser.ask("/api/run")
    orders = [*_ORDERS, *facts.get("compared", {})]
    labels = [label["name"] for label in facts.get("labels", [])[:2]]
    views = [{"order": order} for order in orders] + [{"label": label} for label in labels]
    seen: list[str] = []
    for wanted in (*views, {"failed": "any"}, {"text": "é"}):
        view = browser.ask("/api/view", **wanted)
        answer = browser.ask("/api/items", view=view.get("view", ""), start=0, limit=5)
        seen += [item["image_id"] for item in answer.get("items", [])]
    for identity in dict.fromkeys(seen):
        browser.ask("/api/image", id=identity)
        for path in ("/photo", "/tint", "/segments"):
            browser.ask(path, id=identity)
        browser.ask("/photo", id=identity, size="large")
        browser.send("/api/decisions", {"decisions": [{"image_id": identity, "action": "accept"}]})
    browser.send("/api/undo", {})
    method = browser.ask("/api/try").get("method", {}).get("name", "x")
    browser.ask("/api/try/methods")
    for identity in seen[:1]:
        words = {
            "source": "run",
            "id": identity,
            "words": ["cat"],
            "method": method,
        }
        browser.send("/api/try/segment", words)


class _Browser:
    def __init__(self, listening: Listening) -> None:
        self._app: Any = listening.server.config.app

    def ask(self, path: str, **query: Any) -> Any:
        return self._answer("GET", path, urlencode(query, errors="replace"), b"")

    def send(self, path: str, body: Any) -> Any:
        return self._answer("POST", path, "", json.dumps(body).encode())

    def _answer(self, method: str, path: str, query: str, body: bytes) -> Any:
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": quote(path).encode(),
            "query_string": query.encode(), "root_path": "", "scheme": "http",
            "headers": [(b"host", b"127.0.0.1"), (b"x-ovseg", b"1")],
        }  # fmt: skip
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        status = sent[0]["status"]
        if status >= 500:  # the files of a run that can be read are no outage
            os.write(2, f"FUZZ: {method} {path}?{query} answered {status}\n".encode())
        kinds = dict(sent[0]["headers"])
        if b"json" not in kinds.get(b"content-type", b"") or status != 200:
            return {}
        return json.loads(b"".join(part.get("body", b"") for part in sent[1:]))
