"""Estimates by a clock that runs as pixels are computed: no machine decides what is right."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from jobs.cli import app
from pipeline.annotate.build import Built
from pipeline.job import job
from pipeline.job.monitoring.estimate import Estimate, measure
from pipeline.job.progress import Progress
from schemas.config import JobConfig
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    ColourFeatures,
    ColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
)


@dataclass
class PixelClock:
    """Counts pixels that a segmenter encodes, a millisecond each."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class CountingSegmenter(ColourSegmenter):
    clock: PixelClock = field(default_factory=PixelClock)

    def encode(self, images: Sequence[Tensor]) -> ColourFeatures:
        self.clock.now += 1e-3 * sum(image.shape[1] * image.shape[2] for image in images)
        return super().encode(images)


def estimated(config: JobConfig, num_images: int) -> Estimate:
    clock = PixelClock()

    def build(config: JobConfig, device: str) -> Built:
        return Built(CountingSegmenter(SegmenterFaults(), clock=clock), {"colours": "0" * 64})

    found = measure(job.plan(config), num_images, build, clock)
    assert found is not None
    return found


def save(path: Path, height: int, width: int) -> None:
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(path)


@pytest.mark.parametrize("shard_size", [4, 64])
def test_images_of_two_sizes_are_estimated_from_a_few(tmp_path: Path, shard_size: int) -> None:
    (tmp_path / "in").mkdir()
    for index in range(60):  # the second half takes three times as long
        save(tmp_path / "in" / f"{index:03d}.png", 20 if index < 30 else 60, 50)
    config = colour_config(tmp_path / "in", tmp_path / "run", shard_size=shard_size)
    found = estimated(config, 20)
    assert (found.num_images, found.num_measured, found.workers) == (60, 20, 1)
    assert found.seconds == pytest.approx(30 * 1.0 + 30 * 3.0, rel=0.2)
    assert found.images_per_s == pytest.approx(60 / found.seconds)
    sizes = [file.stat().st_size for file in (tmp_path / "in").iterdir()]
    assert found.read_bytes == pytest.approx(sum(sizes), rel=0.05)
    assert found.spread > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num_images", [1, 3, 6])
def test_fewer_images_than_a_batch_are_not_computed_among_those_to_warm_up(
    tmp_path: Path, num_images: int
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(40):
        save(tmp_path / "in" / f"{index:03d}.png", 20, 50)
    config = colour_config(tmp_path / "in", tmp_path / "run", shard_size=64, run={"batch_size": 8})
    found = estimated(config, num_images)
    assert found.num_measured == num_images
    assert found.seconds == pytest.approx(40.0, rel=0.05)


def test_written_bytes_are_those_of_the_run(tmp_path: Path) -> None:
    images = paint_collection(tmp_path / "in", 40)
    config = colour_config(images, tmp_path / "run", shard_size=10)
    found = estimated(config, 20)
    job.run(config, Progress(), BuildColourSegmenter())
    tables = list((tmp_path / "run").glob("*/*.parquet"))
    assert found.written_bytes == pytest.approx(sum(it.stat().st_size for it in tables), rel=0.1)
    assert found.free_bytes is not None
    assert found.free_bytes > found.written_bytes
    assert found.million_bytes == pytest.approx(found.written_bytes * 1e6 / 40, rel=0.01)
    larger = colour_config(images, tmp_path / "other", shard_size=0)
    assert estimated(larger, 20).million_bytes < found.million_bytes / 2, "in shards of 256"


def test_failed_images_count_and_are_named(tmp_path: Path) -> None:
    images = paint_collection(tmp_path / "in", 24)
    for index in range(0, 24, 2):
        (images / f"{index:03d}.png").write_bytes(b"no image")
    found = estimated(colour_config(images, tmp_path / "run"), 24)
    assert found.errors == {"not_an_image": 12}


def test_only_what_is_left_is_estimated(tmp_path: Path) -> None:
    images = paint_collection(tmp_path / "in", 24)
    config = colour_config(images, tmp_path / "run", image={"limit": 8})
    job.run(config, Progress(), BuildColourSegmenter())
    whole = colour_config(images, tmp_path / "run", run={"update": True})
    found = estimated(whole, 100)
    assert (found.num_images, found.num_measured) == (16, 16)
    job.run(whole, Progress(), BuildColourSegmenter())
    assert measure(job.plan(whole), 8, BuildColourSegmenter()) is None
    tasks = colour_config(images, tmp_path / "tasks", run={"shards": "2/3"})
    assert estimated(tasks, 100).num_images == 8


def test_workers_share_the_time_and_not_the_cost(tmp_path: Path) -> None:
    images = paint_collection(tmp_path / "in", 24)
    config = colour_config(images, tmp_path / "run")
    alone = estimated(config, 24)
    three = estimated(config.model_copy(
        update={"run": config.run.model_copy(update={"local": False, "workers": 3})}
    ), 24)  # fmt: skip
    assert three.workers == 3
    assert three.seconds == pytest.approx(alone.seconds / 3)
    assert three.worker_hours == pytest.approx(alone.worker_hours)
    assert alone.gpu_hours == 0
    gpus = replace(three, gpus_per_worker=0.5, seconds=7200.0)
    assert (gpus.worker_hours, gpus.gpu_hours) == (6.0, 3.0)


def annotate(tmp_path: Path, *args: str) -> Result:
    command = ["annotate", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "run"),
               "--labels", "red star,blue circle", "--local", "--set", "clip.model=embedded",
               *args]  # fmt: skip
    return CliRunner().invoke(app, command)


def test_the_command_prints_time_bytes_and_money_and_what_is_assumed(tmp_path: Path) -> None:
    paint_collection(tmp_path / "in", 6)
    shown = annotate(tmp_path, "--dry-run", "--measure", "4", "--price-per-hour", "3600")
    assert shown.exit_code == 0, shown.output
    out = shown.stdout
    assert re.search(r"^measured +4 images of 6$", out, re.M)
    assert re.search(r"^speed +\S+ images/s a worker \(cpu\), to within \d+ % as images", out, re.M)
    assert re.search(r"^time +\d+ s by 1 worker$", out, re.M)
    assert re.search(r"^money +\d+\.\d\d at 3600 an hour$", out, re.M)
    assert re.search(r"^writes +\S+ kB; \S+ .B free$", out, re.M)
    work, million = (
        float(re.search(rf"^{name} +([\d.,e-]+) worker-hours", out, re.M)[1].replace(",", ""))
        for name in ("work", "a million such")
    )
    assert million == pytest.approx(work * 1e6 / 6, rel=0.02)
    assert re.search(r" at 3600 an hour\); reads \S+ .B, writes \S+ .B$", out, re.M)
    assert re.search(r"^assumed +this process alone; without listing, the start of ", out, re.M)
    assert out.rstrip().endswith("Nothing was written (--dry-run).")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--dry-run", "--measure", "4", "--price-per-hour", "two"), "but got 'two'"),
        (("--dry-run", "--measure", "4", "--price-per-hour", "-1"), "but got '-1'"),
        (("--dry-run", "--measure", "4", "--price-per-hour", "inf"), "but got 'inf'"),
        (("--dry-run", "--price-per-hour", "1"), "it belongs to --dry-run --measure N"),
        (("--measure", "4"), "--measure: it belongs to --dry-run"),
    ],
)
def test_flags_that_cannot_be_are_refused(tmp_path: Path, args: tuple[str, ...], said: str) -> None:
    paint_collection(tmp_path / "in", 2)
    refused = annotate(tmp_path, *args)
    assert refused.exit_code == 1
    assert said in refused.stderr
