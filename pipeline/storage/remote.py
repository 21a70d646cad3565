"""Files of remote stores by URL: the only module that imports fsspec."""

from collections.abc import Callable, Iterator
from typing import Any

import fsspec

from pipeline.storage import uris
from schemas.errors import UserError
from schemas.redact import redact

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "az": "azure",
}
"""The pip extra that brings a scheme's client."""


class RemoteFiles:
    """The operations of a store, on URLs of one fsspec file system.

    A file is one put of finished bytes, so that a killed writer leaves nothing.

    Args:
        uri: any URL of the file system.

    Raises:
        UserError: no client for its scheme is installed, or its settings are incomplete.
    """

    def __init__(self, uri: str) -> None:
        self._fs = _file_system(uri)
        self._path: Callable[[str], str] = self._fs._strip_protocol

    def read(self, path: str) -> bytes:
        """Return the whole content."""
        return bytes(self._fs.cat_file(self._path(path)))

    def size(self, path: str) -> int:
        """Return the size in bytes; FileNotFoundError where there is no file."""
        self._fs.invalidate_cache()
        info = self._fs.info(self._path(path))
        if info["type"] != "file":
            raise FileNotFoundError(f"not a file: {path}")
        return int(info["size"] or 0)

    def walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path relative to the folder, size in bytes, etag) of all files below it."""
        self._fs.invalidate_cache()
        root = self._path(folder).rstrip("/") + "/"
        is_s3 = hasattr(self._fs, "call_s3")
        for name, size, etag in self._s3_objects(root) if is_s3 else self._find(root):
            if name.startswith(root) and not name.endswith("/"):
                yield name[len(root) :], size, etag

    def write(self, path: str, data: bytes) -> None:
        """Write or replace."""
        self._fs.pipe_file(self._path(path), data)

    def put(self, path: str, source: str) -> None:
        """Copy a local file here."""
        self._fs.put_file(source, self._path(path))

    def create(self, path: str, data: bytes) -> None:
        """Write a new file; FileExistsError where there is one."""
        self._fs.pipe_file(self._path(path), data, mode="create")

    def remove(self, path: str) -> None:
        """Delete; no error where there is nothing."""
        try:
            self._fs.rm_file(self._path(path))
        except FileNotFoundError:
            return

    def fetch(self, path: str, target: str) -> None:
        """Copy to a local path."""
        self._fs.get_file(self._path(path), target)

    def _find(self, root: str) -> Iterator[tuple[str, int, str]]:
        for name, info in self._fs.find(root.rstrip("/"), detail=True).items():
            etag = info.get("ETag") or info.get("etag") or ""
            yield name, int(info.get("size") or 0), str(etag).strip('"')

    def _s3_objects(self, root: str) -> Iterator[tuple[str, int, str]]:
        # Page by page: fs.find would hold a dict of 1.5 kB for each of maybe millions of objects.
        bucket, prefix, _ = self._fs.split_path(root)
        more: dict[str, str] = {}
        while True:
            page = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
            for entry in page.get("Contents", []):
                etag = entry.get("ETag", "").strip('"')
                yield f"{bucket}/{entry['Key']}", int(entry["Size"]), etag
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}


def _file_system(uri: str) -> Any:
    protocol = uris.scheme(uri)
    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'ovseg[{extra}]'" if extra else str(error)
        raise UserError(
            f"{protocol}:// needs a client package that is not installed: {hint}"
        ) from error
    except ValueError as error:
        raise UserError(
            f"unknown scheme {protocol}:// in {redact(uri)}; s3://, gs://, abfs:// are usual"
        ) from error
    options = kind._get_kwargs_from_urls(uri) | _client_options(protocol)
    try:
        return fsspec.filesystem(protocol, **options)
    except ValueError as error:  # so do clients refuse incomplete settings
        raise UserError(f"cannot use {redact(uri)}: {redact(str(error))}") from error


def _client_options(protocol: str) -> dict[str, Any]:
    """Return options with which a client fails within two minutes where its server is silent."""
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        # The client's own limit of 300 s for a whole file would cut long downloads.
        timeout = ClientTimeout(total=None, sock_connect=20, sock_read=60)
        return {"client_kwargs": {"trust_env": True, "timeout": timeout}}  # proxies, too
    if protocol in ("s3", "s3a"):
        client = {
            "connect_timeout": 20,
            "read_timeout": 60,
            "max_pool_connections": 32,
            "retries": {"mode": "standard", "max_attempts": 2},
        }
        # One request at a time for a file: otherwise each read asks for the size first.
        return {"max_concurrency": 1, "config_kwargs": client}
    return {}
