"""A whole job: what there is to do, what an earlier run has done, and the rest.

plan -> begin (once the weights are known) -> shards to workers -> report
"""

import contextlib
import logging
import random
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.methods import check_options, feature_options, option_folders, with_published_clip
from pipeline.annotate.build import Build, build
from pipeline.annotate.image_errors import BrokenDeviceError, error_summary
from pipeline.annotate.shared_text import forget_text
from pipeline.collection.changes import Changes, changes
from pipeline.collection.collect import collect, collect_packed
from pipeline.collection.left_out import LeftOut, describe, left_out_of
from pipeline.collection.manifest import PackedRows, shard_bounds
from pipeline.job.progress import Progress, make_progress
from pipeline.job.report import RunReport, sum_up
from pipeline.job.shard_status import ShardStatus
from pipeline.job.termination import Termination
from pipeline.job.worker import Worker, WorkerSetup, first_images
from pipeline.job.worker_process import local_device, ray_address, set_ray_environment
from pipeline.run.folder import RUN_FILE, RunFolder, check_free
from pipeline.run.identity import RunIdentity
from pipeline.run.images import check_own
from pipeline.run.markers import marked_shards
from pipeline.run.tables.stored_features import StoredFeatures
from pipeline.run.trust.named_weights import check_before_start
from pipeline.storage.folder import Folder
from pipeline.storage.local import folder_state
from schemas.base import counted
from schemas.config import ArrayTask, JobConfig
from schemas.errors import (
    PASSING_CODES,
    BlockedStoreError,
    ConfigError,
    ErrorCode,
    OvsegError,
    ResourceError,
    UserError,
)
from schemas.records import ImageRef, Shard, ShardDone

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

LOOK_EVERY_S = 4.0
"""The driver looks this often, or seldomer, for shards that another driver has finished."""


@dataclass(frozen=True)
class JobPlan:
    """What a job would do; making it writes nothing.

    Attributes:
        config: the job.
        folders: the state of each folder that an option names, by dotted option.
        num_images: in the collection, those of other tasks too.
        num_shards: likewise.
        images: of a new run, as rows of the manifest; None where the run folder has them.
        run: the run to resume; None where it is new.
        done: markers of the shards that an earlier run has finished, by index.
        retry: images that failed with these codes are tried again.
        changes: of the collection since the run to resume listed it; None: not known.
        source: whose stored features are scored in place of images; None: images are read.
        updates: these changes become a generation of the run, which `run` has already, and
            `begin` writes.
    """

    config: JobConfig
    folders: dict[str, str]
    num_images: int
    num_shards: int
    images: PackedRows | None = None
    run: RunFolder | None = None
    done: dict[int, ShardDone] = field(default_factory=dict)
    retry: frozenset[ErrorCode] = PASSING_CODES
    changes: Changes | None = None
    updates: bool = False
    source: StoredFeatures | None = None

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What the listing of the collection left out."""
        images = self.images if self.run is None else self.run.manifest()
        return () if images is None else left_out_of(images)

    @property
    def is_update(self) -> bool:
        """Whether the job looks for changes to take them up, also where there are none."""
        return self.config.run.update and self.changes is not None

    @property
    def task(self) -> ArrayTask:
        """Which shards are this job's own."""
        return self.config.run.task

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """(shards,) how many images of the collection each shard has."""
        if self.run is not None:
            return self.run.shard_sizes()
        size = self.config.images_per_shard(self.num_images)
        return np.diff(shard_bounds((self.num_images, size)))

    @property
    def num_own_images(self) -> int:
        """Images of the job's own shards."""
        return int(self.shard_sizes[self.task.own].sum())

    @property
    def num_own_shards(self) -> int:
        """Shards of the job's own."""
        return len(range(self.num_shards)[self.task.own])

    @property
    def own_done(self) -> dict[int, ShardDone]:
        """The markers of the job's own shards, see `done`."""
        return {shard: marker for shard, marker in self.done.items() if self.task.owns(shard)}

    @property
    def num_to_retry(self) -> dict[int, int]:
        """Number of images to try again, by finished shard of the job's own that has some."""
        done = self.own_done.items()
        numbers = {shard: marker.tally.num_failed(self.retry) for shard, marker in done}
        return {shard: number for shard, number in numbers.items() if number}

    @property
    def num_shards_left(self) -> int:
        """Shards of the job's own without a done marker, or with images to try again."""
        if self.run is None:
            return self.num_own_shards
        left = sum(map(self.task.owns, self.run.shards_left(self.done)))
        return left + len(self.num_to_retry)

    @property
    def num_images_done(self) -> int:
        """Images of finished shards of the job's own, without those to try again."""
        done = sum(marker.tally.num_images for marker in self.own_done.values())
        return done - sum(self.num_to_retry.values())

    def changes_left(self, done: Mapping[int, ShardDone]) -> Changes | None:
        """Return the changes after the job: without images that it tried again as they are now.

        Args:
            done: markers of the run's finished shards.
        """
        if self.run is None or self.changes is None or self.is_update:
            return self.changes
        return self.changes.without_annotated(self.run.other_sizes(done.values()))

    def repaired(self) -> "JobPlan":
        """Take the job's own damaged shards out of `done`; reads all their files."""
        if self.run is None or not self.run.repair(self.task):
            return self
        return replace(self, done=self.run.done())

    def begin(self, weights: dict[str, str]) -> RunFolder:
        """Create the run folder, or check that the run in it was made with these weights.

        Of an update it writes the generation.

        Args:
            weights: SHA-256 of the weights in use, by role.

        Raises:
            RunFolderError: names the weights that differ; or another job has updated the run at the
                same time.
        """
        identity = RunIdentity(self.config, weights, self.folders)
        run = self.run
        if run is None:
            run = RunFolder.create_or_resume(self.config.out, identity, self.images)
            if self.source is not None:
                self.source.confirm(run)
            else:
                check_own(run, self.config)  # another's manifest may have been there before ours
        else:
            run.check_same(identity)
        run.check_store()
        if self.updates:
            run.write_update(self.config)
        return run


def plan(config: JobConfig, retry: Iterable[ErrorCode] = ()) -> JobPlan:
    """Check a job's options, then list its images or open the run to resume.

    Args:
        config: the job.
        retry: images of finished shards that failed with these codes are tried again, as those
            with passing errors always are.

    Raises:
        UserError: a wrong option, no images, or a folder that belongs to another run.
    """
    _check_task(config)
    check_options(config.method, config.masks)
    config = with_published_clip(config)
    source = _source(config)
    folders = _folders(config) if source is None else source.folders
    folder = Folder(config.out)
    if not folder.exists(RUN_FILE):
        check_free(folder)
        images = _listed(config) if source is None else PackedRows.of(source.images())
        num_shards = config.num_shards(images.num_rows)
        return JobPlan(config, folders, images.num_rows, num_shards, images, source=source)
    run = RunFolder.open(config.out)
    # With the weights of the run: those of this job are compared in `begin`, when they are loaded.
    identity = RunIdentity(config, run.info.weights, folders)
    run.check_same(identity, is_finished=True, updates=config.run.update)
    found, updates, done = None, False, run.done()
    if config.run.update:
        check_own(run, config)
        found = changes(run.manifest(), _listed(config).table())
        found = found.without_annotated(run.other_sizes(done.values()))
        updates = not found.is_empty or config.image.limit != run.generations.limit
        if updates:
            run = run.updated(found, config.image.limit)
            done = run.done()
    planned = JobPlan(
        config, folders, run.num_images, run.num_shards, None, run, done,
        PASSING_CODES.union(retry), found, updates, source,
    )  # fmt: skip
    run.check_same(identity, is_finished=not planned.num_shards_left)
    if found is not None or source is not None:
        return planned
    if planned.num_shards_left:
        check_own(run, config)
    if config.run.task.number > 1:  # the first one looks, for all
        return planned
    return replace(planned, changes=_changes_since(run, config, planned.done))


def _listed(config: JobConfig) -> PackedRows:
    return collect_packed(config.images, config.image, config.run.images_roots)


def _folders(config: JobConfig) -> dict[str, str]:
    named = option_folders(config.method).items()
    return {option: folder_state(folder, option) for option, folder in named}


def _source(config: JobConfig) -> StoredFeatures | None:
    """Return the features that a job scores in place of images, checked; None: it reads images.

    Raises:
        UserError: they cannot be scored, or a job that reads images cannot keep its own.
    """
    if not config.features_of:
        if config.run.keep_features != "none":
            feature_options(config.method)
        return None
    if config.run.update or config.run.keep_features != "none":
        raise ConfigError(
            "a run of other words (features_of) reads no images: it has the images and features of "
            f"{config.features_of}; leave run.update and run.keep_features out"
        )
    source = StoredFeatures(config.features_of)
    source.check(config)
    return source


def _check_task(config: JobConfig) -> None:
    """Check what the tasks that share a run cannot do.

    Raises:
        ConfigError: names it.
    """
    task = config.run.task
    if config.run.shards and (address := ray_address()):
        raise ConfigError(
            f"--shards {config.run.shards} works without Ray, but RAY_ADDRESS names the cluster "
            f"{address}: leave --shards out, so that its workers share the run, or unset "
            "RAY_ADDRESS"
        )
    if config.run.update and task.number > 1:
        raise ConfigError(
            f"--update: of tasks that share a run only the first lists the collection again, and "
            f"this is task {task.number} of {task.num_tasks}: give --shards 1/{task.num_tasks} "
            "--update, and when it annotates the other tasks without --update"
        )


def _changes_since(
    run: RunFolder, config: JobConfig, done: Mapping[int, ShardDone]
) -> Changes | None:
    """List a run's collection again; what cannot be listed stops no run that has its list."""
    before, everything = run.manifest(), config.image.model_copy(update={"limit": 0})
    try:
        found = changes(before, collect(config.images, everything, config.run.images_roots))
    except OvsegError as error:
        logger.warning(
            "the collection cannot be listed again, so new and changed images go unnoticed: %s",
            error,
        )
        return None
    if config.image.limit:  # those after the last one were left out when the run began
        found = found.up_to(compute.max(before["path"]))
    return found.without_annotated(run.other_sizes(done.values()))


def run(
    config: JobConfig,
    progress: Progress | None = None,
    build: Build = build,
    retry: Iterable[ErrorCode] = (),
    caution: str = "",
) -> RunReport:
    """Do a job, or what is left of it, and report.

    Args:
        config: the job.
        progress: what a person sees; None: what suits standard error.
        build: makes the segmenter, in each worker; the default builds the config's method.
        retry: see `plan`.
        caution: what to know of it, said when it is sure that it can begin; not only at the end of
            a run of hours. Empty: nothing.

    Raises:
        UserError: the job cannot begin or continue as it is configured.
        OutageError: a store or cluster that the job cannot do without is away, or full.
    """
    planned = plan(config, retry).repaired()
    if caution:
        logger.warning("%s", caution)
    if not planned.num_shards_left:
        if planned.updates and planned.run is not None:
            planned.begin(planned.run.info.weights)
        return sum_up(
            config, planned.shard_sizes, planned.done, planned.changes, updated=planned.is_update
        )
    if config.run.workers > planned.num_shards and not config.run.local:
        logger.warning(
            "%d workers and %s of work: some will idle; a smaller `shard_size` makes more",
            config.run.workers,
            counted(planned.num_shards, "shard"),
        )
    progress = progress or make_progress()
    progress.start(planned.num_own_images, planned.num_images_done, config.run.batch_size)
    started, interrupted = time.monotonic(), False
    with Termination() as termination:
        job = _RunningJob(planned, progress, build, termination)
        try:
            job.run_here() if config.run.local else job.run_on_ray()
            interrupted = termination.requested
        except KeyboardInterrupt:
            interrupted = True
        finally:
            num_begun = progress.begun
            progress.close()
    if not interrupted:
        job.check_present()
    else:
        logger.warning(
            "stopped by %s%s",
            "SIGTERM" if termination.requested else "Ctrl-C",
            f"; {counted(num_begun, 'image')} of shards that are not finished will be done again"
            if num_begun
            else "",
        )
    done = job.done()
    return replace(
        sum_up(
            config,
            job.shard_sizes,
            done,
            planned.changes_left(done),
            updated=planned.is_update and job.has_begun,
        ),
        num_new=progress.finished,
        failed_shards=job.failed,
        seconds=time.monotonic() - started,
        images_per_s=progress.images_per_s,
        bottleneck=progress.bottleneck,
        interrupted=interrupted,
        has_begun=job.has_begun or planned.run is not None,
        terminated=termination.requested,
        stop_reason=job.stop_reason,
    )


class _RunningJob:
    """A job that is running; the status is there as soon as the run folder is."""

    def __init__(
        self, planned: JobPlan, progress: Progress, build: Build, termination: Termination
    ) -> None:
        self._plan = planned
        self._progress = progress
        self._build = build
        self._termination = termination
        self._status: ShardStatus | None = None

    @property
    def failed(self) -> dict[int, str]:
        """Why each shard was given up that this job gave up, by index."""
        return self._status.failed if self._status else {}

    @property
    def has_begun(self) -> bool:
        """Whether the run folder is there, or updated."""
        return self._status is not None

    @property
    def stop_reason(self) -> str:
        """Why the job stopped before its end; empty: it did not."""
        return self._status.stop_reason if self._status else ""

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """(shards,) how many images of the collection each shard of the run has."""
        return self._status.run.shard_sizes() if self._status else self._plan.shard_sizes

    def done(self) -> dict[int, ShardDone]:
        """Return the markers of all finished shards, earlier runs included."""
        return self._status.run.done() if self._status else self._plan.done

    def check_present(self) -> None:
        """Check that the run folder is still there; see `RunFolder.check_present`."""
        if self._status:
            self._status.run.check_present()

    def run_here(self) -> None:
        """Annotate the shards one after another in this process."""
        config = self._plan.config
        self._check_weights()
        device = local_device(config.run.device)
        setup = WorkerSetup(config, device, self._build, self._plan.retry)
        worker = Worker(setup, self._progress.add_image)
        weights = worker.prepare()
        status, shards = self._begin(weights)
        again: list[Shard] = []
        with contextlib.closing(worker):
            for shard, following in _with_following(shards, again):
                if status.must_stop or self._termination.requested:
                    return
                then = first_images(following, config.run)
                if _annotate_here(worker, shard, then, status):
                    again.append(shard)
                time.sleep(status.pause_s)

    def run_on_ray(self) -> None:
        """Distribute the shards to workers on a Ray cluster."""
        set_ray_environment()
        # Imported after that, and so that a run in this process does without Ray.
        from pipeline.job import cluster
        from pipeline.job.driver import Driver
        from pipeline.job.worker_pool import WorkerPool

        config = self._plan.config
        if not cluster.is_given():
            self._check_weights()
        with cluster.connected():
            self._termination.listen()
            cluster.wait_for_machine(config.run)
            device = cluster.cluster_device(config.run)
            name = secrets.token_hex(16)
            setup = WorkerSetup(config, device, self._build, self._plan.retry, job=name)
            pool = WorkerPool(setup, max_useful=self._plan.num_shards_left)
            try:
                first = pool.wait_for_first()
                status, shards = self._begin(pool.weights)
                Driver(pool, status, shards, self._termination).run(first)
            except KeyboardInterrupt:
                logger.info("stopping the workers")  # which takes seconds
                raise
            finally:
                pool.stop_all()
                forget_text(name)

    def _check_weights(self) -> None:
        """Say what is wrong with weights before anything is started that takes long."""
        if self._build is build:
            check_before_start(self._plan.config)

    def _begin(self, weights: dict[str, str]) -> tuple[ShardStatus, Iterator[Shard]]:
        """Create or check the run folder, now that the weights are known; return what is left."""
        run = self._plan.begin(weights)
        self._status = ShardStatus(run, self._progress, self._plan.num_shards_left)
        if left_out := self._plan.left_out:
            logger.warning("%s", describe(left_out))
        self._progress.begin()
        self._termination.has_work = True
        return self._status, self._left(run)

    def _left(self, run: RunFolder) -> Iterator[Shard]:
        """Yield the job's own shards that are left, but those that another driver has finished.

        A driver that did not begin the run starts anywhere and goes backwards, so that two drivers
        share the work: in one direction they could do the same shards from one look to the next.
        """
        shards, to_retry = run.shards(), self._plan.num_to_retry
        left = sorted({*run.shards_left(self._plan.done), *to_retry})
        left = list(filter(self._plan.task.owns, left))
        if not run.is_first and left:
            start = random.randrange(len(left))
            left = left[start::-1] + left[:start:-1]
        others: set[int] = set()
        look_at = time.monotonic() + LOOK_EVERY_S
        for index in left:
            if time.monotonic() >= look_at:
                began = time.monotonic()
                others = set(marked_shards(run.folder, "done")) - to_retry.keys()
                took_s = time.monotonic() - began
                look_at = time.monotonic() + max(LOOK_EVERY_S, 20 * took_s)
            if index not in others:
                yield shards[index]


def _with_following(
    shards: Iterator[Shard], again: list[Shard]
) -> Iterator[tuple[Shard, Shard | None]]:
    """Yield each shard with the one after it, then those of `again`, which grows meanwhile."""
    following = next(shards, None)
    while following is not None:
        shard, following = following, next(shards, None)
        yield shard, following
    yield from ((shard, None) for shard in again)


def _annotate_here(
    worker: Worker, shard: Shard, then: Sequence[ImageRef], status: ShardStatus
) -> bool:
    """Annotate one shard, or try until it is given up; return whether images are tried again."""
    while True:
        try:
            tally = worker.annotate(shard, then)
        except (UserError, BlockedStoreError):
            raise
        except BrokenDeviceError as error:
            raise ResourceError(
                f"the GPU failed and this process cannot use it any more ({error_summary(error)}); "
                "the same command goes on; without `run.local` such a worker is replaced"
            ) from error
        except Exception as error:  # noqa: BLE001 - a failed shard must not stop the job
            status.progress.set_begun(0)
            if not status.retry(shard, error):
                return False
        else:
            status.progress.set_begun(0)
            return status.finish(shard, tally)
