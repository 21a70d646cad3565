"""No objectness: the scores alone decide (CLIP-DIY's ablation)."""

from collections.abc import Sequence

from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import PluginOptions


class Options(PluginOptions):
    """No options."""


class NoObjectness:
    """The source without maps."""

    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...] | None:
        """Return None."""
        return None


def build(options: Options, backbones: Backbones) -> NoObjectness:
    """Return the empty source; loads nothing."""
    return NoObjectness()
