"""A bucket of ten million objects that are nowhere: a server that answers S3's listing of them.

In a process of its own, so that what it needs is not counted.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PREFIX = "images/"
URI = f"s3://bucket/{PREFIX}"
_PAGE = 1000
"""Objects in one answer, as in S3."""
_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def served(num_images: int) -> Iterator[dict[str, str]]:
    """Serve the bucket; yield the environment variables by which it is found."""
    command = [sys.executable, "-m", "benchmarks.large_bucket", str(num_images)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None  # it is a pipe
            yield {**_KEYS, "AWS_ENDPOINT_URL": server.stdout.readline().strip()}
        finally:
            server.terminate()


def _entry(place: int) -> str:
    etag = hashlib.md5(str(place).encode(), usedforsecurity=False).hexdigest()
    return (
        f"<Contents><Key>{PREFIX}{place // 1000:05d}/photo-{place:08d}.jpg</Key>"
        f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
        f"<Size>{20_000 + place % 977}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def _page(first: int, num_images: int) -> bytes:
    end = min(first + _PAGE, num_images)
    more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < num_images else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        f"<Prefix>{PREFIX}</Prefix><KeyCount>{end - first}</KeyCount><MaxKeys>{_PAGE}</MaxKeys>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        f"{''.join(map(_entry, range(first, end)))}</ListBucketResult>"
    ).encode()


def main(num_images: int) -> None:
    """Serve on the loopback, at the address that is printed, until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(404, b"")  # no object has a name that is asked for

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if "list-type" not in query:
                self._answer(404, b"")
                return
            is_within = query.get("prefix", [""])[0].startswith(PREFIX)
            first = int(query.get("continuation-token", ["0"])[0])
            self._answer(200, _page(first, num_images if is_within else 0))

        def _answer(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
