"""What `ovseg submit` sends to a cluster: the job, a script that starts it, and ovseg if asked."""

import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from jobs.cluster import node_check
from pipeline.job.termination import GRACE_S
from pipeline.storage.retry import TIMEOUT_ENV
from schemas.config import JobConfig
from schemas.errors import ConfigError
from schemas.untrusted import LOG_FORMAT_ENV

ENTRYPOINT = "sh annotate.sh"
"""Command that the cluster runs in the uploaded folder: `job.yaml` and the script below."""
STOP_WAIT_S = round(4 * GRACE_S)
"""Seconds that Ray gives a job between SIGTERM and SIGKILL; by itself 3."""
_PASSED_ON = (TIMEOUT_ENV, LOG_FORMAT_ENV)
"""Environment variables of this command that the cluster's gets, too."""
PACKAGES = ("schemas", "ovseg_core", "pipeline", "jobs")
_SCRIPT = """\
# Annotates by the first interpreter of this node that has {what}.
for python in python python3 {own}; do
  if "$python" -c '{probe}' 2>/dev/null; then
    "$python" node_check.py || exit 1
    exec "$python" -m jobs annotate job.yaml
  fi
done
echo "error: {what} is not installed on the cluster's nodes: none of python and python3 on the" \\
  "PATH of $(hostname), and" {own} "has it. Install the same version on every node, and start" \\
  "Ray from that environment: activate it, then \\`ray start\\`" >&2
exit 1
"""


def cluster_script(own_python: str, *, ship: bool = False) -> str:
    """Return the shell script that finds the cluster's ovseg and runs `job.yaml` by it.

    Args:
        own_python: the interpreter of this machine, tried after those on the node's PATH: the head
            may run on this machine, or share its disk.
        ship: ovseg is sent along, so an interpreter with Ray is enough.
    """
    what, probe = (
        ("Ray", "import ray") if ship else ("ovseg", "import jobs.cli, ovseg_core, pipeline")
    )
    return _SCRIPT.format(own=shlex.quote(own_python), what=what, probe=probe)


def write_upload(config: JobConfig, folder: Path, *, ship: bool) -> dict[str, Any]:
    """Write what is uploaded into a folder, and return it as a runtime environment of Ray.

    With `ship` the packages that run here go as Ray's `py_modules`, which every node unpacks in
    front of what is installed there. They are not handed over as a wheel file: Ray would install
    its dependencies beside it, torch included, and a run is one with one set of libraries.

    Args:
        config: the job.
        folder: an empty folder.
        ship: send the code of ovseg along.

    Raises:
        ConfigError: there is no package of ovseg to send.
    """
    uploaded = folder / "job"
    uploaded.mkdir()
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    (uploaded / "job.yaml").write_text(text, encoding="utf-8")
    script = cluster_script(sys.executable or "python", ship=ship)
    (uploaded / "annotate.sh").write_text(script, encoding="utf-8")
    shutil.copy(node_check.__file__, uploaded / "node_check.py")
    env_vars = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    env_vars["RAY_JOB_STOP_WAIT_TIME_S"] = str(STOP_WAIT_S)
    runtime_env: dict[str, Any] = {"working_dir": str(uploaded), "env_vars": env_vars}
    sent: dict[str, Any] = {"python": platform.python_version(), "code": ""}
    sent |= {name: node_check.installed_version(name) for name in ("ray", "ovseg")}
    if ship:
        modules = _copy_code(folder / "code")
        runtime_env["py_modules"] = [str(module) for module in modules]
        sent |= {
            "code": _code_hash(folder / "code"),
            "requires_python": metadata.metadata("ovseg")["Requires-Python"] or "",
            "requires": metadata.requires("ovseg") or [],
        }
    (uploaded / node_check.SENT).write_text(json.dumps(sent), encoding="utf-8")
    return runtime_env


def _copy_code(folder: Path) -> list[Path]:
    """Copy ovseg as it runs here, and its package's metadata, and return the folders.

    Raises:
        ConfigError: it is not installed as a package, so what it needs is not known.
    """
    if not (version := node_check.installed_version("ovseg")):
        raise ConfigError("--ship: ovseg is not installed here as a package: `pip install -e .`")
    folder.mkdir()
    modules = []
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations
        [place] = spec.submodule_search_locations
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
        modules.append(shutil.copytree(place, folder / package, ignore=ignore))
    about = folder / f"ovseg-{version}.dist-info"
    about.mkdir()
    package_of = metadata.distribution("ovseg")
    text = package_of.read_text("METADATA") or package_of.read_text("PKG-INFO") or ""
    (about / "METADATA").write_text(text, encoding="utf-8")
    return [*modules, about]


def _code_hash(folder: Path) -> str:
    """Return a hash of the names and contents of all files of a folder, short enough to compare."""
    hashed = hashlib.sha256()
    for name in sorted(_names(folder)):
        hashed.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    return hashed.hexdigest()[:8]


def _names(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
