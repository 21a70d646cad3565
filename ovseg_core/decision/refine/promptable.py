"""What a decision needs of a promptable network, to refine the components of its label map.

Shapes: P prompts, h w pixels of a network's masks of one image.
"""

from dataclasses import dataclass
from typing import Protocol, Self

from torch import Tensor

from ovseg_core.images.resize.nearest import SizeHW


class PromptableImages(Protocol):
    """Encoded images of a batch that can be asked for masks."""

    def image(self, index: int) -> Self:
        """Return one image of the batch, as a batch of one."""
        ...

    def mask_hw(self, index: int) -> SizeHW:
        """Return the size of the masks of an image, of about its aspect."""
        ...

    def refine(
        self, index: int, boxes_P4: Tensor, points_P2: Tensor, coarse_Phw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return one mask for each prompt.

        Args:
            index: place of the image in the batch.
            boxes_P4: left, top, right, bottom as shares of the image.
            points_P2: x and y of a point inside, as shares of the image.
            coarse_Phw: logits of the coarse masks, at `mask_hw`.

        Returns:
            Logits (P, h, w), and the IoU (P) in [0, 1] that the network predicts for each.
        """
        ...


@dataclass(frozen=True)
class PromptedRefinement:
    """The refinement of a batch's components.

    Attributes:
        images: what is prompted.
        min_iou: a mask is taken where its IoU with the component is at least this.
    """

    images: PromptableImages
    min_iou: float
