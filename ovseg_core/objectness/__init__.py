"""Where the foreground comes from, one file each; the file's name is the name in the config.

Every file has `Options` and `build(options, backbones) -> Objectness`.
"""

from collections.abc import Sequence
from typing import Protocol

from pydantic import AfterValidator
from torch import Tensor

from ovseg_core import parts
from ovseg_core.backbones import Backbones
from ovseg_core.segmenter import Image
from schemas.config import NamedOptions

PACKAGE = __name__


class Objectness(Protocol):
    """A source of foreground probability."""

    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...] | None:
        """Return for each image (h, w) in [0, 1], at its own or a smaller size; None: no source."""
        ...


def _checked(part: NamedOptions) -> NamedOptions:
    parts.read_options(PACKAGE, part, "objectness")
    return part


ObjectnessPart = AfterValidator(_checked)
"""Annotation of an option of type NamedOptions that names an objectness source."""


def build_objectness(part: NamedOptions, backbones: Backbones) -> Objectness:
    """Return the source, ready to use.

    Raises:
        ConfigError: an unknown source, an unknown option or a wrong value.
        WeightsError: weights that cannot be found or do not fit.
    """
    options = parts.read_options(PACKAGE, part, "objectness")
    return parts.load(PACKAGE, part.name).build(options, backbones)
