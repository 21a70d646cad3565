"""Faults that are planned in the environment, so that every process of a test meets them.

A fault happens at the n-th matching operation of all processes together, once: the operations are
counted in a file. Two things carry faults out, without a mock of our own code:

- `tests.helpers.faulty_filesystem`, a real fsspec file system `faulty://` over the local disk;
- the hook of this module, which kills the process at a system call on a plain local path
  (`os.rename` comes from os.replace, `os.link` from a creation, `open` from any file opened).

    env = fault_environment(tmp_path, [Fault("create", "done/", action="kill_after")])
    subprocess.run([...], env=os.environ | env)
"""

import fcntl
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

PLAN_ENV = "OVSEG_TEST_FAULTS"
Action = Literal["error", "full_disk", "denied", "truncate", "lost_answer", "kill", "kill_after"]
_REPOSITORY = Path(__file__).resolve().parents[2]
_SYSTEM_CALLS = ("os.rename", "os.link", "os.remove", "open")


@dataclass(frozen=True)
class Fault:
    """One planned fault.

    Attributes:
        operation: write, create, put, read, list, delete of `faulty://`; or a system call by its
            audit event (`os.rename`, `os.link`, `os.remove`, `open`); "" for any of `faulty://`.
        path: regular expression that must be found in the path (of a rename: the new one).
        nth: the matching operation at which it happens, from 1.
        action: `error` a passing failure, `truncate` half of a write then a failure, `lost_answer`
            the operation done but reported as failed, `kill` SIGKILL before, `kill_after` behind.
        times: at how many operations in a row.
    """

    operation: str = ""
    path: str = ""
    nth: int = 1
    action: Action = "error"
    times: int = 1


def fault_environment(folder: Path, faults: Sequence[Fault]) -> dict[str, str]:
    """Return the environment variables under which processes meet the faults.

    Args:
        folder: an empty folder for the plan, the count and the plugin that makes `faulty://` known.
        faults: the plan.
    """
    plugin = folder / "plugin"
    info = plugin / "faulty_fs-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-fs\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[fsspec.specs]\nfaulty=tests.helpers.faulty_filesystem:FaultyFileSystem\n"
    )
    (plugin / "sitecustomize.py").write_text(
        "from tests.helpers import fault_plan\nfault_plan.install_hook()\n"
    )
    plan = folder / "plan.json"
    plan.write_text(json.dumps([asdict(fault) for fault in faults]))
    paths = [str(plugin), str(_REPOSITORY), os.environ.get("PYTHONPATH", "")]
    return {PLAN_ENV: str(plan), "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def operations(folder: Path) -> list[tuple[str, str]]:
    """Return (operation, path) of all that happened under the plan in `folder`, in order."""
    log = folder / "plan.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(operation, path) for operation, path in map(json.loads, lines)]


def due(operation: str, path: str) -> Action | None:
    """Count an operation and return what shall happen at it."""
    plan = os.environ.get(PLAN_ENV)
    if not plan:
        return None
    faults = [Fault(**fault) for fault in json.loads(Path(plan).read_text())]
    with Path(plan).with_suffix(".log").open("a+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        log.seek(0)
        before = [tuple(json.loads(line)) for line in log]
        log.write(json.dumps([operation, path]) + "\n")
        log.flush()
    for fault in faults:
        if _matches(fault, operation, path):
            count = sum(_matches(fault, *earlier) for earlier in before) + 1
            if fault.nth <= count < fault.nth + fault.times:
                return fault.action
    return None


def kill_this_process() -> None:
    """End at once: no exception handlers, no flushing."""
    os.kill(os.getpid(), signal.SIGKILL)


def install_hook() -> None:
    """Kill this process at the planned system calls; called by the plugin's sitecustomize."""
    plan = os.environ.get(PLAN_ENV)
    if not plan:
        return
    planned = [Fault(**fault) for fault in json.loads(Path(plan).read_text())]
    watched = [fault for fault in planned if fault.operation in _SYSTEM_CALLS]
    inside = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        if inside or event not in _SYSTEM_CALLS:
            return
        path = str(arguments[1] if event in ("os.rename", "os.link") else arguments[0])
        if any(_matches(fault, event, path) for fault in watched):
            inside = True
            if due(event, path) == "kill":
                kill_this_process()
            inside = False

    if watched:
        sys.addaudithook(hook)


def _matches(fault: Fault, operation: str, path: str) -> bool:
    return fault.operation in ("", operation) and re.search(fault.path, path) is not None
