"""A whole job: see what is asked for and what is done already, then do the rest."""

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import torch

from ovseg_core.methods import check_options, option_folders, with_published_clip
from pipeline.annotate.build import Build, build
from pipeline.annotate.image_errors import BrokenDeviceError, describe
from pipeline.annotate.worker import Worker, WorkerSetup
from pipeline.collection.collect import collect
from pipeline.job.progress import Progress, make_progress
from pipeline.job.report import RunReport, sum_up
from pipeline.job.shard_status import ShardStatus
from pipeline.run.folder import RunFolder, check_free
from pipeline.run.identity import RunIdentity
from pipeline.storage.folder import Folder
from pipeline.storage.local import state_of
from schemas.config import JobConfig
from schemas.errors import ResourceError, UserError
from schemas.records import Shard, ShardDone

log = logging.getLogger(__name__)

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # whoever wants them on has set the variable
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; spares a warning
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"^Task Worker\.",  # tracebacks on standard output; we tell it
}
"""Environment of Ray, where the user has not set it; read when Ray is imported."""


@dataclass(frozen=True)
class JobPlan:
    """What a job would do; making it writes nothing.

    Attributes:
        config: the job.
        num_images: in the collection.
        num_shards: all of them.
        run_dir: the run to go on with; None where the run is new.
        done: markers of the shards that an earlier run has finished, by index.
        images: of a new run, as rows of the manifest; None where the run folder has them.
        folders: the state of each folder that an option names, by dotted option.
    """

    config: JobConfig
    num_images: int
    num_shards: int
    run_dir: RunFolder | None = None
    done: dict[int, ShardDone] = field(default_factory=dict)
    images: pa.Table | None = None
    folders: dict[str, str] = field(default_factory=dict)

    @property
    def num_shards_left(self) -> int:
        """Shards without a marker."""
        return self.num_shards - len(self.done)

    @property
    def num_images_done(self) -> int:
        """Images of finished shards."""
        return sum(marker.tally.num_images for marker in self.done.values())

    def repaired(self) -> "JobPlan":
        """Take damaged shards of an earlier run out of what is done; reads all of its files."""
        if self.run_dir is None or not self.run_dir.repair():
            return self
        return replace(self, done=self.run_dir.done())

    def settle(self, weights: dict[str, str]) -> RunFolder:
        """Create the run folder, or make sure that the old one was made with these weights.

        Args:
            weights: SHA-256 of the weights in use, by role.

        Raises:
            RunFolderError: names the weights that differ.
        """
        identity = RunIdentity(self.config, weights, self.folders)
        if self.run_dir is not None:
            self.run_dir.check_same(identity)
            return self.run_dir
        return RunFolder.create_or_resume(self.config.out, identity, self.images)


def plan(config: JobConfig) -> JobPlan:
    """See what a job has to do: check its options, list its images or open its run folder.

    Raises:
        UserError: a wrong option, no images, or a folder that belongs to another run.
    """
    check_options(config.method)
    named = option_folders(config.method).items()
    folders = {option: state_of(folder, option) for option, folder in named}
    config = with_published_clip(config)
    if Folder(config.out).exists("run.yaml"):
        return _resumed(config, folders)
    check_free(Folder(config.out))
    images = collect(config.images, config.image)
    num_images = images.num_rows
    num_shards = config.num_shards(num_images)
    return JobPlan(config, num_images, num_shards, images=images, folders=folders)


def run(config: JobConfig, progress: Progress | None = None, build: Build = build) -> RunReport:
    """Do a job, or what is left of it, and sum it up.

    Args:
        config: the job.
        progress: what a person sees; None: what suits standard error.
        build: makes the segmenter, in each worker; the default builds the config's method.

    Raises:
        UserError: the job cannot begin or go on as it is configured.
    """
    planned = plan(config).repaired()
    if not planned.num_shards_left:
        return sum_up(config, planned.num_images, planned.done)
    if config.run.workers > planned.num_shards and not config.run.local:
        log.warning(
            "%d workers and %d shards of work: some will idle; a smaller `shard_size` makes more",
            config.run.workers,
            planned.num_shards,
        )
    progress = progress or make_progress()
    progress.start(planned.num_images, planned.num_images_done)
    job, started, interrupted = _Job(planned, progress, build), time.monotonic(), False
    try:
        job.run_here() if config.run.local else job.run_on_ray()
    except KeyboardInterrupt:
        log.warning("stopped; the same command goes on from here")
        interrupted = True
    finally:
        progress.close()
    return replace(
        sum_up(config, planned.num_images, job.markers()),
        num_new=progress.finished,
        failed_shards=job.failed,
        seconds=time.monotonic() - started,
        images_per_s=progress.images_per_s,
        interrupted=interrupted,
    )


class _Job:
    """A job under way; the ledger is there as soon as the run folder is."""

    def __init__(self, planned: JobPlan, progress: Progress, build: Build) -> None:
        self._plan = planned
        self._progress = progress
        self._build = build
        self._ledger: ShardStatus | None = None

    @property
    def failed(self) -> dict[int, str]:
        """Shards given up by this run, and why."""
        return self._ledger.failed if self._ledger else {}

    def markers(self) -> dict[int, ShardDone]:
        """Return the markers of all finished shards."""
        return self._ledger.run_dir.done() if self._ledger else self._plan.done

    def run_here(self) -> None:
        """Do the shards one after another in this process."""
        device = local_device(self._plan.config.run.device)
        worker = Worker(WorkerSetup(self._plan.config, device, self._build))
        ledger, shards = self._begin(worker.prepare())
        for shard in shards:
            _annotate_here(worker, shard, ledger)
            if ledger.hopeless:
                return

    def run_on_ray(self) -> None:
        """Hand the shards to workers on a Ray cluster."""
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        # Imported here, after the settings, and so that a run in this process does without Ray.
        from pipeline.job import cluster
        from pipeline.job.driver import Driver
        from pipeline.job.worker_pool import WorkerPool

        config = self._plan.config
        with cluster.connected():
            setup = WorkerSetup(config, cluster.pick_device(config.run), self._build)
            crew = WorkerPool(setup, useful=self._plan.num_shards_left)
            try:
                first = crew.first()
                ledger, shards = self._begin(first.weights)
                Driver(crew, ledger, shards).run(first.actor)
            finally:
                crew.disband()

    def _begin(self, weights: dict[str, str]) -> tuple[ShardStatus, Iterator[Shard]]:
        """Create or check the run folder, now that the weights are known; return what is left."""
        run_dir = self._plan.settle(weights)
        self._ledger = ShardStatus(run_dir, self._progress)
        self._progress.begin()
        done = self._plan.done
        return self._ledger, (shard for shard in run_dir.shards() if shard.index not in done)


def _resumed(config: JobConfig, folders: dict[str, str]) -> JobPlan:
    """Open the run in the folder; that it has the config's weights is seen when they are loaded."""
    run_dir = RunFolder.open(config.out)
    info = run_dir.info
    done = run_dir.done()
    planned = JobPlan(config, info.num_images, info.num_shards, run_dir, done, folders=folders)
    planned.settle(info.weights)
    return planned


def _annotate_here(worker: Worker, shard: Shard, ledger: ShardStatus) -> None:
    while True:
        try:
            tally = worker.annotate(shard)
        except UserError:
            raise
        except BrokenDeviceError as error:
            raise ResourceError(
                f"the GPU failed and this process cannot use it any more ({describe(error)}); "
                "the same command goes on; without `run.local` such a worker is replaced"
            ) from error
        except Exception as error:  # noqa: BLE001 - a failed shard must not stop the job
            if not ledger.try_again(shard, error):
                return
        else:
            ledger.done(tally)
            return


def local_device(wanted: str) -> str:
    """Return the device of a run in this process, `cpu` or `cuda`.

    Raises:
        ResourceError: a GPU is asked for and torch sees none.
    """
    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ResourceError(
            "run.device is `cuda`, but torch sees no GPU on this machine; set it to `auto` or `cpu`"
        )
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"
