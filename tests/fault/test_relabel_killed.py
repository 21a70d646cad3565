"""Relabel killed on Ray before and after a commit, and again and again over S3.

The steps between are those of every job, `test_worker_killed.py`.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.run.vectors import image_vectors
from schemas.config import JobConfig
from schemas.errors import RunFolderError
from tests.helpers.colour_segmenter import paint_collection, table_rows
from tests.helpers.killed_processes import BuildMethodOnTraps, run_method
from tests.helpers.trap_filesystem import STEPS, set_trap, traps_left

pytestmark = pytest.mark.timeout(600)  # a worker takes long to start on a busy machine
NUM_IMAGES = 10
SHARDS = 5
HERE = {"local": True, "device": "cpu"}


def made(images: Path, out: Path | str, **changes: Any) -> JobConfig:
    fields = {
        "images": str(images),
        "labels": ["red circle", "blue fish"],
        "out": str(out),
        "method": {"name": "maskclip", "options": {"short_side_px": 48, "window_px": 48}},
        "clip": {"model": "embedded"},
        "shard_size": NUM_IMAGES // SHARDS,
        "run": HERE,
    }
    return JobConfig.model_validate({**fields, **changes})


def relabelled(images: Path, source: Path | str, out: Path | str, **run: Any) -> JobConfig:
    words = ["green triangle", "yellow arrow", "blue fish"]
    return made(images, out, labels=words, features_of=str(source), run={**HERE, **run})


def rows(out: str) -> tuple[Any, list[Any]]:
    vectors = [(it.paths, it.vectors_ND.tolist()) for it in image_vectors(RunFolder.open(out))]
    return table_rows(out), vectors


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_collection(tmp_path_factory.mktemp("images"), NUM_IMAGES)


@pytest.fixture(scope="module")
def kept(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "run"
    config = made(images, out, run={**HERE, "keep_features": "float16"})
    assert job.run(config, Progress()).exit_code == 0
    return out


@pytest.fixture(scope="module")
def undisturbed(images: Path, kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    assert job.run(relabelled(images, kept, out), Progress()).exit_code == 0
    found = rows(str(out))
    assert len(found[0]["images"]) == NUM_IMAGES
    assert found[0]["annotations"]
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_workers_killed_before_and_after_a_commit_cost_nothing(
    images: Path, kept: Path, undisturbed: Any, tmp_path: Path
) -> None:
    config = relabelled(images, kept, f"trap://{tmp_path}/run", local=False, workers=1)
    for shard, step in enumerate((STEPS[0], STEPS[-1])):
        set_trap(tmp_path, step, shard)
    report = job.run(config, Progress(), BuildMethodOnTraps())
    assert not traps_left(tmp_path)
    assert (report.exit_code, report.num_done, report.failed_shards) == (0, NUM_IMAGES, {})
    assert rows(config.out) == undisturbed


@pytest.fixture
def stored(images: Path, s3_folder: str) -> tuple[str, str]:
    source = f"{s3_folder}/run"
    config = made(images, source, run={**HERE, "keep_features": "float16"})
    assert job.run(config, Progress()).exit_code == 0
    return source, f"{s3_folder}/made"


def test_a_job_killed_after_each_shard_goes_on_over_s3(
    images: Path, stored: tuple[str, str], undisturbed: Any, forks: Any
) -> None:
    config = relabelled(images, *stored)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    kills = before = 0
    for _ in range(SHARDS + 1):
        process = forks.Process(target=run_method, args=(config, environment))
        process.start()
        while process.is_alive():
            process.join(0.02)
            try:
                num_done = len(RunFolder.open(config.out).done())
            except RunFolderError:  # it is not begun yet
                continue
            if before < num_done < SHARDS:
                break
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        kills, before = kills + 1, len(RunFolder.open(config.out).done())
    assert process.exitcode == 0 or job.run(config, Progress()).exit_code == 0
    assert kills >= 2
    assert rows(config.out) == undisturbed
    run = RunFolder.open(config.out)
    run.clean()
    assert rows(config.out) == undisturbed
    assert run.orphans() == []
