"""How far `ovseg annotate --dry-run --measure 32` is from what a run takes, and metrics' overhead.

Five methods with the embedded models on three collections: drawn scenes, photographs, and a mix of
both with files that are no images. Each job is measured first and then run, in this process and
without Ray; loading is left out of both. Seconds are those of the CPU, since other programs may
use the machine, and it has no GPU.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.photographs import write_photographs
from jobs.demo.draw import draw_scenes
from pipeline.annotate.observer import Observer
from pipeline.job import job
from pipeline.job.monitoring.estimate import measure as measure_images
from pipeline.job.monitoring.metrics import WorkerMetrics
from pipeline.job.progress import Progress
from pipeline.job.worker import Worker, WorkerSetup
from schemas.config import JobConfig
from schemas.records import Shard, ShardRows

METHODS = ("maskclip", "sclip", "naclip", "clip_dinoiser", "clip_diy")
NUM_IMAGES = {"scenes": 120, "photographs": 72, "mixed": 120}
NUM_MEASURED = 32
PHOTOGRAPH_HW = (960, 1280)
LABELS = ("red striped star", "blue solid circle", "green dotted square", "yellow solid ring")


class _Cpu(Progress):
    """CPU seconds from the first shard to the last."""

    seconds_of_cpu = 0.0

    def begin(self) -> None:
        super().begin()
        self._began_cpu = time.process_time()

    def close(self) -> None:
        super().close()
        self.seconds_of_cpu = time.process_time() - self._began_cpu


def collections(folder: Path) -> Iterator[tuple[str, Path]]:
    """Draw the collections; yield the name and folder of each."""
    scenes, photographs, mixed = (folder / name for name in NUM_IMAGES)
    scenes.mkdir()
    draw_scenes(scenes, NUM_IMAGES["scenes"], 0)
    write_photographs(photographs, PHOTOGRAPH_HW, NUM_IMAGES["photographs"], 12)
    mixed.mkdir()
    for index in range(NUM_IMAGES["mixed"]):
        target = mixed / f"{index:04d}.jpg"
        if index % 10 == 3:
            target.write_bytes(b"no image")
            continue
        source = photographs if index % 3 == 0 else scenes
        files = sorted(source.rglob("*.*"))
        shutil.copy(files[index % len(files)], target)
    yield from (("scenes", scenes), ("photographs", photographs), ("mixed", mixed))


def job_of(images: Path, out: Path, method: str) -> JobConfig:
    """Return a job of one method with the embedded models, in this process."""
    return JobConfig.model_validate(
        {
            "images": str(images),
            "out": str(out),
            "labels": list(LABELS),
            "method": method,
            "clip": "embedded",
            "run": {"local": True, "device": "cpu"},
        }
    )


def estimates() -> dict[str, float]:
    """Return the errors of the estimates, as shares of what the runs took, and these seconds."""
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, images in collections(folder):
            for method in METHODS:
                config = job_of(images, folder / f"{name}-{method}", method)
                estimate = measure_images(job.plan(config), NUM_MEASURED, clock=time.process_time)
                assert estimate is not None
                progress = _Cpu()
                job.run(config, progress)
                took_s = progress.seconds_of_cpu
                found[f"estimate_run_cpu_s_{method}_{name}"] = round(took_s, 2)
                error = round(estimate.seconds / took_s - 1, 3)
                found[f"estimate_error_{method}_{name}"] = error
    errors = [abs(value) for name, value in found.items() if name.startswith("estimate_error")]
    return {"estimate_worst_error": max(errors), **found}


class _Timed(Observer):
    """Metrics, and the CPU seconds that recording them takes."""

    def __init__(self, config: JobConfig) -> None:
        self._metrics = WorkerMetrics(config, "cpu", is_restarted=False)
        self.seconds = 0.0

    def image_read(self, num_bytes: int) -> None:
        began = time.thread_time()
        self._metrics.image_read(num_bytes)
        self.seconds += time.thread_time() - began

    def batch_scored(self, num_images: int, num_loaded: int) -> None:
        began = time.thread_time()
        self._metrics.batch_scored(num_images, num_loaded)
        self.seconds += time.thread_time() - began

    def image_done(self, rows: ShardRows) -> None:
        began = time.thread_time()
        self._metrics.image_done(rows)
        self.seconds += time.thread_time() - began


def metrics_overhead() -> dict[str, float]:
    """Return the share of a worker's CPU seconds that metrics take, of the cheapest method."""
    import ray

    torch.set_num_threads(1)
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with tempfile.TemporaryDirectory() as place:
            images = Path(place) / "scenes"
            images.mkdir()
            draw_scenes(images, NUM_IMAGES["scenes"], 0)
            config = job_of(images, Path(place) / "run", "maskclip")
            timed = _Timed(config)
            worker = Worker(WorkerSetup(config, "cpu", job.build), observer=timed)
            worker.prepare()
            planned = job.plan(config)
            refs = planned.begin({}).shards()[0].refs
            worker.annotate_rows(Shard(index=0, refs=refs))
            timed.seconds, began = 0.0, time.process_time()
            for _ in range(8):
                worker.annotate_rows(Shard(index=0, refs=refs))
            took = time.process_time() - began
            worker.close()
    finally:
        ray.shutdown()
    num_images = 8 * len(refs)
    return {
        "metrics_overhead": round(timed.seconds / took, 5),
        "metrics_us_per_image": round(1e6 * timed.seconds / num_images, 1),
        "metrics_ms_per_image_of_the_method": round(1e3 * took / num_images, 2),
    }


def measure() -> dict[str, float]:
    """Return all figures of this topic."""
    return {**estimates(), **metrics_overhead()}
