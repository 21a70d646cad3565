"""Training a head as a job: one worker with its device, in this process or as an actor on Ray.

A head has a few hundred thousand weights at most and a frozen network before it, so that one
worker is enough. A worker that dies is started again by Ray and goes on from its checkpoint; a
killed driver's command does the same when it is typed again.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ovseg_core.heads import check_head
from pipeline.collection.collect import collect
from pipeline.head_training.progress import StepProgress
from pipeline.head_training.worker import HeadsSetup, HeadsTally, HeadsWorker
from pipeline.job.job import RAY_SETTINGS, local_device
from schemas.config import HeadConfig
from schemas.errors import ExitCode, ResourceError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadsReport:
    """What came of a training.

    Attributes:
        out: the head's file.
        num_images: in the collection.
        steps: of the whole training.
        new_steps: done by this call.
        failed: images that could not be read, by error code.
        seconds: of this call.
        interrupted: stopped by Ctrl-C.
        exit_code: DONE; INCOMPLETE: more images than `run.max_error_share` could not be read;
            INTERRUPTED.
    """

    out: str
    num_images: int
    steps: int
    new_steps: int
    failed: dict[str, int]
    seconds: float
    interrupted: bool
    exit_code: ExitCode


def train_heads(config: HeadConfig, progress: StepProgress) -> HeadsReport:
    """Train a head to its end, or go on with it.

    Raises:
        UserError: a wrong option, no images, weights that cannot be had, files of another training.
    """
    steps = check_head(config.head).steps
    images = collect(config.images, config.image)
    began, job, interrupted = time.monotonic(), _Job(steps, progress), False
    try:
        if config.run.local:
            device = local_device(config.run.device)
            worker = HeadsWorker(HeadsSetup(config, images, device))
            job.run(worker.prepare, worker.advance)
        else:
            _run_on_ray(job, config, images)
    except KeyboardInterrupt:
        log.warning("stopped; the same command goes on from the last checkpoint")
        interrupted = True
    finally:
        progress.close()
    num_failed = sum(job.failed.values())
    too_many = num_failed > config.run.max_error_share * images.num_rows
    exit_code = ExitCode.INCOMPLETE if too_many else ExitCode.DONE
    return HeadsReport(
        config.out,
        images.num_rows,
        steps,
        job.new_steps,
        job.failed,
        time.monotonic() - began,
        interrupted,
        ExitCode.INTERRUPTED if interrupted else exit_code,
    )


class _Job:
    """Calls the worker until its steps are done."""

    def __init__(self, steps: int, progress: StepProgress) -> None:
        self._steps = steps
        self._progress = progress
        self.new_steps = 0
        self.failed: dict[str, int] = {}

    def run(self, prepare: Callable[[], HeadsTally], advance: Callable[[], HeadsTally]) -> None:
        tally = prepare()
        resumed = tally.step
        self._progress.start(self._steps, resumed)
        self._progress.begin()
        while tally.step < self._steps:
            tally = advance()
            self.new_steps = tally.step - resumed
            self.failed = tally.failed
            self._progress.advance(tally)


def _run_on_ray(job: _Job, config: HeadConfig, images: pa.Table) -> None:
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Imported here, after the settings, and so that a run in this process does without Ray.
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    from pipeline.annotate.annotator import num_threads
    from pipeline.job import cluster
    from pipeline.job.worker_pool import KEEP_MEMORY

    with cluster.connected():
        device = cluster.pick_device(config.run)
        wanted = cluster.demand(config.run, device)
        cluster.check_capacity(wanted)
        threads = str(num_threads(config.run))
        actor: Any = (
            ray.remote(HeadsWorker)
            .options(
                num_cpus=wanted["CPU"],
                num_gpus=wanted["GPU"],
                max_restarts=-1,
                max_task_retries=2,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, **KEEP_MEMORY}},
            )
            .remote(HeadsSetup(config, images, device))
        )
        try:
            job.run(
                lambda: ray.get(actor.prepare.remote()), lambda: ray.get(actor.advance.remote())
            )
        except RayTaskError as error:
            raise error.cause from error
        except RayActorError as error:
            raise ResourceError(
                "the worker died three times on one task, most often for lack of memory; the same "
                "command goes on from the last checkpoint; take a smaller head.options.batch"
            ) from error
        finally:
            ray.kill(actor)
