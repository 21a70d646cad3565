"""No proposals: the label map alone decides."""

from ovseg_core.backbones.registry import Backbones
from ovseg_core.segmenter import PluginOptions


class Options(PluginOptions):
    """No options."""


def build(options: Options, backbones: Backbones) -> None:
    """Return no proposer."""
