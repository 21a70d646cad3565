"""A worker: it holds the segmenter, annotates shards and commits them.

A plain class; the driver makes it a Ray actor, a local run uses it as it is. The segmenter is built
at the first call, so that whatever goes wrong with it is an ordinary exception of that call, also
after Ray has restarted the process.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ovseg_core.segmenter import TextMatrix
from pipeline.annotate.annotator import Annotator
from pipeline.annotate.build import Build, Built
from pipeline.annotate.image_feed import BATCHES_AHEAD
from pipeline.annotate.observer import Observer
from pipeline.annotate.relabeler import Relabeler
from pipeline.annotate.rows import replaced_rows, tally_of
from pipeline.annotate.shared_text import shared_text
from pipeline.job.monitoring.json_log import log_fields, set_log_fields
from pipeline.job.worker_process import enter_worker_process
from pipeline.run.folder import RunFolder
from pipeline.run.identity import check_versions
from pipeline.run.tables.stored_features import StoredFeatures
from pipeline.storage.waiting import current_line, waiting
from schemas.base import counted
from schemas.config import JobConfig, RunConfig
from schemas.errors import PASSING_CODES, ErrorCode
from schemas.records import THREAD_TIMES, ImageRef, Shard, ShardDone, ShardRows, ShardTally


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to know; travels to other machines.

    Attributes:
        config: the job.
        device: `cpu` or `cuda`.
        build: makes the segmenter, in the worker.
        retry: images of finished shards that failed with these codes are tried again.
        folder: relative paths in the config start here; the current folder of the driver.
        job: a name that its workers share and no other job has; empty: there is one worker.
    """

    config: JobConfig
    device: str
    build: Build
    retry: frozenset[ErrorCode] = PASSING_CODES
    folder: str = field(default_factory=os.getcwd)
    job: str = ""


class Worker:
    """One segmenter and the shards that are given to it, one after another.

    Args:
        setup: the job.
        on_image: called when an image is annotated, before its shard is; None: nobody counts.
        observer: is told what a worker in this process does; one on Ray records metrics.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        on_image: Callable[[], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._on_image = on_image
        self._setup = setup
        self._in_hand = (-1, 0)
        self._free_since: float | None = None  # monotonic seconds; None: it had no shard yet
        self._observer = observer or Observer()
        enter_worker_process(setup.config.run, setup.folder)
        if not setup.config.run.local:
            worker = f"{socket.gethostname()}/{os.getpid()}"
            set_log_fields(run=setup.config.out, worker=worker)
            self._observer = _metrics(setup) or self._observer

    def prepare(self) -> dict[str, str]:
        """Load the models; return the SHA-256 of their weights by role.

        Raises:
            UserError: unknown method, or weights that cannot be found, fetched or used.
        """
        _ = self._annotator
        weights = self._built.weights
        return weights if self._source is None else self._source.checked_weights(weights)

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> ShardTally:
        """Annotate and commit a shard, or the images of a finished one that are tried again.

        Args:
            shard: what to annotate.
            then: the first images of the shard that probably comes next, see `first_images`.

        Returns:
            The tally of the images that were annotated now; none where another driver was first.
        """
        try:
            with log_fields(shard=shard.index):
                return self._annotate(shard, then)
        finally:
            self._free_since = time.monotonic()

    def _annotate(self, shard: Shard, then: Sequence[ImageRef]) -> ShardTally:
        self._in_hand = (shard.index, 0)
        free_s = 0.0 if self._free_since is None else time.monotonic() - self._free_since
        before = self._run.marker(shard.index)
        if before is None:
            rows, tally = self._annotator.annotate(shard, then)
            tally = tally.with_seconds(wait_shard=free_s)
            return self._commit(shard.index, rows, tally, tally).tally
        if not before.tally.num_failed(self._setup.retry):
            return ShardTally(num_images=0, num_segments=0)
        kept = self._run.shard_rows(before)
        again = {row.image_id for row in kept.images if row.error_code in self._setup.retry}
        refs = tuple(ref for ref in shard.refs if ref.image_id in again)
        rows, tally = self._annotator.annotate(Shard(index=shard.index, refs=refs))
        rows = replaced_rows(kept, rows)
        if rows is kept:
            return tally
        # The stages are summed over all rows; so are the times of the compute threads.
        tally = tally.with_seconds(wait_shard=free_s)
        earlier, times = (
            {name: one.seconds[name] for name in THREAD_TIMES if name in one.seconds}
            for one in (before.tally, tally)
        )
        whole = tally_of(rows, earlier).with_seconds(**times)
        self._commit(shard.index, rows, whole, tally, before)
        return tally

    def _commit(
        self,
        shard_index: int,
        rows: ShardRows,
        whole: ShardTally,
        now: ShardTally,
        before: ShardDone | None = None,
    ) -> ShardDone:
        marker = commit(self._run, shard_index, rows, whole, before)
        self._observer.shard_done(marker, now)
        return marker

    def annotate_rows(self, shard: Shard, then: Sequence[ImageRef] = ()) -> ShardRows:
        """Annotate without a commit, for a shard whose images are tried one by one.

        Args:
            shard: what to annotate.
            then: see `annotate`.
        """
        with log_fields(shard=shard.index):
            rows, _ = self._annotator.annotate(shard, then)
        return rows

    def close(self) -> None:
        """End the threads of a worker that gets no more shards; its process may go on."""
        self._annotator.close()

    def waits(self) -> str:
        """Return what this process waits for, as a log line; empty: for nothing for long.

        Answers while a shard is annotated, if it is called in `cluster.NOTES`.
        """
        return current_line()

    def images_done(self) -> tuple[int, int]:
        """Return the index of the shard in hand, and how many of its images are done.

        Answers while a shard is annotated, if it is called in `cluster.NOTES`.
        """
        return self._in_hand

    def _count_image(self) -> None:
        index, num_done = self._in_hand
        self._in_hand = (index, num_done + 1)
        if self._on_image is not None:
            self._on_image()

    @cached_property
    def _run(self) -> RunFolder:
        run = RunFolder.open(self._setup.config.out)
        if not self._setup.config.run.accept_versions:
            check_versions(run.info, run.folder.uri)  # machines of a cluster may differ
        return run

    @cached_property
    def _built(self) -> Built:
        with waiting("load the networks"):
            return self._setup.build(self._setup.config, self._setup.device)

    @cached_property
    def _source(self) -> StoredFeatures | None:
        """The features that are scored in place of images."""
        uri = self._setup.config.features_of
        return StoredFeatures(uri) if uri else None

    @cached_property
    def _annotator(self) -> Annotator | Relabeler:
        config, segmenter = self._setup.config, self._built.segmenter
        text = shared_text(self._embed, self._setup.job, self._setup.device)
        annotator = (
            Annotator(segmenter, text, config, self._built.clip)
            if self._source is None
            else Relabeler(segmenter, text, config, self._source)
        )
        annotator.on_image = self._count_image
        annotator.observer = self._observer
        return annotator

    def _embed(self) -> TextMatrix:
        vocabulary, segmenter = self._setup.config.vocabulary, self._built.segmenter
        with waiting(f"embed the {counted(vocabulary.num_phrases, 'phrase')} of the vocabulary"):
            return segmenter.text_matrix(vocabulary)


def first_images(shard: Shard | None, run: RunConfig) -> tuple[ImageRef, ...]:
    """Return the images of a shard that a worker begins to load before the shard is its own."""
    return () if shard is None else shard.refs[: BATCHES_AHEAD * run.batch_size]


def commit(
    run: RunFolder,
    shard_index: int,
    rows: ShardRows,
    tally: ShardTally,
    before: ShardDone | None = None,
) -> ShardDone:
    """Write a shard's tables and done marker; `before`: see `RunFolder.commit`.

    Returns:
        The marker that counts: another worker's, if it was first.
    """
    return run.commit(shard_index, f"pid{os.getpid()}", rows, tally, before)


def _metrics(setup: WorkerSetup) -> Observer | None:
    import ray  # a run in this process does without

    if not ray.is_initialized():  # no actor holds this worker, and to ask for one would start Ray
        return None

    from pipeline.job.monitoring.metrics import WorkerMetrics

    is_restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)
    return WorkerMetrics(setup.config, setup.device, is_restarted=is_restarted)
