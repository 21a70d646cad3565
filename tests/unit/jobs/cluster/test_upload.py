"""What goes to a cluster, and the script that starts it on a node."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cluster.node_check import SENT
from jobs.cluster.upload import PACKAGES, cluster_script, write_upload
from schemas.config import JobConfig

CONFIG = JobConfig.model_validate({"images": "/in", "out": "/out", "labels": ["cat"]})


def run_on_node(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run the uploaded script on a node whose `python` on the PATH has no ovseg."""
    commands = folder / "bin"
    commands.mkdir()
    (commands / "python").write_text("#!/bin/sh\nexit 1\n")
    (commands / "python").chmod(0o755)
    (commands / "hostname").symlink_to("/bin/echo")
    return subprocess.run(
        ["/bin/sh", "annotate.sh"],
        cwd=folder,
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("ship", [False, True])
def test_the_node_uses_an_interpreter_that_is_able_to(tmp_path: Path, ship: bool) -> None:
    write_upload(CONFIG, tmp_path, ship=ship)
    (tmp_path / "job" / "job.yaml").write_text("out: run\n")
    result = run_on_node(tmp_path / "job")
    assert result.returncode == 1
    assert "error: images: missing" in result.stderr
    assert ("as it was sent (code " in result.stderr) == ship
    assert "differ" not in result.stderr


@pytest.mark.parametrize(("ship", "what"), [(False, "ovseg"), (True, "Ray")])
def test_a_node_without_such_an_interpreter_says_so(tmp_path: Path, ship: bool, what: str) -> None:
    (tmp_path / "annotate.sh").write_text(cluster_script("/no/such folder/python", ship=ship))
    result = run_on_node(tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {what} is not installed on the cluster's nodes")
    assert "/no/such folder/python has it" in result.stderr
    assert "then `ray start`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_shipped_code_is_all_that_runs_here_and_finds_its_version(tmp_path: Path) -> None:
    runtime_env = write_upload(CONFIG, tmp_path, ship=True)
    *modules, about = map(Path, runtime_env["py_modules"])
    assert [module.name for module in modules] == list(PACKAGES)
    assert about.name.endswith(".dist-info")
    files = {path.relative_to(about.parent).as_posix() for path in about.parent.rglob("*")}
    assert {"jobs/cli.py", "pipeline/review/static", "jobs/configs/embedded.yaml"} <= files
    assert not [name for name in files if "__pycache__" in name]
    code = (
        "import importlib.metadata, jobs, ovseg_core, pathlib; "
        "print(importlib.metadata.version('ovseg'), pathlib.Path(jobs.__file__).parents[1]);"
        "print(importlib.metadata.distribution('ovseg').read_text('METADATA') is not None)"
    )
    started = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "job",
        env={"PYTHONPATH": str(about.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    version = about.name.removeprefix("ovseg-").removesuffix(".dist-info")
    assert started.stdout.splitlines() == [f"{version} {about.parent}", "True"]


def test_without_ship_no_code_is_uploaded(tmp_path: Path) -> None:
    runtime_env = write_upload(CONFIG, tmp_path, ship=False)
    assert "py_modules" not in runtime_env
    names = sorted(path.name for path in (tmp_path / "job").iterdir())
    assert names == ["annotate.sh", "job.yaml", "node_check.py", SENT]
    assert int(runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 30
