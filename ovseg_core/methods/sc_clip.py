"""SC-CLIP (Bai et al., 2024): outlier repair, and attention by the affinity of a middle block.

Outlier patches are filled from their neighbours; the similarity of patches in a middle block, whose
features are the most consistent in space, is the attention of the last block. Numbers in comments
are the steps of docs/methods.md 7b.

Shapes: B windows, N patches, L = 1 + N tokens, C trunk width.
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.affinity import pool_tokens, threshold_affinity, token_affinity
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.last_block import SelfAdjusted, run_last_block
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
    parts="outlier repair, attention by a middle block's affinity, two passes; windows of cosines",
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
    """Options of the method `sc_clip`; blocks count from 0, the last one cannot be chosen."""

    middle_block: NonNegativeInt | None = None
    """Block whose similarity of patches is the last block's attention; null: 8 of 12, or in
    proportion."""
    early_block: NonNegativeInt | None = None
    """Block whose patches smooth the result; null: 3 of 12, or in proportion."""
    summed_blocks: tuple[NonNegativeInt, PositiveInt] | None = None
    """First block and the one after the last that are summed for the second pass; null: 3 and 10 of
    12, or in proportion."""
    beta: Annotated[float, Field(ge=-1, le=1)] = 0.4
    """Threshold of the similarity below which patches are not pooled together."""
    class_token_weight: NonNegativeFloat = 0.3
    """Weight of the class token that is added to each patch."""
    outlier_repair: bool = True
    """Outlier patches, by their local density, are filled from their neighbours; off: an
    ablation."""
    outlier_neighbours: PositiveInt = 30
    """Neighbours from which a patch's local density is computed; windows of no more patches are not
    repaired."""
    outlier_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of a window's patches that count as outliers."""


class SelfCalibratedEncoder(DenseEncoder[Options]):
    """Encoder that repairs outliers and adjusts the last block by a middle block.

    Args:
        clip: the model.
        options: the method's.

    Raises:
        ConfigError: blocks that this CLIP does not have.
    """

    def __init__(self, clip: Clip, options: Options) -> None:
        def in_proportion(given: int | None, of_twelve: int) -> int:
            return min(of_twelve * depth // 12, depth - 2) if given is None else given

        super().__init__(clip, options)
        depth = len(clip.visual.transformer.resblocks)
        self._middle = in_proportion(options.middle_block, 8)
        self._early = in_proportion(options.early_block, 3)
        start, stop = options.summed_blocks or (3 * depth // 12, 10 * depth // 12)
        self._summed = range(start, stop)
        used = {self._early, self._middle, start, stop - 1}
        if start >= stop or not used <= set(range(depth - 1)):
            raise ConfigError(
                f"method.options: sc_clip reads blocks 0 to {depth - 2} of this CLIP's {depth}, "
                f"got middle {self._middle}, early {self._early}, summed {start} to {stop}"
            )

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk, not repaired, with the blocks that the method uses."""
        blocks = sorted({self._early, self._middle, *self._summed})
        return self.clip.forward_trunk(
            windows_B3HW, self.options.position_rule, return_blocks=blocks
        )

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the calibrated patches."""
        early, middle = trunk.blocks[self._early], trunk.blocks[self._middle]
        last_BNC, class_B1C = trunk.tokens_BLC[:, 1:], trunk.tokens_BLC[:, :1]  # 1
        outliers_BN = self.outliers(trunk)  # 2
        z_BNC = fill_outliers(last_BNC, outliers_BN, trunk.grid_hw)  # 3
        mid_BNN = token_affinity(fill_outliers(middle[:, 1:], outliers_BN, trunk.grid_hw))  # 4
        z_BNC = self._pooled(mid_BNN, z_BNC)  # 4
        post_BNN = token_affinity(early[:, 1:])  # 6
        x_BNC = self._pooled(post_BNN, self._adjusted(z_BNC, class_B1C, mid_BNN))  # 5, 6
        sum_BLC = torch.stack([trunk.blocks[index] for index in self._summed]).sum(dim=0)  # 7
        second_BNC = self._adjusted(sum_BLC[:, 1:], sum_BLC[:, :1], mid_BNN)  # 7
        x_BNC = x_BNC + self._pooled(post_BNN, second_BNC)  # 7
        patches_BND = self.clip.project(x_BNC)  # 8
        return DenseFeatures(patches_BND.transpose(1, 2).unflatten(2, trunk.grid_hw))

    def outliers(self, trunk: TrunkFeatures) -> Tensor:
        """Return which patches are outliers, bool (B, N)."""
        options = self.options
        patches_BNC = trunk.tokens_BLC[:, 1:]
        if not options.outlier_repair:
            return torch.zeros_like(patches_BNC[:, :, 0], dtype=torch.bool)
        return find_outliers(patches_BNC, options.outlier_neighbours, options.outlier_share)

    def _adjusted(self, y_BNC: Tensor, class_B1C: Tensor, mid_BNN: Tensor) -> Tensor:
        """Run the last block on patches alone, adjusted, and add the class token (step 5)."""
        bias_BNN = 3 * (mid_BNN - mid_BNN.mean(dim=(1, 2), keepdim=True))
        # Rounding must not mask all entries in a row of equal patches.
        bias_BNN.diagonal(dim1=1, dim2=2).clamp_(min=0)
        bias_BNN = bias_BNN.masked_fill(bias_BNN < 0, -torch.inf)
        attended_BNC = run_last_block(self.clip, y_BNC, SelfAdjusted(bias_BNN[:, None]), False)
        return attended_BNC + self.options.class_token_weight * class_B1C

    def _pooled(self, affinity_BNN: Tensor, patches_BNC: Tensor) -> Tensor:
        """Return the weighted mean over similar patches (steps 4 and 6)."""
        return pool_tokens(patches_BNC, threshold_affinity(affinity_BNN, self.options.beta))


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
        ConfigError: blocks that this CLIP does not have.
    """
    return WindowSegmenter(backbones, SelfCalibratedEncoder(backbones.clip, options), PUBLISHED)
