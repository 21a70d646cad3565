"""Distributes shards to workers until all are done or given up: one loop over `ray.wait`.

One shard is in flight per worker, so that a lost worker names the shard at fault. Another one is
reserved for it: it reads the first images of that one while it makes the last masks. A shard that
kills its worker again and again is split: its images are tried one by one, by any worker. An image
that still kills its worker gets the code `worker_lost`; the others keep their masks.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from pipeline.annotate.image_errors import BrokenDeviceError, error_summary
from pipeline.annotate.rows import FailedImage, StageSeconds, failed_rows, join_rows, tally_of
from pipeline.job import cluster
from pipeline.job.monitoring.metrics import JobMetrics
from pipeline.job.shard_status import ShardStatus
from pipeline.job.termination import Termination
from pipeline.job.worker import commit, first_images
from pipeline.job.worker_pool import Actor, WorkerPool
from schemas.errors import BlockedStoreError, ErrorCode, ImageError, StorageError, UserError
from schemas.records import Shard, ShardRows

logger = logging.getLogger(__name__)

TICK_S = 2.0
"""The loop updates the progress and the size of the pool at least this often."""
ASK_AFTER_S = 40.0
"""Workers are asked what they wait for when no image was done for so long."""
ASK_EVERY_S = 30.0
COUNT_EVERY_S = 2.0
"""Workers are asked so often how many images of their shards are done."""
RETRIES_OF_ONE_IMAGE = 1
"""How often Ray repeats the call for a single image whose worker died."""
MAX_LOST_IMAGES = 4
"""A shard in which more images kill their workers is given up: the images are not the cause."""


@dataclass(frozen=True)
class WorkItem:
    """A whole shard, or (`position` not None) one image of a shard that was split."""

    shard: Shard
    position: int | None = None


class SplitShard:
    """A shard whose images are tried one by one, until the rows of all are there."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.num_lost = 0
        self._rows: dict[int, ShardRows] = {}
        self._started = time.monotonic()

    def add(self, position: int, rows: ShardRows) -> bool:
        """Keep the rows of an image; return whether all are there now."""
        self._rows[position] = rows
        return len(self._rows) == len(self.shard.refs)

    def rows(self) -> ShardRows:
        """Return the rows in manifest order."""
        return join_rows(self._rows[position] for position in range(len(self.shard.refs)))

    @property
    def wall_s(self) -> float:
        """Seconds since the shard was split."""
        return time.monotonic() - self._started


class Driver:
    """Gives work items to idle workers and collects the results.

    Args:
        pool: the workers.
        status: of the shards.
        shards: those that are left.
        termination: asks the driver to wait for what is running and to end.
    """

    def __init__(
        self,
        pool: WorkerPool,
        status: ShardStatus,
        shards: Iterator[Shard],
        termination: Termination,
    ) -> None:
        self._pool = pool
        self._status = status
        self._termination = termination
        self._metrics = JobMetrics(pool, status)
        self._untried = (WorkItem(shard) for shard in shards)
        self._retries: deque[WorkItem] = deque()
        self._next: WorkItem | None = None
        self._idle: list[Actor] = []
        self._reserved: dict[Actor, WorkItem] = {}
        self._running: dict[ray.ObjectRef, tuple[Actor, WorkItem]] = {}
        self._split: dict[int, SplitShard] = {}
        self._asked_s = self._counted_s = float("-inf")
        self._counts: set[ray.ObjectRef] = set()
        self._begun: dict[int, int] = {}  # images done, by index of the shard

    def run(self, first: Actor) -> None:
        """Return when every shard is done or given up, or too many failed in a row.

        Args:
            first: a worker that is ready.

        Raises:
            UserError: no worker can go on, or the run folder may not be written.
            ClusterError: the head of the cluster is lost.
            BlockedStoreError: the run folder's store is full, or its credentials have expired.
        """
        self._idle.append(first)
        while not self._is_over() and not self._status.must_stop:
            if not self._status.pause_s and not self._termination.requested:
                self._distribute()
            self._metrics.record(len({item.shard.index for _, item in self._running.values()}))
            self._collect()
            self._pool.head.wait_now_and_then()
            self._say_waits()
            self._ask_for_counts()
            self._status.progress.tick()

    def _is_over(self) -> bool:
        has_more = not self._termination.requested and self._has_waiting()
        return not self._running and not has_more

    def _has_waiting(self) -> bool:
        return bool(self._reserved) or self._next_item() is not None

    def _next_item(self) -> WorkItem | None:
        """Return what is to be done next, without taking it: untried shards before retries."""
        while self._next is None or self._next.shard.index in self._status.failed:
            self._next = next(self._untried, None)
            if self._next is None:
                if not self._retries:
                    return None
                self._next = self._retries.popleft()
        return self._next

    def _distribute(self) -> None:
        while self._idle and (item := self._take_for(self._idle[-1])):
            worker = self._idle.pop()
            if item.position is None:
                following = first_images(self._reserve_for(worker), self._pool.config.run)
                ref = worker.annotate.remote(item.shard, following)
            else:
                image = item.shard.refs[item.position]
                one = Shard(index=item.shard.index, refs=(image,))
                call = worker.annotate_rows.options(max_task_retries=RETRIES_OF_ONE_IMAGE)
                ref = call.remote(one)
            self._running[ref] = worker, item
        if self._has_waiting():
            self._pool.grow()
            return
        # Nothing waits. A worker whose machine is gone holds a shard and may need this place.
        self._pool.cancel_starting()
        while self._idle:
            self._pool.stop(self._idle.pop())

    def _take_for(self, worker: Actor) -> WorkItem | None:
        """Take what is reserved for a worker, else what waits, else what is another's."""
        own = self._reserved.pop(worker, None)
        if own and own.shard.index not in self._status.failed:
            return own
        if item := self._next_item():
            self._next = None
            return item
        while self._reserved:
            _, item = self._reserved.popitem()
            if item.shard.index not in self._status.failed:
                return item
        return None

    def _reserve_for(self, worker: Actor) -> Shard | None:
        """Keep the next whole shard for a worker, which begins to read it.

        If an image of it kills the worker, the shard before is split for nothing: no image is lost.
        """
        item = self._next_item()
        if item is None or item.position is not None:
            return None
        self._next = None
        self._reserved[worker] = item
        return item.shard

    def _collect(self) -> None:
        """Wait for one result, or for one worker that has started."""
        pending = [*self._running, *self._pool.starting, *self._counts]
        if not pending:
            time.sleep(min(TICK_S, self._status.pause_s))
            return
        finished, _ = ray.wait(pending, num_returns=1, timeout=TICK_S)
        for ref in finished:
            if ref in self._running:
                self._finish(ref)
            elif ref in self._counts:
                self._count(ref)
            elif (worker := self._pool.admit(ref)) is not None:
                self._idle.append(worker)

    def _say_waits(self) -> None:
        """Log what is waited for if no image is done, such as a silent store, or a new machine."""
        now, idle_s = time.monotonic(), self._status.progress.idle_s
        if idle_s < ASK_AFTER_S or now - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = now
        if not self._running:
            if self._pool.starting:
                self._pool.tell_of_slow_start(idle_s)
            return
        asked = {
            worker.waits.options(concurrency_group=cluster.NOTES).remote(): item.shard.index
            for worker, item in self._running.values()
        }
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=TICK_S)
        lines: dict[int, str] = {}
        for ref in answered:
            with suppress(RayError):  # the worker has died; its shard says so
                if line := ray.get(ref):
                    lines[asked[ref]] = line
        for shard, line in sorted(lines.items())[:1]:
            logger.info("%d of %d workers wait; shard %d: %s", len(lines), len(asked), shard, line)

    def _ask_for_counts(self) -> None:
        """Ask the workers how many images of their shards are done; `_collect` has the answers."""
        now = time.monotonic()
        if self._counts or now - self._counted_s < COUNT_EVERY_S:
            return
        self._counted_s = now
        self._counts = {
            worker.images_done.options(concurrency_group=cluster.NOTES).remote()
            for worker, item in self._running.values()
            if item.position is None
        }

    def _count(self, ref: ray.ObjectRef) -> None:
        self._counts.remove(ref)
        with suppress(RayError):  # the worker has died; its shard says so
            index, num_done = ray.get(ref)
            if any(item.shard.index == index for _, item in self._running.values()):
                self._begun[index] = num_done
                self._status.progress.set_begun(sum(self._begun.values()))

    def _finish(self, ref: ray.ObjectRef) -> None:
        worker, item = self._running.pop(ref)
        self._begun.pop(item.shard.index, None)
        self._status.progress.set_begun(sum(self._begun.values()))
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            self._handle_error(worker, item, error.cause)
        except (RayActorError, OutOfMemoryError) as error:  # Ray's own retries are used up
            self._handle_lost_worker(worker, item, error)
        except RayError as error:
            self._handle_error(worker, item, error)
        else:
            self._idle.append(worker)
            if item.position is None:
                if self._status.finish(item.shard, result):
                    self._retries.append(WorkItem(item.shard))
            else:
                self._add_image(item.shard, item.position, result)

    def _handle_error(self, worker: Actor, item: WorkItem, error: Exception) -> None:
        """Handle an exception: the worker lives, its item is not done."""
        if isinstance(error, UserError | BlockedStoreError):
            raise error
        if isinstance(error, BrokenDeviceError):
            self._handle_lost_worker(worker, item, error)
            return
        self._idle.append(worker)
        if self._status.retry(item.shard, error):
            self._retries.append(item)

    def _handle_lost_worker(self, worker: Actor, item: WorkItem, error: Exception) -> None:
        """Replace a worker that cannot go on, and find the image that it died of."""
        self._pool.replace(worker)
        shard = item.shard
        if shard.index in self._status.failed:
            return
        if item.position is None:
            logger.warning(
                "shard %d kills its workers (%s); its images are tried one by one",
                shard.index,
                cluster.lack_of_memory(error) or error_summary(error),
                extra={"shard": shard.index},
            )
            self._split[shard.index] = SplitShard(shard)
            self._retries.extend(WorkItem(shard, position) for position in range(len(shard.refs)))
            return
        split, ref = self._split[shard.index], shard.refs[item.position]
        split.num_lost += 1
        if split.num_lost > MAX_LOST_IMAGES:
            self._status.give_up(shard, error)
            return
        logger.error(
            "%s kills its workers and gets no masks", ref.path, extra={"shard": shard.index}
        )
        reason = cluster.lack_of_memory(error) or error_summary(error)
        message = f"workers die on this image, also when it is alone ({reason})"
        lost = FailedImage(ref, StageSeconds(), ImageError(ErrorCode.WORKER_LOST, message))
        self._add_image(shard, item.position, failed_rows(lost))

    def _add_image(self, shard: Shard, position: int, rows: ShardRows) -> None:
        """Keep the rows of one image of a split shard; with the last one, commit the shard."""
        split = self._split[shard.index]
        if not split.add(position, rows):
            return
        del self._split[shard.index]
        all_rows = split.rows()
        tally = tally_of(all_rows, {"wall": split.wall_s})
        try:
            commit(self._status.run, shard.index, all_rows, tally)
        except BlockedStoreError:
            raise
        except StorageError as error:
            self._status.give_up(shard, error)
        else:
            if self._status.finish(shard, tally):
                self._retries.append(WorkItem(shard))
