"""Files of remote stores by URL: the only module that imports fsspec."""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from pipeline.storage import http, uris
from pipeline.storage.failures import client_errors, s3_code
from pipeline.storage.local import DownloadLimit, FileTooLargeError
from pipeline.storage.places import WEB, ImagePlaces
from pipeline.storage.retry import Deadline, retrying
from pipeline.storage.waiting import is_ended, poll
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


T = TypeVar("T")
_UNKNOWN_SIZE_BYTES = 1 << 30
"""Size of a file to be fetched for which its budget is reckoned, where the server does not say."""
_LAST_MODIFIED = re.compile(rb"<LastModified>[^<]{0,64}</LastModified>")
_HUB, _WRITING = "hf", {"pipe_file", "put_file", "rm_file"}
_CONNECT_S, _SILENT_S = 10, 30
"""A connection is given up after so long without a byte; the operation is tried again."""


class RemoteFiles:
    """The operations of a store, on URLs of one fsspec file system.

    A file is one put of finished bytes, so that a killed writer leaves nothing.

    Args:
        uri: any URL of the file system.
        deadline: an operation that is not over by then is ended with TimeoutError, if the client
            is asynchronous (S3, GCS, Azure, HTTP); None: no limit.

    Raises:
        UserError: no client for its scheme is installed, or its settings are incomplete.
    """

    def __init__(self, uri: str, deadline: Deadline | None = None) -> None:
        self._fs = _file_system(uri)
        self._path: Callable[[str], str] = self._fs._strip_protocol
        self._deadline = deadline
        self._is_hub = uris.scheme(uri) == _HUB

    def read(self, path: str, max_bytes: int = 0, size_bytes: int | None = None) -> bytes:
        """Return the whole content.

        Args:
            path: of the file.
            max_bytes: FileTooLargeError is raised for more; 0: no limit.
            size_bytes: as listed, which saves a request.
        """
        self._allow(size_bytes or 0)
        is_s3 = hasattr(self._fs, "call_s3")
        if max_bytes and size_bytes is None and not is_s3:
            size_bytes = self.size(path)
        if max_bytes and (size_bytes or 0) > max_bytes:
            raise FileTooLargeError(redact(path), size_bytes or 0, max_bytes)
        if not is_s3:
            return bytes(self._call("cat_file", self._path(path)))
        bucket, key, _ = self._fs.split_path(self._path(path))
        return self._wait(self._s3_content(bucket, key, max_bytes))

    async def _s3_content(self, bucket: str, key: str, max_bytes: int, **query: str) -> bytes:
        answer = await self._fs._call_s3("get_object", Bucket=bucket, Key=key, **query)
        if 0 < max_bytes < answer["ContentLength"]:
            answer["Body"].close()
            raise FileTooLargeError(
                redact(f"s3://{bucket}/{key}"), answer["ContentLength"], max_bytes
            )
        self._allow(answer["ContentLength"])
        async with answer["Body"] as body:
            return await body.read()

    def read_image(
        self, path: str, size_bytes: int | None, max_bytes: int, places: ImagePlaces
    ) -> bytes:
        """Return the whole content of an image.

        Raises:
            FileTooLargeError: it has more than `max_bytes`.
            ImageError: `permission_denied`, see `http.image_content`.
        """
        if uris.scheme(path) in WEB:
            return self._web_content(path, max_bytes, places)
        return self.read(path, max_bytes, size_bytes)

    def read_part(self, path: str, part: http.ByteRange, places: ImagePlaces) -> bytes:
        """Return a part of a file of images, fewer bytes where the file ends.

        Raises:
            ImageError: see `http.image_content`.
        """
        self._allow(part.num_bytes)
        if uris.scheme(path) in WEB:
            return self._web_content(path, 0, places, part)
        if not hasattr(self._fs, "call_s3"):
            end = part.begin + part.num_bytes
            # The hub's client would read 5 MB ahead for each part.
            options = {"cache_type": "none"} if self._is_hub else {}
            place = self._path(path)
            return bytes(self._call("cat_file", place, start=part.begin, end=end, **options))
        bucket, key, _ = self._fs.split_path(self._path(path))
        return self._wait(self._s3_content(bucket, key, 0, Range=part.header))

    def _web_content(
        self, url: str, max_bytes: int, places: ImagePlaces, part: http.ByteRange | None = None
    ) -> bytes:
        files = _file_system(url, get_client=http.public_session), self._fs
        deadline = self._deadline or Deadline(float("inf"))
        return self._wait(http.image_content(files, url, max_bytes, places, deadline, part))

    def size(self, path: str) -> int:
        """Return the size in bytes; FileNotFoundError where there is no file."""
        self._fs.invalidate_cache()
        info = self._info(path)
        if info["type"] != "file":
            raise FileNotFoundError(f"not a file: {path}")
        return int(info["size"] or 0)

    def walk(self, folder: str) -> Iterator[tuple[str, int, str]]:
        """Yield (path relative to the folder, size in bytes, etag) of all files below it.

        Each page of S3's list has retries and a budget of its own.
        """
        self._fs.invalidate_cache()
        root = self._path(folder).rstrip("/") + "/"
        is_s3 = hasattr(self._fs, "call_s3")
        for name, size, etag in self._s3_objects(folder) if is_s3 else self._find(folder):
            if name.startswith(root) and not name.endswith("/"):
                yield name[len(root) :], size, etag

    def write(self, path: str, data: bytes) -> None:
        """Write or replace."""
        self._allow(len(data))
        self._call("pipe_file", self._path(path), data)

    def put(self, path: str, source: str) -> None:
        """Copy a local file here."""
        self._allow(Path(source).stat().st_size)
        self._call("put_file", source, self._path(path))

    def create(self, path: str, data: bytes) -> None:
        """Write a new file; FileExistsError where there is one."""
        self._allow(len(data))
        self._call("pipe_file", self._path(path), data, mode="create")

    def remove(self, path: str) -> None:
        """Delete; no error where there is nothing.

        That is looked up first: people may write to a bucket and not delete in it.
        """
        try:
            self._fs.invalidate_cache()
            self._info(path)
            self._call("rm_file", self._path(path))
        except FileNotFoundError:
            return

    def fetch(self, path: str, target: str, limit: DownloadLimit) -> None:
        """Copy to a local path, within a limit."""
        size = self._info(path).get("size")
        limit.check(size or 0)
        self._allow(size or _UNKNOWN_SIZE_BYTES)
        self._call("get_file", self._path(path), target, callback=_Counter(limit))

    def _info(self, path: str) -> dict[str, Any]:
        """Return what the client knows of a file.

        S3 answers HEAD without a text, so that expired credentials look like a wrong request. A
        GET of the first byte then says why. Of HTTP, fsspec takes every failure for a missing file.
        """
        is_s3 = hasattr(self._fs, "call_s3")
        try:
            return self._call("info", self._path(path))
        except OSError as error:
            if not is_s3 and isinstance(error.__cause__, client_errors()):
                raise error.__cause__ from None
            if not is_s3 or s3_code(error) not in ("400", "403"):
                raise
            bucket, key, _ = self._fs.split_path(self._path(path))
            first_byte = {"Bucket": bucket, "Key": key, "Range": "bytes=0-0"}
            with suppress(FileNotFoundError):
                self._call("call_s3", "get_object", **first_byte)
            raise

    def _allow(self, size_bytes: int) -> None:
        if self._deadline is not None:
            self._deadline.allow(size_bytes)

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the file system; end it at the deadline and with this thread's pool."""
        if self._is_hub:
            return self._call_hub(name, *args, **options)
        method = getattr(self._fs, f"_{name}", None)
        if not self._fs.async_impl or not asyncio.iscoroutinefunction(method):
            return getattr(self._fs, name)(*args, **options)
        return self._wait(method(*args, **options))

    def _call_hub(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a method of the hub's client, which is not asynchronous and has its own timeouts."""
        place = f"{_HUB}://{args[-1] if name == 'put_file' else args[0]}"
        if name in _WRITING:
            raise UserError(f"cannot write {redact(place)}: Hugging Face's hub is only read")
        try:
            return getattr(self._fs, name)(*args, **options)
        except OSError:  # some of which are values that the server refused
            raise
        except (ValueError, NotImplementedError) as error:
            raise UserError(
                f"{redact(place)} is no place at Hugging Face's hub; expected "
                f"hf://datasets/OWNER/NAME, perhaps with @REVISION and a path ({error})"
            ) from error

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._fs.loop)
        began_s = time.monotonic()
        try:
            if poll(lambda seconds: bool(wait([future], seconds).done), self._left_s):
                return future.result()
        finally:
            future.cancel()  # also when Ctrl-C ends the waiting
        if is_ended():
            raise TimeoutError("the process was told to end")
        waited_s = time.monotonic() - began_s
        raise TimeoutError(f"the store did not answer within {waited_s:.0f} s")

    def _left_s(self) -> float:
        return float("inf") if self._deadline is None else self._deadline.left_s

    def _find(self, folder: str) -> Iterator[tuple[str, int, str]]:
        # Without a limit: a client that lists page by page does not say how far it is.
        path = self._path(folder).rstrip("/")
        found = retrying(lambda _: self._call("find", path, detail=True), "list", folder)
        for name, info in found.items():
            etag = info.get("ETag") or info.get("etag") or info.get("blob_id") or ""
            yield name, int(info.get("size") or 0), str(etag).strip('"')

    def _s3_objects(self, folder: str) -> Iterator[tuple[str, int, str]]:
        # Page by page: fs.find would hold a dict of 1.5 kB for each of maybe millions of objects.
        bucket, prefix, _ = self._fs.split_path(self._path(folder).rstrip("/") + "/")
        more: dict[str, str] = {}
        while True:
            query = {"Bucket": bucket, "Prefix": prefix, **more}

            def page(deadline: Deadline, query: dict[str, str] = query) -> Any:
                files = RemoteFiles(folder, deadline)
                return files._wait(files._s3_page(query))

            answer = retrying(page, "list", folder)
            for entry in answer.get("Contents", []):
                etag = entry.get("ETag", "").strip('"')
                yield f"{bucket}/{entry['Key']}", int(entry["Size"]), etag
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    async def _s3_page(self, query: dict[str, str]) -> Any:
        await self._fs.set_session()
        client = await self._fs.get_s3(query["Bucket"])
        event = "before-parse.s3.ListObjectsV2"
        client.meta.events.register(event, _without_dates, unique_id="ovseg")
        return await self._fs._call_s3("list_objects_v2", **query)


def _without_dates(response_dict: dict[str, Any], **_: Any) -> None:
    """Leave out what nobody reads: of the client's time for a list, dates are four fifths."""
    response_dict["body"] = _LAST_MODIFIED.sub(b"", response_dict["body"])


class _Counter(fsspec.Callback):
    """Ends a copy whose bytes go beyond a limit, whatever size the server had stated."""

    def __init__(self, limit: DownloadLimit) -> None:
        super().__init__()
        self._limit = limit
        self._num_bytes = 0

    def set_size(self, size: int | None) -> None:
        """Take the size that the answer states."""
        self._limit.check(size or 0)

    def relative_update(self, inc: int = 1) -> None:
        """Take the number of bytes that were written now."""
        self._num_bytes += inc
        self._limit.check(self._num_bytes, is_written=True)


def _file_system(uri: str, **settings: Any) -> Any:
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
    options = kind._get_kwargs_from_urls(uri) | _client_options(protocol) | settings
    try:
        files = fsspec.filesystem(protocol, **options)
        if protocol in ("s3", "s3a"):
            files.retries = 1  # `retrying` tries again; the two would multiply
        return files
    except ValueError as error:  # so do clients refuse incomplete settings
        raise UserError(f"cannot use {redact(uri)}: {redact(str(error))}") from error


def _client_options(protocol: str) -> dict[str, Any]:
    """Return options with which a client gives up a silent connection, and does not try again."""
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        # The client's own limit of 300 s for a whole file would cut long downloads.
        timeout = ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
        return {"client_kwargs": {"trust_env": True, "timeout": timeout}}  # proxies, too
    if protocol in ("s3", "s3a"):
        client = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _SILENT_S,
            "max_pool_connections": 32,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        }
        # One request at a time for a file: otherwise each read asks for the size first.
        return {"max_concurrency": 1, "config_kwargs": client}
    return {}
