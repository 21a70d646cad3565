"""What every objectness source does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_core import objectness
from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import ImageBatch
from ovseg_core.objectness import Objectness, build_objectness
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

NAMES = plugins.names(objectness.PACKAGE)
PATHS = ("a.jpg", "b/c.jpg", "b/d.x.png", "e.webp")
SIZES = ((45, 60), (60, 45), (45, 60), (1, 3))


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(name: str, backbones: Backbones, tmp_path: Path) -> Objectness:
    options = {"folder": str(_write_maps(tmp_path))} if name == "external" else {}
    return build_objectness(NamedOptions(name=name, options=options), backbones)


def _write_maps(folder: Path) -> Path:
    for number, (path, size) in enumerate(zip(PATHS, SIZES, strict=True)):
        file = (folder / path).with_suffix(".npy")
        file.parent.mkdir(exist_ok=True)
        np.save(file, np.random.default_rng(number).random(size, dtype=np.float32))
    return folder


def _batch() -> ImageBatch:
    return ImageBatch(tuple(random_image(n, *size) for n, size in enumerate(SIZES)), PATHS)


def test_maps_are_probabilities_at_the_images_sizes(source: Objectness) -> None:
    images = _batch()
    maps = source.maps(images)
    if maps is None:
        return
    assert len(maps) == len(images)
    for one, image in zip(maps, images, strict=True):
        assert one.shape == image.shape[1:]
        assert one.dtype == torch.float32
        assert 0 <= one.min() <= one.max() <= 1


def test_batch_equals_single_images(source: Objectness) -> None:
    images = _batch()
    together = source.maps(images)
    for index in range(len(images)):
        alone = source.maps(images[index : index + 1])
        if together is None or alone is None:
            assert together is alone
        else:
            torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=0)


def test_maps_are_deterministic(source: Objectness) -> None:
    first, second = source.maps(_batch()), source.maps(_batch())
    assert (first is None) == (second is None)
    for one, other in zip(first or (), second or (), strict=True):
        assert torch.equal(one, other)


def test_unknown_options_are_refused(name: str) -> None:
    part = NamedOptions(name=name, options={"no_such_thing": 1})
    with pytest.raises(ConfigError, match=r"objectness\.options\.no_such_thing: unknown key"):
        plugins.read_options(objectness.PACKAGE, part, "objectness")


def test_every_option_has_a_description(name: str) -> None:
    fields = plugins.load_plugin(objectness.PACKAGE, name).Options.model_fields
    assert all(field.description for field in fields.values())
