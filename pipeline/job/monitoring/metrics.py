"""The numbers of a running job at Ray's Prometheus endpoint, which each node of a cluster has.

Ray puts `ray_` before the names here, and `_total` behind those of counters. A run without Ray
has no endpoint, and records nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.annotate.observer import Observer
from pipeline.job.worker_process import peak_memory
from schemas.config import JobConfig
from schemas.records import STAGES, ShardDone, ShardRows, ShardTally
from schemas.redact import redact

if TYPE_CHECKING:
    from pipeline.job.shard_status import ShardStatus
    from pipeline.job.worker_pool import WorkerPool


@dataclass(frozen=True)
class Metric:
    """One metric; `tag` is a label beside `run`, or empty."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    tag: str = ""
    buckets: Sequence[float] = ()


_SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)
METRICS = {
    "ovseg_images": Metric("counter", "Images with a row, failed ones included"),
    "ovseg_errors": Metric("counter", "Failed images by error code", "code"),
    "ovseg_segments": Metric("counter", "Masks"),
    "ovseg_stage_seconds": Metric("histogram", "Seconds of one image by stage", "stage", _SECONDS),
    "ovseg_wait_seconds": Metric("counter", "What the compute thread waits for", "what"),
    "ovseg_wall_seconds": Metric("counter", "Time of shards, in the compute thread"),
    "ovseg_batch_images": Metric("histogram", "Images computed at once", "", _IMAGES),
    "ovseg_queue_images": Metric("gauge", "Images loaded or being loaded, in no batch yet"),
    "ovseg_read_bytes": Metric("counter", "Bytes of image files"),
    "ovseg_written_bytes": Metric("counter", "Bytes of tables"),
    "ovseg_memory_bytes": Metric("gauge", "Most memory that a worker has held", "device"),
    "ovseg_shards": Metric("gauge", "Shards of this job: done, running, left, failed", "state"),
    "ovseg_images_left": Metric("gauge", "Images of this job that are not done"),
    "ovseg_workers": Metric("gauge", "Workers: ready or starting", "state"),
    "ovseg_gpus": Metric("gauge", "GPUs, or shares of some, that the ready workers hold"),
    "ovseg_worker_restarts": Metric("counter", "Workers that died or were replaced"),
}
"""By the name that ovseg gives them."""


class Recorder:
    """Records metrics of one run in this process, which must be one of Ray's.

    Args:
        run: the run folder; the label `run` has it without secrets.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": redact(run)}
        self._made: dict[str, Any] = {}

    def add(self, name: str, value: float, tag: str = "") -> None:
        """Add to a counter."""
        if value > 0:
            self._metric(name).inc(value, self._with(name, tag))

    def set(self, name: str, value: float, tag: str = "") -> None:
        """Set a gauge."""
        self._metric(name).set(value, self._with(name, tag))

    def observe(self, name: str, value: float, tag: str = "") -> None:
        """Put a value into a histogram."""
        self._metric(name).observe(value, self._with(name, tag))

    def _with(self, name: str, tag: str) -> dict[str, str]:
        return {**self._tags, METRICS[name].tag: tag} if tag else self._tags

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            from ray.util import metrics

            what = METRICS[name]
            keys = ("run", what.tag) if what.tag else ("run",)
            if what.kind == "histogram":
                made: Any = metrics.Histogram(name, what.help, list(what.buckets), keys)
            else:
                kind = metrics.Counter if what.kind == "counter" else metrics.Gauge
                made = kind(name, what.help, keys)
            self._made[name] = made
        return self._made[name]


class WorkerMetrics(Observer):
    """Metrics of one worker, which count each image and shard that it does.

    Args:
        config: the job.
        device: `cpu` or `cuda`.
        is_restarted: whether Ray has started the process anew, after the one before it died.
    """

    def __init__(self, config: JobConfig, device: str, *, is_restarted: bool) -> None:
        self._recorder = Recorder(config.out)
        self._device = device
        self._recorder.add("ovseg_worker_restarts", int(is_restarted))

    def image_read(self, num_bytes: int) -> None:
        """Count a file's bytes."""
        self._recorder.add("ovseg_read_bytes", num_bytes)

    def batch_scored(self, num_images: int, num_loaded: int) -> None:
        """Note the sizes of a batch and of the queue."""
        self._recorder.observe("ovseg_batch_images", num_images)
        self._recorder.set("ovseg_queue_images", num_loaded)

    def image_done(self, rows: ShardRows) -> None:
        """Count an image, its masks or its error, and its seconds."""
        self._recorder.add("ovseg_images", len(rows.images))
        self._recorder.add("ovseg_segments", len(rows.annotations))
        for row in rows.images:
            if row.error_code is not None:
                self._recorder.add("ovseg_errors", 1, row.error_code)
            for stage in STAGES:
                self._recorder.observe("ovseg_stage_seconds", getattr(row, f"{stage}_s"), stage)

    def shard_done(self, marker: ShardDone, tally: ShardTally) -> None:
        """Count a committed shard's waits and bytes."""
        for name, what in _WAITS.items():
            self._recorder.add("ovseg_wait_seconds", tally.seconds.get(name, 0.0), what)
        write_s = marker.tally.seconds.get("write", 0.0)  # by the commit
        self._recorder.add("ovseg_wait_seconds", write_s, "write")
        self._recorder.add("ovseg_wall_seconds", tally.seconds.get("wall", 0.0))
        written = sum(entry.size_bytes for entry in marker.all_files.values())
        self._recorder.add("ovseg_written_bytes", written)
        self._recorder.set("ovseg_memory_bytes", peak_memory(self._device), self._device)


_WAITS = {"wait_images": "images", "wait_masks": "masks", "wait_shard": "shard"}


class JobMetrics:
    """Metrics of a job on Ray: shards, workers, images left."""

    def __init__(self, pool: "WorkerPool", status: "ShardStatus") -> None:
        self._pool = pool
        self._status = status
        self._recorder = Recorder(pool.config.out)
        self._num_replaced = 0

    def record(self, num_running: int) -> None:
        """Record what there is now.

        Args:
            num_running: shards that workers have in hand.
        """
        status, pool, recorder = self._status, self._pool, self._recorder
        done, failed = len(status.finished), len(status.failed)
        left = max(0, status.num_shards - done - failed - num_running)
        shards = {"done": done, "failed": failed, "running": num_running, "left": left}
        for state, number in shards.items():
            recorder.set("ovseg_shards", number, state)
        progress, starting = status.progress, len(pool.starting)
        recorder.set("ovseg_images_left", progress.total - progress.done - progress.given_up)
        recorder.set("ovseg_workers", starting, "starting")
        recorder.set("ovseg_workers", pool.size - starting, "ready")
        recorder.set("ovseg_gpus", (pool.size - starting) * pool.gpus_per_worker)
        recorder.add("ovseg_worker_restarts", pool.num_replaced - self._num_replaced)
        self._num_replaced = pool.num_replaced
