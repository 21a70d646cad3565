"""What the killed processes run. Imported once by the fork server."""

import os

import torch

from pipeline.head_training import job as heads
from pipeline.head_training.progress import StepProgress
from pipeline.job import job
from pipeline.job.progress import Progress
from schemas.config import HeadConfig, JobConfig
from tests.fault import traps
from tests.helpers import fault_plan
from tests.helpers.colour_segmenter import BuildOracle, Mischief

__all__ = ["BuildOnTraps", "run_job", "traps"]


class BuildOnTraps(BuildOracle):
    """The same; unpickling it makes a Ray worker know the store with traps."""


def run_job(
    config: JobConfig, mischief: Mischief, environment: dict[str, str] | None = None
) -> None:
    """Run a job to its end, or to this process's; the environment may hold a fault plan."""
    if environment:
        os.environ.update(environment)
        fault_plan.install_hook()
    torch.set_num_threads(1)
    job.run(config, Progress(), BuildOracle(mischief))


def run_training(config: HeadConfig, environment: dict[str, str] | None = None) -> None:
    """Train heads to their end, or to this process's; the environment may hold a fault plan."""
    if environment:
        os.environ.update(environment)
        fault_plan.install_hook()
    torch.set_num_threads(1)
    heads.train_head(config, StepProgress())
