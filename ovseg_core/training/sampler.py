"""The order of the images of a training.

Which image a step takes and how it is augmented are functions of the seed and of the sample's
position in the training, so the sampler and the random numbers have no state beside the step.
"""

from functools import lru_cache

import numpy as np


class ImageSampler:
    """The image at each position of a training; every epoch has its own order.

    Args:
        num_images: of the collection.
        sample: number of images to train on, drawn with replacement; 0: all.
        seed: of all random numbers.
    """

    def __init__(self, num_images: int, sample: int, seed: int) -> None:
        self._num_images = num_images
        self._seed = seed
        everything = np.arange(num_images)
        draw = np.random.RandomState(seed)  # numpy's choice under a seed, as published
        self._chosen = draw.choice(everything, sample) if sample else everything
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def index(self, position: int) -> int:
        """Return the index of the image at a position."""
        epoch, within = divmod(position, len(self._chosen))
        return int(self._chosen[self._order(epoch)[within]])

    def rng(self, position: int) -> np.random.Generator:
        """Return the random numbers of a position."""
        return np.random.default_rng([self._seed, 2, position])

    def substitute(self, rng: np.random.Generator) -> int:
        """Return the index of an image that replaces one that cannot be read."""
        return int(rng.integers(self._num_images))

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, 1, epoch]).permutation(len(self._chosen))
