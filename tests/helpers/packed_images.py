"""Archives and tables of drawn images, and a web server that gives parts of files."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.image_files import encoded, picture


def drawn(number: int) -> bytes:
    """Return a PNG that differs from those of other numbers."""
    return encoded(picture(24 + number % 7, 40 + number // 7))


def samples_of(first: int, count: int) -> dict[str, bytes]:
    """Return the members of a WebDataset shard: images, each with a class and a text."""
    members = {}
    for number in range(first, first + count):
        members[f"{number:04d}.cls"] = b"1"
        members[f"{number:04d}.png"] = drawn(number)
        members[f"{number:04d}.txt"] = b"a picture"
    return members


def tar_bytes(members: Mapping[str, bytes], **options: int) -> bytes:
    """Return a tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zip_bytes(members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


def hugging_face_table(
    contents: Sequence[bytes | None],
    paths: Sequence[str | None],
    column: str = "image",
    more: Mapping[str, Sequence[object]] | None = None,
) -> pa.Table:
    """Return a table as the library `datasets` has it, with its feature Image."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": path} for data, path in zip(contents, paths, strict=True)]
    table = pa.table({"label": [1] * len(rows), column: pa.array(rows, kind), **(more or {})})
    features = {"label": {"dtype": "int64", "_type": "Value"}, column: {"_type": "Image"}}
    told = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": told})


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    """Return a table as the content of a file, by the options of pyarrow's writer."""
    data = io.BytesIO()
    pq.write_table(table, data, **options)
    return data.getvalue()


@dataclass
class FileServer:
    """What a web server has served.

    Attributes:
        url: of its folder.
        ranges: the header `Range` of each GET; empty: the whole file.
    """

    url: str
    ranges: list[str] = field(default_factory=list)


@contextmanager
def serving_files(folder: Path, *, gives_parts: bool = True) -> Iterator[FileServer]:
    """Serve a folder on the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            served.ranges.append(self.headers.get("Range", ""))
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            file = folder / self.path.partition("?")[0].lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data, status = file.read_bytes(), 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and int(asked[1]) >= len(data):
                self.send_error(416)
                return
            if asked and gives_parts and with_body:
                data, status = data[int(asked[1]) : int(asked[2]) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        served = FileServer(f"http://127.0.0.1:{server.server_port}")
        yield served
        server.shutdown()
