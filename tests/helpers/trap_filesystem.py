"""A file system with traps: `trap:///folder/run` is the local folder, where some writes fail.

A trap is a file in `traps/` beside the run folder, named after a write, such as
`before-done-00002`; its content says what happens: `kill`, or `fail N` for N failing writes. A trap
is deleted when it was used, so that a second attempt succeeds; it works across processes.

`tests.helpers.fault_plan` has more kinds of faults, but its plan is in the environment, which the
workers of a running cluster do not see.
"""

import os
import signal
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

STEPS = ("before-images", "before-scores", "before-annotations", "before-done", "after-done")
"""The places in a shard's commit at which a process can die."""


class TrappedFiles(LocalFileSystem):
    protocol = "trap"
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).removeprefix("trap://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"trap://{self._strip_protocol(name)}"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        _spring("before", path)
        super().pipe_file(path, value, mode=mode, **options)
        _spring("after", path)


def set_trap(folder: Path, step: str, shard: int, what: str = "kill") -> None:
    """Set a trap for the run folder in `folder`."""
    traps = folder / "traps"
    traps.mkdir(exist_ok=True)
    (traps / f"{step}-{shard:05d}").write_text(what)


def traps_left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "traps").glob("*"))


def _spring(when: str, path: str) -> None:
    target = Path(path)
    shard = target.name[:5]
    trap = target.parents[2] / "traps" / f"{when}-{target.parent.name}-{shard}"
    if not trap.exists():
        return
    what, _, count = trap.read_text().partition(" ")
    if what == "kill":
        trap.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if count == "1":
        trap.unlink()
    else:
        trap.write_text(f"{what} {int(count) - 1}")
    raise OSError(5, f"the store fails: {target.name}")


fsspec.register_implementation("trap", TrappedFiles, clobber=True)
