"""What the killed processes run. Imported once by the fork server."""

import torch

from pipeline import job
from pipeline.progress import Progress
from schemas.config import JobConfig
from tests.fault import traps
from tests.oracle import BuildOracle, Mischief

__all__ = ["BuildOnTraps", "run_job", "traps"]


class BuildOnTraps(BuildOracle):
    """The same; unpickling it makes a Ray worker know the store with traps."""


def run_job(config: JobConfig, mischief: Mischief) -> None:
    """Run a job to its end, or to this process's."""
    torch.set_num_threads(1)
    job.run(config, Progress(), BuildOracle(mischief))
