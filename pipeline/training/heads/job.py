"""Training a head as a job: one worker with its device, in this process or as an actor on Ray.

A head has a few hundred thousand weights at most and a frozen network before it, so that one
worker is enough. Ray restarts a worker that dies, and it resumes from its checkpoint; so does the
same command after the driver was killed.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from ovseg_core.training.heads import check_head
from pipeline.collection.collect import collect
from pipeline.job.termination import Termination
from pipeline.job.worker_process import local_device, set_ray_environment
from pipeline.training.heads.worker import HeadSetup, HeadWorker
from pipeline.training.progress import StepProgress, TrainingTally
from pipeline.training.report import TrainingReport, exit_code
from schemas.config import HeadConfig
from schemas.errors import ResourceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadReport(TrainingReport):
    """The end of a head's training.

    Attributes:
        num_images: in the collection.
    """

    num_images: int


class _Worker(Protocol):
    def prepare(self) -> TrainingTally: ...
    def advance(self) -> TrainingTally: ...


def train_head(config: HeadConfig, progress: StepProgress) -> HeadReport:
    """Train a head to its end, or resume its training.

    Raises:
        UserError: a wrong option, no images, weights that cannot be found, fetched or used, or
            files of another training.
    """
    steps = check_head(config.head).steps
    images = collect(config.images, config.image, config.run.images_roots)
    started, interrupted = time.monotonic(), False
    worker_of = _worker_here if config.run.local else _worker_on_ray
    termination = Termination()
    try:
        with termination, worker_of(config, images) as worker:
            termination.listen()
            tally = worker.prepare()
            progress.start(steps, tally.step)
            progress.begin()
            while tally.step < steps:
                tally = worker.advance()
                progress.advance(tally)
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on from the last checkpoint")
        interrupted = True
    finally:
        progress.close()
    return HeadReport(
        out=config.out,
        num_images=images.num_rows,
        steps=steps,
        new_steps=progress.finished,
        failed=progress.failed,
        seconds=time.monotonic() - started,
        interrupted=interrupted,
        exit_code=exit_code(
            termination if interrupted else None,
            progress.failed,
            images.num_rows,
            config.run.max_error_share,
        ),
    )


@contextmanager
def _worker_here(config: HeadConfig, images: pa.Table) -> Iterator[_Worker]:
    yield HeadWorker(HeadSetup(config, images, local_device(config.run.device)))


@contextmanager
def _worker_on_ray(config: HeadConfig, images: pa.Table) -> Iterator[_Worker]:
    """Start a worker on a Ray cluster, and stop it at the end; its errors are raised here."""
    set_ray_environment()
    # Imported after that, and so that a training in this process does without Ray.
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    from pipeline.job import cluster

    class RemoteWorker:
        """Calls the actor and waits for its result."""

        def __init__(self, actor: Any) -> None:
            self._actor = actor
            self._cluster_head = cluster.ClusterHead.joined()

        def prepare(self) -> TrainingTally:
            return self._result(self._actor.prepare.remote())

        def advance(self) -> TrainingTally:
            return self._result(self._actor.advance.remote())

        def _result(self, ref: ray.ObjectRef) -> TrainingTally:
            while not ray.wait([ref], timeout=cluster.LOOK_EVERY_S)[0]:
                self._cluster_head.wait_now_and_then()
            return ray.get(ref)

    with cluster.connected():
        cluster.wait_for_machine(config.run)
        device = cluster.cluster_device(config.run)
        demand = cluster.worker_demand(config.run, device)
        cluster.check_capacity(demand)
        setup = HeadSetup(config, images, device)
        actor = cluster.start_actor(HeadWorker, setup, config.run, demand)
        try:
            yield RemoteWorker(actor)
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise ResourceError(
                "the worker died three times on one task, most often for lack of memory; the same "
                "command goes on from the last checkpoint; use a smaller head.options.batch"
            ) from error
        finally:
            ray.kill(actor)
