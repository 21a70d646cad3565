"""Training a student as a job: in this process, or on Ray Train's workers.

Checkpoints are the training's own, in the student's folder: Ray Train keeps none, so that it needs
no file system that all machines share. A worker that dies ends its group; a new group resumes from
the checkpoint, as the same command does after the driver was killed.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.job.termination import Termination
from pipeline.job.worker_process import local_device
from pipeline.training.progress import StepProgress
from pipeline.training.report import TrainingReport, exit_code
from pipeline.training.students.board import StudentTally
from pipeline.training.students.setup import check_config
from pipeline.training.students.worker import StudentSetup, StudentWorker
from schemas.config import StudentConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentReport(TrainingReport):
    """The end of a student's training.

    Attributes:
        counts: images by what became of them, in words.
        stopped_at: step at which it ended for want of a better mIoU; None: it did not.
        miou: of the best validation, whose weights are kept; None: there was none, or the student
            was finished before.
        step_of_weights: step of that validation; the last step, where there was none.
        images_per_s: speed of training of this call, over all workers; None: it did no step.
        peak_bytes: the most memory of the first worker's process, or of its GPU.
    """

    counts: dict[str, int]
    stopped_at: int | None
    miou: float | None
    step_of_weights: int
    images_per_s: float | None
    peak_bytes: int


def train_student(config: StudentConfig, progress: StepProgress) -> StudentReport:
    """Train a student to its end, or resume its training.

    Raises:
        UserError: a wrong option, no images, weights that cannot be found, fetched or used, files
            of another training, or a training that cannot go on.
        OutageError: a store or cluster that is away or full; the last checkpoint stays.
    """
    steps = check_config(config).steps
    started, interrupted = time.monotonic(), False
    termination = Termination()
    tally = StudentTally(0, None, {})
    try:
        with termination, _tallies(config) as tallies:
            termination.listen()
            for place, tally in enumerate(tallies):
                if not place:
                    progress.start(steps, tally.step)
                    progress.begin()
                progress.advance(tally)
    except KeyboardInterrupt:
        logger.warning("stopped; the same command goes on from the last checkpoint")
        interrupted = True
    finally:
        progress.close()
    return StudentReport(
        out=config.out,
        counts=tally.counts,
        steps=steps,
        new_steps=progress.finished,
        stopped_at=tally.step if tally.is_finished and tally.step < steps else None,
        miou=tally.best_miou,
        step_of_weights=tally.best_step or tally.step,
        failed=progress.failed,
        seconds=time.monotonic() - started,
        interrupted=interrupted,
        exit_code=exit_code(
            termination if interrupted else None,
            progress.failed,
            tally.counts.get("learned", 0),
            config.run.max_error_share,
        ),
        images_per_s=tally.images_per_s,
        peak_bytes=tally.peak_bytes,
    )


@contextmanager
def _tallies(config: StudentConfig) -> Iterator[Iterator[StudentTally]]:
    """Give the tallies of a training as it goes on; it ends with the last of them."""
    if config.run.local:
        yield _tallies_here(config)
        return
    # Imported here, so that a training in this process does without Ray.
    from pipeline.training.students.ray_workers import ray_tallies

    with ray_tallies(config) as tallies:
        yield tallies


def _tallies_here(config: StudentConfig) -> Iterator[StudentTally]:
    worker = StudentWorker(StudentSetup(config, local_device(config.run.device)))
    tally = worker.prepare()
    yield tally
    while not tally.is_finished:
        tally = worker.advance()
        yield tally
