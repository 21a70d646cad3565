"""`faulty://` + an absolute local path: a real fsspec file system that fails as planned.

It behaves like an object store: a write is visible when it is whole, unless a fault truncates it.
See `tests.helpers.fault_plan` for the plan.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from tests.helpers.fault_plan import due, kill_this_process

T = TypeVar("T")


class FaultyFileSystem(AbstractFileSystem):
    """The local disk with planned faults."""

    protocol = "faulty"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._disk = LocalFileSystem()

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        return _carry_out(
            "read", path, lambda: self._disk.cat_file(self._strip_protocol(path), start, end)
        )

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError("an object store is written by whole puts")
        return _carry_out("read", path, lambda: self._disk.open(self._strip_protocol(path), "rb"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        operation = "create" if mode == "create" else "write"
        place = Path(self._strip_protocol(path))
        _carry_out(
            operation, path, lambda: _write(place, value, mode), half=lambda: _half(place, value)
        )

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        place, value = Path(self._strip_protocol(rpath)), Path(lpath).read_bytes()
        _carry_out(
            "put",
            rpath,
            lambda: _write(place, value, "overwrite"),
            half=lambda: _half(place, value),
        )

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def rm_file(self, path: str) -> None:
        _carry_out("delete", path, lambda: self._disk.rm_file(self._strip_protocol(path)))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._disk.info(self._strip_protocol(path))

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return self._disk.ls(self._strip_protocol(path), detail=detail)

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        return _carry_out(
            "list", path, lambda: self._disk.find(self._strip_protocol(path), *args, **options)
        )


def _carry_out(
    operation: str, path: str, work: Callable[[], T], half: Callable[[], None] | None = None
) -> T:
    action = due(operation, path)
    if action == "kill":
        kill_this_process()
    if action == "error":
        raise OSError(errno.EIO, "planned failure", path)
    if action == "full_disk":
        raise OSError(errno.ENOSPC, "No space left on device", path)
    if action == "denied":
        raise PermissionError(errno.EACCES, "planned refusal", path)
    if action == "truncate" and half is not None:
        half()
        raise OSError(errno.EIO, "planned failure in the middle", path)
    result = work()
    if action == "kill_after":
        kill_this_process()
    if action == "lost_answer":
        raise TimeoutError(f"planned: the answer about {path} was lost")
    return result


def _write(place: Path, value: bytes, mode: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.write_bytes(value)
    try:
        if mode == "create":
            os.link(temporary, place)
        else:
            temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def _half(place: Path, value: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(value[: len(value) // 2])


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
