"""FOUND's training-free background."""

from typing import Any

from ovseg_core.backbones.registry import Backbones
from ovseg_core.objectness import build_objectness
from schemas.config import NamedOptions
from tests.helpers.tiny_models import random_image, tiny_backbones


def source(name: str, backbones: Backbones | None = None, **options: Any) -> Any:
    part = NamedOptions(name=name, options=options)
    return build_objectness(part, backbones or tiny_backbones())


def test_foreground_is_the_complement_of_the_background() -> None:
    background = source("found_bkg")
    vision = tiny_backbones().vision
    image = random_image(3, 40, 56)
    patches = background.background(vision.forward_trunk(image[None]))[0]
    foreground = background.maps([image])[0]
    assert set(foreground.unique().tolist()) <= {0.0, 1.0}
    centres = foreground[4::8, 4::8]
    assert (centres == 1 - patches).float().mean() > 0.9
