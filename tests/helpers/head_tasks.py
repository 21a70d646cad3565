"""Short head trainings in memory: the task of a head, and views of two images for it."""

import numpy as np
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.training.heads import HeadTask, build_head
from schemas.config import NamedOptions
from tests.helpers.tiny_models import random_image

SHORT_SCHEDULE = {"steps": 8, "batch": 2, "sample": 0}


def head_task(name: str, backbones: Backbones, **options: object) -> HeadTask:
    """Return the task of a head with a short schedule; `options` go on top."""
    part = NamedOptions(name=name, options={**SHORT_SCHEDULE, **options})
    return build_head(part, backbones, seed=3)


def head_views(task: HeadTask, seed: int = 0) -> list[torch.Tensor]:
    """Return the task's views of two random images of different sizes."""
    images = [random_image(seed, 40, 70), random_image(seed + 1, 66, 45)]
    return [task.view(image, np.random.default_rng([seed, n])) for n, image in enumerate(images)]
