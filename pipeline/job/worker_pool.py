"""The worker pool of a job on Ray: started as resources come, stopped when no work is left."""

import logging
import time
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from pipeline.annotate.image_errors import error_summary
from pipeline.job import cluster
from pipeline.job.worker import Worker, WorkerSetup
from pipeline.job.worker_process import ray_address
from schemas.base import counted
from schemas.errors import ResourceError, UserError, WeightsError

logger = logging.getLogger(__name__)

Actor = Any
"""A worker's handle; Ray's types for it change between versions."""
GROW_EVERY_S = 10.0
"""How often the cluster is asked whether it has room for more workers."""
TELL_EVERY_S = 30.0
"""How often the wait for the first worker is told."""
_OWN_IS_NOT_FREE = "what this run's own workers hold is not free"
ANSWER_S = 2.0
"""A worker that has a place answers within this time, though it loads."""


class WorkerPool:
    """Workers that are starting or ready; the driver knows which one has which shard.

    Args:
        setup: of each worker.
        max_useful: more workers than this would have nothing to do (the number of shards left).
        worker: their class, made with `setup`; another one has the methods of `Worker`.

    Attributes:
        weights: SHA-256 by role, the same in all workers; empty until the first one is ready.
        head: of the cluster.
        config: the job.
        gpus_per_worker: that each one holds; 0 on the CPU.
        num_replaced: workers that could not go on, and were replaced.

    Raises:
        ClusterError: from all that starts workers: the head is lost.
        ResourceError: no node can hold a worker.
    """

    def __init__(self, setup: WorkerSetup, max_useful: int, worker: type = Worker) -> None:
        run = setup.config.run
        self.weights: dict[str, str] = {}
        self.head = cluster.ClusterHead.joined()
        self.config = setup.config
        self._setup = setup
        self._worker = worker
        self._demand = cluster.worker_demand(run, setup.device)
        self.gpus_per_worker = self._demand["GPU"]
        self.num_replaced = 0
        self._max_size = min(max_useful, run.workers or max_useful)
        self._is_fixed = run.workers > 0
        self._starting: dict[ray.ObjectRef, Actor] = {}
        self._ready: list[Actor] = []
        self._last_growth = 0.0
        cluster.check_capacity(self._demand)
        self.grow()

    @property
    def size(self) -> int:
        """Workers that are starting or ready."""
        return len(self._starting) + len(self._ready)

    @property
    def starting(self) -> list[ray.ObjectRef]:
        """One reference for each worker that is starting, to wait for; then call `admit`."""
        return list(self._starting)

    def grow(self) -> None:
        """Start as many workers as the config names, or as the cluster can hold now."""
        now = time.monotonic()
        if self.size and now - self._last_growth < GROW_EVERY_S:
            return
        self._last_growth = now
        self.head.wait()
        goal = self._max_size
        if not self._is_fixed:
            goal = min(goal, max(1, cluster.capacity(self._demand)))
        for _ in range(goal - self.size):
            self._start()

    def wait_for_first(self) -> Actor:
        """Return the first worker that is ready.

        Raises:
            UserError: why none can be built.
        """
        began_s = said_s = time.monotonic()
        while True:
            refs, _ = ray.wait(self.starting, num_returns=1, timeout=cluster.LOOK_EVERY_S)
            self.head.wait_now_and_then()
            if not refs and time.monotonic() - said_s >= TELL_EVERY_S:
                said_s = time.monotonic()
                self.tell_of_slow_start(said_s - began_s)
            for ref in refs:
                actor = self.admit(ref)
                if actor is not None:
                    return actor

    def tell_of_slow_start(self, waited_s: float) -> None:
        """Log that no worker is ready: how many load their networks, and what others wait for."""
        lines = self._lines_of_starting()
        number, parts = len(self._starting), []
        if lines:
            doing = next((f", now: {line}" for line in lines if line), "")
            parts.append(
                f"{len(lines)} of {counted(number, 'worker')} of this run started, and load the "
                f"networks or embed the words{doing.replace('waiting: ', '')}"
            )
        if number > len(lines):
            room = ""
            if ray_address() or cluster.capacity(self._demand) < self.size:
                free = cluster.free_resources(self._demand)
                room = f", or there is no room for them yet: {free}; {_OWN_IS_NOT_FREE}"
            parts.append(
                f"{number - len(lines)} of {counted(number, 'worker')} of this run have not "
                f"answered yet: their processes are starting{room}"
            )
        logger.info("no worker is ready yet, after %.0f s: %s", waited_s, "; ".join(parts))

    def _lines_of_starting(self) -> list[str]:
        """Return what each worker waits for that has a place and loads; may be empty text."""
        asked = [
            actor.waits.options(concurrency_group=cluster.NOTES).remote()
            for actor in self._starting.values()
        ]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
        lines: list[str] = []
        for ref in answered:
            with suppress(RayError):  # it has died; `admit` says so
                lines.append(ray.get(ref))
        return lines

    def admit(self, ref: ray.ObjectRef) -> Actor | None:
        """Return the worker whose start has ended; None if it failed and others are left.

        Raises:
            UserError: why no worker can be built.
        """
        actor = self._starting.pop(ref)
        try:
            weights = ray.get(ref)
        except (RayTaskError, RayActorError, OutOfMemoryError) as error:
            ray.kill(actor)
            self._handle_failed_start(error)
            return None
        if self.weights and self.weights != weights:
            ray.kill(actor)
            raise WeightsError(
                "the weights differ between the cluster's machines "
                f"({self.weights} and {weights}); remove the stale cache"
            )
        self.weights = weights
        self._ready.append(actor)
        return actor

    def stop(self, actor: Actor) -> None:
        """Stop a worker and free its resources, perhaps for another that lost its machine."""
        self._ready.remove(actor)
        ray.kill(actor)

    def replace(self, actor: Actor) -> None:
        """Stop a worker that cannot go on, and start another."""
        self.num_replaced += 1
        self.stop(actor)
        self._start()

    def cancel_starting(self) -> None:
        """Stop the workers that are not ready; there is nothing left for them to do."""
        for actor in self._starting.values():
            ray.kill(actor)
        self._starting.clear()

    def stop_all(self) -> None:
        """Stop all workers."""
        self.cancel_starting()
        for actor in list(self._ready):
            self.stop(actor)

    def _start(self) -> None:
        self.head.wait()
        actor = cluster.start_actor(self._worker, self._setup, self._setup.config.run, self._demand)
        self._starting[actor.prepare.remote()] = actor

    def _handle_failed_start(self, error: RayTaskError | RayActorError | OutOfMemoryError) -> None:
        """Raise why a worker could not start, unless others are there to do its work."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, UserError) and not self._ready:
            raise cause
        if self.size:
            logger.warning("a worker could not start, the others go on: %s", error_summary(cause))
            return
        if isinstance(error, RayTaskError):
            raise cause
        if "creation task" in str(error):
            raise ResourceError(
                f"the workers cannot start: {str(error).strip().splitlines()[-1]}; "
                "every machine of the cluster needs the same ovseg installed"
            ) from error
        raise ResourceError(
            "the workers die while they load the models: "
            f"{cluster.lack_of_memory(error) or 'most often for lack of memory'}; "
            "use fewer workers (`run.workers`) or smaller models"
        ) from error
