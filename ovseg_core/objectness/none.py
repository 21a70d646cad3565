"""No foreground source: the scores alone decide (CLIP-DIY's ablation without objectness)."""

from collections.abc import Sequence

from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import MethodOptions


class Options(MethodOptions):
    """Nothing to choose."""


class NoObjectness:
    """Tells a method to leave fusion out."""

    def maps(self, images: Sequence[Image]) -> tuple[Tensor, ...] | None:
        """Return None."""
        return None


def build(options: Options, backbones: Backbones) -> NoObjectness:
    """Return the empty source; loads nothing."""
    return NoObjectness()
