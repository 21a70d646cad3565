"""A web server on the loopback that answers from a table and notes every call."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class CallsServer:
    """A running server.

    Attributes:
        port: on 127.0.0.1.
        calls: method and path of every request.
        answers: by path: a file's content, or where it redirects to.
    """

    port: int = 0
    calls: list[str] = field(default_factory=list)
    answers: dict[str, bytes | str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def calls_server(**answers: bytes | str) -> Iterator[CallsServer]:
    """Serve; a name `a` answers at `/a`."""
    found = CallsServer(answers={f"/{name}": answer for name, answer in answers.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.calls.append(f"{self.command} {self.path}")
            answer = found.answers.get(self.path.partition("?")[0])
            if isinstance(answer, str):
                self.send_response(302)
                self.send_header("Location", answer)
            else:
                self.send_response(404 if answer is None else 200)
            body = answer if isinstance(answer, bytes) else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
