"""A server on the loopback that answers what Hugging Face's client asks of a hub for data sets."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_TokenOfATest"


@dataclass
class Hub:
    """What is served, and what was asked for.

    Attributes:
        url: of the hub.
        files: contents by path, of the only data set there is, `acme/pets`.
        refused: the hub's error code for everything; empty: it answers.
        needs_token: only who has `TOKEN` is answered.
        ranges: header `Range` of each request for a file.
    """

    url: str
    files: Mapping[str, bytes]
    refused: str = ""
    needs_token: bool = False
    ranges: list[str] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that asks this hub."""
        mine = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
        return {**mine, "HF_ENDPOINT": self.url, "HF_HUB_DISABLE_TELEMETRY": "1", **more}


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = unquote(urlsplit(self.path).path)
        if self.hub.refused:
            return self._refuse(403 if self.hub.refused == "GatedRepo" else 401, self.hub.refused)
        if self.hub.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "RepoNotFound")
        if not re.match("(/api)?/datasets/acme/pets(/|$)", place):
            return self._refuse(404, "RepoNotFound")
        if found := re.fullmatch(r"/datasets/acme/pets/resolve/main/(.+)", place):
            return self._file(found[1])
        if found := re.fullmatch(r"/api/datasets/acme/pets/tree/main/?(.*)", place):
            return self._tree(found[1])
        if re.fullmatch("/api/datasets/acme/pets(/revision/main)?", place):
            return self._send(json.dumps({"id": "acme/pets", "sha": "0" * 40}).encode())
        return self._refuse(404, "RevisionNotFound")

    def _tree(self, folder: str) -> None:
        is_deep = "recursive=true" in self.path.lower()
        found = {}
        for path, data in self.hub.files.items():
            below = path.removeprefix(f"{folder}/") if folder else path
            if folder and below == path:
                continue
            if "/" in below and not is_deep:
                name = "/".join(filter(None, [folder, below.split("/")[0]]))
                found[name] = {"type": "directory", "path": name, "oid": "1", "size": 0}
            else:
                oid = sha1(data).hexdigest()
                found[path] = {"type": "file", "path": path, "oid": oid, "size": len(data)}
        if not found:
            return self._refuse(404, "EntryNotFound")
        return self._send(json.dumps(list(found.values())).encode())

    def _file(self, path: str) -> None:
        if path not in self.hub.files:
            return self._refuse(404, "EntryNotFound")
        asked = self.headers.get("Range", "")
        self.hub.ranges.append(asked)
        data, status = self.hub.files[path], 200
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", asked):
            data, status = data[int(found[1]) : int(found[2]) + 1], 206
        return self._send(data, status)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", status, code)

    def _send(self, data: bytes, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving_hub(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serve a data set."""

    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        hub = Hub(f"http://127.0.0.1:{server.server_port}", dict(files))
        server.RequestHandlerClass = type("Answers", (_Answers,), {"hub": hub})
        Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
