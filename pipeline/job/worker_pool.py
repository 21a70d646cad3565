"""The workers of a job on Ray: asked for, started as resources come, let go when work runs out."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from pipeline.annotate.annotator import num_threads
from pipeline.annotate.image_errors import describe
from pipeline.annotate.worker import Worker, WorkerSetup
from pipeline.job import cluster
from schemas.errors import ResourceError, UserError, WeightsError

log = logging.getLogger(__name__)

Actor = Any
"""A worker's handle; Ray's types for it change between versions."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
"""glibc gives every large block back to the system and takes it anew for the next batch: workers
that keep it are 9 % faster (CLIP-DIY, embedded models). 32 MiB is the most that it accepts."""
GROW_EVERY_S = 10.0
"""How often a growing cluster is looked at."""
PATIENCE_S = 60.0
"""Waiting longer for the first worker is said."""


@dataclass(frozen=True)
class Ready:
    """A worker with its models loaded."""

    actor: Actor
    weights: dict[str, str]


class WorkerPool:
    """Workers that are starting or at work; the driver knows which one has which shard.

    Args:
        setup: what each worker is told.
        useful: more workers than this would have nothing to do (the number of shards left).
    """

    def __init__(self, setup: WorkerSetup, useful: int) -> None:
        run = setup.config.run
        self._setup = setup
        self._wanted = cluster.demand(run, setup.device)
        self._cap = min(useful, run.workers or useful)
        self._fixed = run.workers > 0
        self._starting: dict[ray.ObjectRef, Actor] = {}
        self._members: list[Actor] = []
        self._weights: dict[str, str] | None = None
        self._looked = 0.0
        cluster.check_capacity(self._wanted)
        self.grow()

    @property
    def size(self) -> int:
        """Workers that are starting or ready."""
        return len(self._starting) + len(self._members)

    @property
    def starting(self) -> list[ray.ObjectRef]:
        """What to wait for until another worker is ready."""
        return list(self._starting)

    def grow(self) -> None:
        """Ask for as many workers as the config names, or as the cluster now holds."""
        now = time.monotonic()
        if self.size and now - self._looked < GROW_EVERY_S:
            return
        self._looked = now
        goal = self._cap if self._fixed else min(self._cap, max(1, cluster.capacity(self._wanted)))
        for _ in range(goal - self.size):
            self._start()

    def first(self) -> Ready:
        """Wait until one worker is ready.

        Raises:
            UserError: none can be built, and why.
        """
        while True:
            refs, _ = ray.wait(self.starting, num_returns=1, timeout=PATIENCE_S)
            if not refs:
                log.warning("still waiting for a worker: it needs %s", self._wanted)
            for ref in refs:
                for actor in self.admit(ref):
                    return Ready(actor, self._weights or {})

    def admit(self, ref: ray.ObjectRef) -> list[Actor]:
        """Return the worker that has become ready; none if it failed and others are left.

        Raises:
            UserError: no worker can be built, and why.
        """
        actor = self._starting.pop(ref)
        try:
            weights = ray.get(ref)
        except (RayTaskError, RayActorError) as error:
            ray.kill(actor)
            self._refuse(error)
            return []
        if self._weights is not None and self._weights != weights:
            ray.kill(actor)
            raise WeightsError(
                "the weights differ between the cluster's machines "
                f"({self._weights} and {weights}); remove the stale cache"
            )
        self._weights = weights
        self._members.append(actor)
        return [actor]

    def let_go(self, actor: Actor) -> None:
        """End a worker and free what it holds, perhaps for another that lost its machine."""
        self._members.remove(actor)
        ray.kill(actor)

    def replace(self, actor: Actor) -> None:
        """End a worker that cannot go on, and ask for another."""
        self.let_go(actor)
        self._start()

    def cancel_starts(self) -> None:
        """Forget the workers that are not ready; there is nothing left for them to do."""
        for actor in self._starting.values():
            ray.kill(actor)
        self._starting.clear()

    def disband(self) -> None:
        """End all workers."""
        self.cancel_starts()
        for actor in list(self._members):
            self.let_go(actor)

    def _start(self) -> None:
        threads = str(num_threads(self._setup.config.run))
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=self._wanted["CPU"],
                num_gpus=self._wanted["GPU"],
                max_restarts=-1,
                max_task_retries=2,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, **KEEP_MEMORY}},
            )
            .remote(self._setup)
        )
        self._starting[actor.prepare.remote()] = actor

    def _refuse(self, error: RayTaskError | RayActorError) -> None:
        """Raise why a worker could not start, unless others are there to do its work."""
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, UserError) and not self._members:
            raise cause
        if self.size:
            log.warning("a worker could not start, the others go on: %s", describe(cause))
            return
        if isinstance(error, RayTaskError):
            raise cause
        if "creation task" in str(error):
            raise ResourceError(
                f"the workers cannot start: {str(error).strip().splitlines()[-1]}; "
                "every machine of the cluster needs the same ovseg installed"
            ) from error
        raise ResourceError(
            "the workers die while they load the models, most often for lack of memory; "
            "take fewer workers (`run.workers`) or smaller models"
        ) from error
