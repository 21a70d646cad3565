"""What a job will take, from a few of its images that are read and computed here and now.

The images are computed as a worker does it: in shards of the job's size, while further ones are
read. The first batch warms the networks up and does not count; the images that are read meanwhile
take the place of those that follow. Nothing of it is kept.
"""

import math
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.annotate.build import Build, build
from pipeline.annotate.image_feed import BATCHES_AHEAD
from pipeline.annotate.observer import Observer
from pipeline.annotate.rows import join_rows
from pipeline.collection.manifest import shard_bounds
from pipeline.job.job import JobPlan
from pipeline.job.worker import Worker, WorkerSetup, first_images
from pipeline.job.worker_process import local_device, ray_address
from pipeline.run.images import check_own
from pipeline.run.tables.shard_files import write_files
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.config import JobConfig, RunConfig
from schemas.records import STAGES, ImageRef, ImageResult, Shard, ShardRows
from schemas.tables import to_records

_LEAST_BATCHES = 4
"""From so many batches on the measured images follow those to warm up in one shard."""


@dataclass(frozen=True)
class Estimate:
    """What is left of a job, as far as the measured images tell.

    Attributes:
        num_images: that are left.
        num_measured: images that were computed for it, those to warm up left out.
        errors: those of them that failed, by code.
        images_per_s: of one worker.
        spread: images_per_s is right to within this share, as far as the images differ; 0: unknown.
        load_s: to load the networks and embed the vocabulary; each worker does so once, and it is
            not in `seconds`.
        device: `cpu` or `cuda`, on which they were computed.
        workers: at once; 0: not known, `seconds` are of one.
        gpus_per_worker: that each holds; 0 on the CPU.
        seconds: from the first image to the last.
        read_bytes: of image files.
        written_bytes: of tables.
        million_bytes: of tables of a run of a million such images, in shards of its size.
        free_bytes: on the disk of the run folder; None: not known.
    """

    num_images: int
    num_measured: int
    errors: dict[str, int]
    images_per_s: float
    spread: float
    load_s: float
    device: str
    workers: int
    gpus_per_worker: float
    seconds: float
    read_bytes: int
    written_bytes: int
    million_bytes: int
    free_bytes: int | None

    @property
    def worker_hours(self) -> float:
        """Hours of all workers together."""
        return self.seconds * max(1, self.workers) / 3600

    @property
    def gpu_hours(self) -> float:
        """Hours of GPUs, or of shares of them, that the workers hold."""
        return self.worker_hours * self.gpus_per_worker


def measure(
    planned: JobPlan,
    num_images: int,
    build: Build = build,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate | None:
    """Compute some images of a job in this process, and return what the job will take.

    Args:
        planned: the job.
        num_images: to measure, sampled evenly over the images that are left.
        build: makes the segmenter.
        clock: of seconds; on a machine that others use, a benchmark counts those of the CPU.

    Returns:
        None where no shard is left.

    Raises:
        UserError: weights that cannot be loaded, or a device that is not there.
    """
    config, left = planned.config, _places_left(planned)
    if not len(left):
        return None
    if planned.run is not None:
        check_own(planned.run, config)
    size = config.images_per_shard(planned.num_images)
    num_warm, num_measured = min(config.run.batch_size, len(left)), min(num_images, len(left))
    if num_measured > size:  # whole shards, as each has a beginning and an end
        num_measured -= num_measured % size
    # A batch may have images to warm up and measured ones: of few batches that would be most.
    is_apart = num_measured >= size or num_measured < _LEAST_BATCHES * config.run.batch_size
    warm = _sample(planned, left, num_warm, seed=1)
    measured = _sample(planned, left, num_measured, seed=2)
    ahead = _sample(planned, left, min(BATCHES_AHEAD * config.run.batch_size, len(left)), seed=3)
    device, notes = local_device(config.run.device), _Notes(clock)
    with _threads(config.run), _ready_worker(config, device, build, notes) as (worker, load_s):
        if is_apart:
            rows = _whole_shards(worker, config.run, warm, measured, size, ahead)
        else:
            rows = worker.annotate_rows(Shard(index=0, refs=warm + measured), ahead)
    seconds = notes.done_s[-1] - notes.done_s[num_warm - 1]
    fixed, each = _write_costs(rows, clock)
    num_shards, of_million = math.ceil(len(left) / size), config.images_per_shard(1_000_000)
    total_s = (seconds / num_measured + each.seconds) * len(left) + fixed.seconds * num_shards
    written = each.num_bytes * len(left) + fixed.num_bytes * num_shards
    workers, gpus = _workers(config.run, device, planned.num_shards_left)
    images = rows.images[-num_measured:]
    return Estimate(
        num_images=len(left),
        num_measured=num_measured,
        errors=dict(Counter(str(row.error_code) for row in images if row.error_code)),
        images_per_s=len(left) / total_s,
        spread=_spread(images),
        load_s=load_s,
        device=device,
        workers=workers,
        gpus_per_worker=gpus,
        seconds=total_s / max(1, workers),
        read_bytes=round(notes.read_bytes / max(1, notes.num_read) * len(left)),
        written_bytes=round(written),
        million_bytes=round(1e6 * (each.num_bytes + fixed.num_bytes / of_million)),
        free_bytes=_free_bytes(config.out),
    )


def _places_left(planned: JobPlan) -> NDArray[np.int64]:
    """Return (N,) the places, in the list of images, of those in the job's own shards to do."""
    run = planned.run
    if run is not None:
        bounds, shards = run.generations.bounds, run.shards_left(planned.done)
    else:
        size = planned.config.images_per_shard(planned.num_images)
        bounds, shards = shard_bounds((planned.num_images, size)), range(planned.num_shards)
    parts = [np.arange(bounds[it], bounds[it + 1]) for it in shards if planned.task.owns(it)]
    places = np.concatenate([np.empty(0, np.int64), *parts])
    if run is not None and run.generations.has_superseded:
        places = places[~run.generations.superseded[places]]
    return places


def _sample(
    planned: JobPlan, left: NDArray[np.int64], number: int, seed: int
) -> tuple[ImageRef, ...]:
    """Return one image of each of some equal parts of what is left, the same ones each time.

    Which one of its part is random: every tenth image may be another camera's.
    """
    if planned.run is not None:
        table = planned.run.all_images()
    else:
        assert planned.images is not None  # a new run has them
        table = planned.images.table()
    within = np.random.default_rng(seed).random(number)
    places = left[((np.arange(number) + within) * len(left) / number).astype(np.int64)]
    return tuple(to_records("manifest", table.take(places)))


class _Notes(Observer):
    """Times at which images were done, and the files that were read."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.read_bytes = self.num_read = 0
        self.done_s: list[float] = []

    def image_read(self, num_bytes: int) -> None:
        """Count a file and its bytes."""
        self.num_read += 1
        self.read_bytes += num_bytes

    def image_done(self, rows: ShardRows) -> None:
        """Note the time."""
        self.done_s.append(self._clock())


@contextmanager
def _ready_worker(
    config: JobConfig, device: str, build: Build, notes: _Notes
) -> Iterator[tuple[Worker, float]]:
    """Yield a worker in this process that has its networks, and the seconds that these took."""
    here = config.run.model_copy(update={"local": True})
    setup = WorkerSetup(config.model_copy(update={"run": here}), device, build)
    began_s = time.perf_counter()
    with closing(Worker(setup, observer=notes)) as worker:
        worker.prepare()
        yield worker, time.perf_counter() - began_s


@contextmanager
def _threads(run: RunConfig) -> Iterator[None]:
    """Give torch the threads that a worker on Ray has; one in its command's process has all."""
    before = torch.get_num_threads()
    if not run.local:
        torch.set_num_threads(run.threads_per_worker)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _whole_shards(
    worker: Worker,
    run: RunConfig,
    warm: tuple[ImageRef, ...],
    measured: tuple[ImageRef, ...],
    size: int,
    ahead: tuple[ImageRef, ...],
) -> ShardRows:
    """Return the rows of shards of at most `size`, each read ahead during the one before it."""
    begins = range(0, len(measured), size)
    shards = [warm, *(measured[begin : begin + size] for begin in begins), ahead]
    rows = [
        worker.annotate_rows(
            Shard(index=0, refs=refs), first_images(Shard(index=0, refs=following), run)
        )
        for refs, following in pairwise(shards)
    ]
    return join_rows(rows)


@dataclass(frozen=True)
class _Cost:
    seconds: float
    num_bytes: float


def _write_costs(rows: ShardRows, clock: Callable[[], float]) -> tuple[_Cost, _Cost]:
    """Return what the tables of a shard cost whatever is in them, and what each image adds."""
    number = len(rows.images)
    few = max(1, number // 4)
    some, whole = _written(_first(rows, few), clock), _written(rows, clock)
    if few == number:
        return _Cost(0.0, 0.0), _Cost(whole.seconds / number, whole.num_bytes / number)
    each = _Cost(
        max(0.0, whole.seconds - some.seconds) / (number - few),
        max(0.0, whole.num_bytes - some.num_bytes) / (number - few),
    )
    fixed = _Cost(
        max(0.0, whole.seconds - number * each.seconds),
        max(0.0, whole.num_bytes - number * each.num_bytes),
    )
    return fixed, each


def _first(rows: ShardRows, number: int) -> ShardRows:
    """Return the rows of the first images."""
    images = rows.images[:number]
    ids = {row.image_id for row in images}
    kept = {
        name: tuple(row for row in table if row.image_id in ids)
        for name, table in rows
        if isinstance(table, tuple)
    }
    return rows.model_copy(update=kept)


def _written(rows: ShardRows, clock: Callable[[], float]) -> _Cost:
    """Write tables, on this machine's disk for temporary files."""
    with tempfile.TemporaryDirectory() as folder:
        began_s = clock()
        files = write_files(Folder(folder), 0, "estimate", rows)
        return _Cost(clock() - began_s, sum(entry.size_bytes for entry in files.values()))


def _spread(images: Sequence[ImageResult]) -> float:
    """Return twice the standard error of the mean seconds of an image, as a share of that mean."""
    seconds = [sum(getattr(row, f"{stage}_s") for stage in STAGES) for row in images]
    if len(seconds) < 2 or not any(seconds):
        return 0.0
    error = statistics.stdev(seconds) / math.sqrt(len(seconds))
    return 2 * error / statistics.fmean(seconds)


def _workers(run: RunConfig, device: str, num_shards: int) -> tuple[int, float]:
    """Return how many workers the job will have (0: not known), and GPUs of each."""
    gpus = run.gpus_per_worker if device == "cuda" and not run.local else float(device == "cuda")
    if run.local:
        return 1, gpus
    if run.workers:
        return min(run.workers, num_shards), gpus
    if ray_address():
        return 0, gpus
    fit = (os.cpu_count() or 1) / run.cpus_per_worker
    if gpus:
        fit = min(fit, torch.cuda.device_count() / gpus)
    return max(1, min(num_shards, math.floor(fit + 1e-6))), gpus


def _free_bytes(out: str) -> int | None:
    """Return what is free on the disk of a folder that may not be there yet; None: a store."""
    place = uris.normalise(out)
    if uris.scheme(place):
        return None
    there = next(it for it in (Path(place), *Path(place).parents) if it.exists())
    return shutil.disk_usage(there).free
