"""SC-CLIP (Bai et al., 2024): CLIP repairs its outliers and adjusts itself by its own middle.

Patches of odd density are filled from their neighbours; the likeness of patches in a middle block,
which sees places, steers the last block, which knows words. The numbers beside the lines are the
steps of methods.md 7b. Shapes: B windows, N patches, L = 1 + N tokens, C trunk width.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.affinity import pool_tokens, threshold_affinity, token_affinity
from ovseg_core.dense.attention import SelfAdjusted
from ovseg_core.dense.last_block import last_block
from ovseg_core.dense.options import PublishedSizes, WindowOptions
from ovseg_core.dense.outliers import fill_outliers, find_outliers
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard
from schemas.config import ClipConfig
from schemas.errors import ConfigError

CARD = MethodCard(
    title="SC-CLIP",
    paper="Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation",
    arxiv="2411.15869",
    parts="outlier repair, last block steered by a middle block, two passes; windows of cosines",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={
        "VOC21": 64.6,
        "Context60": 36.8,
        "Object": 37.7,
        "VOC20": 84.3,
        "Context59": 40.1,
        "Stuff": 26.6,
        "Cityscapes": 41.0,
        "ADE": 20.1,
    },
)

PUBLISHED = PublishedSizes(short=1.5, window=1, stride=0.5, padding="drop")
"""336 px, windows of 224 px, 112 px apart."""


class Options(WindowOptions):
    """Options of the method `sc_clip`; blocks count from 0, the last one is not among them."""

    middle_block: NonNegativeInt | None = None
    """Block whose filled patches steer the last block; null: 8 of 12, or in proportion."""
    early_block: NonNegativeInt | None = None
    """Block whose patches smooth the result; null: 3 of 12, or in proportion."""
    summed_blocks: tuple[NonNegativeInt, PositiveInt] | None = None
    """First block and the one after the last that are added up for the second pass; null: 3 and 10
    of 12, or in proportion."""
    min_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.4
    """Patches less alike than this do not smooth each other."""
    class_weight: NonNegativeFloat = 0.3
    """How much of the class token is added to each patch."""
    outlier_repair: bool = True
    """Patches of odd density are filled from their neighbours (steps 2 and 3); off: an ablation."""
    outlier_neighbours: PositiveInt = 30
    """Patches that a patch's density is taken from; windows without more are not repaired."""
    outlier_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of a window's patches that count as outliers."""


class SelfCalibration:
    """Dense features of a batch of windows.

    Args:
        clip: the model.
        options: the recipe.

    Raises:
        ConfigError: blocks that this CLIP does not have.
    """

    def __init__(self, clip: Clip, options: Options) -> None:
        def in_proportion(given: int | None, of_twelve: int) -> int:
            return min(of_twelve * depth // 12, depth - 2) if given is None else given

        depth = len(clip.visual.transformer.resblocks)
        self.clip = clip
        self._options = options
        self._middle = in_proportion(options.middle_block, 8)
        self._early = in_proportion(options.early_block, 3)
        start, stop = options.summed_blocks or (3 * depth // 12, 10 * depth // 12)
        self._summed = range(start, stop)
        wanted = {self._early, self._middle, start, stop - 1}
        if start >= stop or not wanted <= set(range(depth - 1)):
            raise ConfigError(
                f"method.options: sc_clip reads blocks 0 to {depth - 2} of this CLIP's {depth}, "
                f"got middle {self._middle}, early {self._early}, summed {start} to {stop}"
            )

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the patches in the joint space (B, D, h, w), not normalised."""
        early, middle = state.blocks[self._early], state.blocks[self._middle]
        last_BNC, class_B1C = state.tokens_BLC[:, 1:], state.tokens_BLC[:, :1]  # 1
        outliers_BN = self.outliers(state)  # 2
        z_BNC = fill_outliers(last_BNC, outliers_BN, state.grid_hw)  # 3
        mid_BNN = token_affinity(fill_outliers(middle[:, 1:], outliers_BN, state.grid_hw))  # 4
        z_BNC = self._smooth(mid_BNN, z_BNC)  # 4
        post_BNN = token_affinity(early[:, 1:])  # 6
        x_BNC = self._smooth(post_BNN, self._adjusted(z_BNC, class_B1C, mid_BNN))  # 5, 6
        sum_BLC = torch.stack([state.blocks[index] for index in self._summed]).sum(dim=0)  # 7
        again_BNC = self._adjusted(sum_BLC[:, 1:], sum_BLC[:, :1], mid_BNN)  # 7
        x_BNC = x_BNC + self._smooth(post_BNN, again_BNC)  # 7
        return self.clip.project(x_BNC).transpose(1, 2).unflatten(2, state.grid_hw)  # 8

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the tower before its last block with the blocks that the method looks at."""
        keep = {self._early, self._middle, *self._summed}
        return self.clip.forward_trunk(
            windows_B3HW, self._options.position_rule, return_blocks=sorted(keep)
        )

    def outliers(self, state: TrunkFeatures) -> Tensor:
        """Return which patches are outliers, bool (B, N)."""
        options = self._options
        patches_BNC = state.tokens_BLC[:, 1:]
        if not options.outlier_repair:
            return torch.zeros_like(patches_BNC[:, :, 0], dtype=torch.bool)
        return find_outliers(patches_BNC, options.outlier_neighbours, options.outlier_share)

    def _adjusted(self, y_BNC: Tensor, class_B1C: Tensor, mid_BNN: Tensor) -> Tensor:
        """The last block on patches alone, steered, plus the class token (step 5)."""
        bias_BNN = 3 * (mid_BNN - mid_BNN.mean(dim=(1, 2), keepdim=True))
        # Rounding must not leave a row of equal patches without even itself.
        bias_BNN.diagonal(dim1=1, dim2=2).clamp_(min=0)
        bias_BNN = bias_BNN.masked_fill(bias_BNN < 0, -torch.inf)
        attended_BNC = last_block(self.clip, y_BNC, SelfAdjusted(bias_BNN[:, None]), False)
        return attended_BNC + self._options.class_weight * class_B1C

    def _smooth(self, cosines_BNN: Tensor, patches_BNC: Tensor) -> Tensor:
        """The weighted mean over patches that are alike (steps 4 and 6)."""
        return pool_tokens(patches_BNC, threshold_affinity(cosines_BNN, self._options.min_cosine))


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Load CLIP and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
        ConfigError: blocks that this CLIP does not have.
    """
    reader = SelfCalibration(backbones.clip, options)
    return WindowSegmenter(backbones, reader, options, PUBLISHED)
