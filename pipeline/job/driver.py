"""Hands shards to workers until all are done or given up: one loop over `ray.wait`.

One shard is in flight per worker, so that a lost worker names the shard at fault. A shard that
kills its worker again and again is taken apart: its images go out one by one, to any worker, and
an image that still kills gets the code `worker_lost` while the others keep their masks.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from pipeline.annotate.image_errors import BrokenDeviceError, describe
from pipeline.annotate.rows import Failed, StageSeconds, failed_rows, join_rows, tally_of
from pipeline.annotate.worker import commit
from pipeline.job.shard_status import ShardStatus
from pipeline.job.worker_pool import Actor, WorkerPool
from schemas.errors import ErrorCode, ImageError, StorageError, UserError
from schemas.records import Shard, ShardRows

log = logging.getLogger(__name__)

TICK_S = 2.0
"""The loop looks at the clock and at the cluster's size at least this often."""
RETRIES_OF_ONE = 1
"""An image alone with a worker may kill it so many times and is tried once more."""
MAX_LOST_IMAGES = 4
"""A shard in which more images kill their workers is given up: it is not the images."""


@dataclass(frozen=True)
class WorkItem:
    """What one worker is given: a whole shard, or (`position` not None) one image of it."""

    shard: Shard
    position: int | None = None


class SplitShard:
    """A shard whose images are handed out one by one, until the rows of all are there."""

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
        """Seconds since the shard was taken apart."""
        return time.monotonic() - self._started


class Driver:
    """The loop.

    Args:
        crew: the workers.
        ledger: the accounts.
        shards: those without a done marker, in order.
    """

    def __init__(self, crew: WorkerPool, ledger: ShardStatus, shards: Iterator[Shard]) -> None:
        self._crew = crew
        self._ledger = ledger
        self._fresh = (WorkItem(shard) for shard in shards)
        self._again: deque[WorkItem] = deque()
        self._next: WorkItem | None = None
        self._idle: list[Actor] = []
        self._running: dict[ray.ObjectRef, tuple[Actor, WorkItem]] = {}
        self._apart: dict[int, SplitShard] = {}

    def run(self, first: Actor) -> None:
        """Return when every shard is done or given up, or the job is hopeless.

        Args:
            first: a worker that is ready.

        Raises:
            UserError: no worker can go on, or the run folder may not be written.
        """
        self._idle.append(first)
        while (self._peek() or self._running) and not self._ledger.hopeless:
            self._hand_out()
            self._collect()
            self._ledger.progress.tick()

    def _peek(self) -> WorkItem | None:
        """Return what waits next: fresh shards first, what failed waits a while."""
        while self._next is None or self._next.shard.index in self._ledger.failed:
            self._next = next(self._fresh, None)
            if self._next is None:
                if not self._again:
                    return None
                self._next = self._again.popleft()
        return self._next

    def _hand_out(self) -> None:
        while self._idle and (piece := self._peek()):
            self._next = None
            worker = self._idle.pop()
            self._running[self._send(worker, piece)] = worker, piece
        if self._peek():
            self._crew.grow()
            return
        # Nothing waits. A worker whose machine is gone holds a shard and may need this place.
        self._crew.cancel_starts()
        while self._idle:
            self._crew.let_go(self._idle.pop())

    def _send(self, worker: Actor, piece: WorkItem) -> ray.ObjectRef:
        if piece.position is None:
            return worker.annotate.remote(piece.shard)
        one = Shard(index=piece.shard.index, refs=(piece.shard.refs[piece.position],))
        return worker.annotate_rows.options(max_task_retries=RETRIES_OF_ONE).remote(one)

    def _collect(self) -> None:
        waited_for = [*self._running, *self._crew.starting]
        if not waited_for:
            return
        ready, _ = ray.wait(waited_for, num_returns=1, timeout=TICK_S)
        for ref in ready:
            if ref in self._running:
                self._finish(ref)
            else:
                self._idle.extend(self._crew.admit(ref))

    def _finish(self, ref: ray.ObjectRef) -> None:
        worker, piece = self._running.pop(ref)
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            self._failed(worker, piece, error.cause)
        except (RayActorError, OutOfMemoryError) as error:  # Ray's own retries are used up
            self._lost(worker, piece, error)
        except RayError as error:
            self._failed(worker, piece, error)
        else:
            self._idle.append(worker)
            if piece.position is None:
                self._ledger.done(result)
            else:
                self._add(piece, result)

    def _failed(self, worker: Actor, piece: WorkItem, error: Exception) -> None:
        """Deal with an exception: the worker lives, what it was given is not done."""
        if isinstance(error, UserError):
            raise error
        if isinstance(error, BrokenDeviceError):
            self._lost(worker, piece, error)
            return
        self._idle.append(worker)
        if self._ledger.try_again(piece.shard, error):
            self._again.append(piece)

    def _lost(self, worker: Actor, piece: WorkItem, error: Exception) -> None:
        """Deal with a worker that cannot go on: replace it, and narrow down what it died of."""
        self._crew.replace(worker)
        shard = piece.shard
        if shard.index in self._ledger.failed:
            return
        if piece.position is None:
            log.warning("shard %d kills its workers; now image by image", shard.index)
            self._apart[shard.index] = SplitShard(shard)
            self._again.extend(WorkItem(shard, position) for position in range(len(shard.refs)))
            return
        apart, ref = self._apart[shard.index], shard.refs[piece.position]
        apart.num_lost += 1
        if apart.num_lost > MAX_LOST_IMAGES:
            self._ledger.give_up(shard, error)
            return
        log.error("%s kills its workers and is left out", ref.path)
        message = f"workers die on this image, also when it comes alone ({describe(error)})"
        lost = Failed(ref, StageSeconds(), ImageError(ErrorCode.WORKER_LOST, message))
        self._add(piece, failed_rows(lost))

    def _add(self, piece: WorkItem, rows: ShardRows) -> None:
        """Keep the rows of one image; with the last one, commit its shard."""
        index = piece.shard.index
        apart = self._apart[index]
        if piece.position is None or not apart.add(piece.position, rows):
            return
        del self._apart[index]
        whole = apart.rows()
        tally = tally_of(whole, apart.wall_s)
        try:
            self._ledger.done(commit(self._ledger.run_dir, index, whole, tally))
        except StorageError as error:
            self._ledger.give_up(piece.shard, error)
