"""A proxy on the loopback before an S3 store: it answers chosen requests with a fault."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Container
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HANG_S = 600.0
_HOP_BY_HOP = {"transfer-encoding", "connection", "content-length", "server", "date"}


@dataclass
class Rule:
    """Which requests fail, and how.

    Attributes:
        method: GET, PUT, LIST (a GET of a bucket), HEAD, DELETE, POST; "" for all.
        answer: a status, `STATUS:CODE` with the code of S3's error, `reset` the connection, `hang`
            without an answer, `truncate` the body, `lose` the answer of a request that was done,
            `ignore` the header.
        path: regular expression that must be found in the path with its query.
        skip: matching requests that pass before.
        times: requests that fail then; None: all.
        header: only requests with this header.
    """

    method: str
    answer: str
    path: str = ""
    skip: int = 0
    times: int | None = None
    header: str = ""
    seen: int = 0

    def applies(self, method: str, path: str, headers: Container[str]) -> bool:
        """Count a request; return whether it fails."""
        if self.header and self.header not in headers:
            return False
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        self.seen += 1
        last = float("inf") if self.times is None else self.skip + self.times
        return self.skip < self.seen <= last


class FailingProxy:
    """Serves on a free port of the loopback until it is closed.

    Args:
        upstream: URL of the store.

    Attributes:
        endpoint: URL of the proxy, for AWS_ENDPOINT_URL.
        requests: method, path with query, and the fault or "" of each request so far.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream)
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.requests: list[tuple[str, str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing of clients that have gone."""

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, *rules: Rule) -> None:
        """Replace the rules; without any, every request passes."""
        with self._lock:
            self._rules = list(rules)

    def close(self) -> None:
        """Stop serving; requests that hang end."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request of the client, by a rule or by the store."""
        body = _body(request)
        is_list = request.command == "GET" and (
            "list-type=" in request.path or "/" not in request.path.strip("/").split("?")[0]
        )
        method = "LIST" if is_list else request.command
        with self._lock:
            met = [r for r in self._rules if r.applies(method, request.path, request.headers)]
            fault = met[0].answer if met else ""
            self.requests.append((method, request.path, fault))
        if fault[:1] in ("4", "5"):
            _send_error(request, fault)
        elif fault == "hang":
            self._closed.wait(HANG_S)
            request.close_connection = True
        elif fault == "reset":
            _reset(request)
        else:
            if fault == "ignore":
                del request.headers[met[0].header]
            self._forward(request, body, fault)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, fault: str) -> None:
        store = http.client.HTTPConnection(str(self._upstream.hostname), self._upstream.port)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        store.request(
            request.command, request.path, body, headers | {"Content-Length": str(len(body))}
        )
        answer = store.getresponse()
        data = answer.read()
        store.close()
        if fault == "lose":
            _reset(request)
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                request.send_header(name, value)
        is_head = request.command == "HEAD"
        length = answer.getheader("Content-Length", "0") if is_head else str(len(data))
        request.send_header("Content-Length", length)
        request.end_headers()
        if fault == "truncate":
            request.wfile.write(data[: len(data) // 2])
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
        elif not is_head:
            request.wfile.write(data)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    parts = []
    while size := int(request.rfile.readline().split(b";")[0], 16):
        parts.append(request.rfile.read(size))
        request.rfile.readline()
    request.rfile.readline()
    return b"".join(parts)


def _send_error(request: BaseHTTPRequestHandler, fault: str) -> None:
    status, _, code = fault.partition(":")
    code = code or {"503": "SlowDown", "500": "InternalError"}.get(status, "Error")
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
    data = b"" if request.command == "HEAD" else text.encode()
    request.send_response(int(status))
    request.send_header("Content-Type", "application/xml")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def _reset(request: BaseHTTPRequestHandler) -> None:
    linger_0 = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_0)
    request.connection.close()
    request.close_connection = True
