"""The order of the images of a training."""

import numpy as np

from ovseg_core.training.sampler import ImageSampler


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    draws = ImageSampler(7, 0, seed=1)
    epochs = [[draws.index(place) for place in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = ImageSampler(7, 0, seed=1)
    backwards = [again.index(place) for place in range(20, -1, -1)]
    assert backwards[::-1] == [*epochs[0], *epochs[1], *epochs[2]]
    assert draws.rng(3).random() == again.rng(3).random() != draws.rng(4).random()


def test_sample_is_drawn_with_replacement_as_numpy_does() -> None:
    draws = ImageSampler(50, 20, seed=0)
    epoch = [draws.index(place) for place in range(20)]
    assert sorted(epoch) == sorted(np.random.RandomState(0).choice(np.arange(50), 20).tolist())
    assert len(set(epoch)) < 20
