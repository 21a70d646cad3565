"""Functions that run in processes to be killed. Imported once by the fork server."""

import os
import sys

import timm  # noqa: F401 - it takes seconds
import torch

from pipeline.annotate.build import Built, build
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.training.heads import job as heads
from pipeline.training.progress import StepProgress
from pipeline.training.students import job as students
from schemas.config import HeadConfig, JobConfig, StudentConfig
from tests.helpers import fault_plan, faulty_filesystem, trap_filesystem
from tests.helpers.colour_segmenter import BuildColourSegmenter, SegmenterFaults

__all__ = [
    "BuildMethodOnTraps",
    "BuildOnTraps",
    "faulty_filesystem",
    "run_job",
    "run_method",
    "run_training",
    "trap_filesystem",
]


class BuildOnTraps(BuildColourSegmenter):
    """Builds the same segmenter; unpickling it registers `trap://` in a Ray worker."""


class BuildMethodOnTraps:
    """Builds the job's own method; unpickling it registers `trap://` in a Ray worker."""

    def __call__(self, config: JobConfig, device: str) -> Built:
        return build(config, device)


def run_method(config: JobConfig, environment: dict[str, str]) -> None:
    """Run a job with its own method and exit with its code, unless this process is killed."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(job.run(config, Progress()).exit_code)


def run_job(
    config: JobConfig, faults: SegmenterFaults, environment: dict[str, str] | None = None
) -> None:
    """Run a job and exit with its code, unless this process is killed.

    The environment may hold a fault plan.
    """
    if environment:
        os.environ.update(environment)
        fault_plan.install_hook()
    torch.set_num_threads(1)
    sys.exit(job.run(config, Progress(), BuildColourSegmenter(faults)).exit_code)


def run_training(
    config: HeadConfig | StudentConfig, environment: dict[str, str] | None = None
) -> None:
    """Train until the end or the end of this process; the environment may hold a plan."""
    if environment:
        os.environ.update(environment)
        fault_plan.install_hook()
    torch.set_num_threads(1)
    if isinstance(config, StudentConfig):
        students.train_student(config, StepProgress())
    else:
        heads.train_head(config, StepProgress())
