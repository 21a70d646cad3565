"""CLIP Surgery (Li et al., 2023): a v-v path through the last blocks, redundant features removed.

Architecture surgery: the last blocks run twice, as they are and with v-v attention alone. Feature
surgery: what a patch has in common with all phrases is subtracted from its scores. Numbers in
comments are sections of docs/methods.md.

The authors' code for segmentation is not released. Our reading: each pixel takes the phrase of the
highest score, background phrases compete like labels, and maps are not scaled to 0 to 1 (that is
for display: `display_maps`).

Shapes: B windows (the whole squashed image is one), L tokens, C trunk width, D joint width, Q text
rows, h w patches, M points.
"""

from functools import partial
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TemplateSet, templates_of
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.options import PublishedSizes, WindowOptions
from ovseg_core.dense.scoring import SURGERY, Scoring
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.images.resize.position_embedding import PositionInterpolation
from ovseg_core.segmenter import MethodCard, ScoreOnly, TextMatrix
from schemas.config import ClipConfig
from schemas.errors import ConfigError

CARD = MethodCard(
    title="CLIP Surgery",
    paper="CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary Tasks",
    arxiv="2304.05653",
    parts="v-v path through the last half of the blocks; redundancy of all phrases subtracted",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={"Context59": 29.3, "Stuff": 21.9, "Cityscapes": 31.4},
)
"""The published scores are recalled from the paper, not read again (docs/methods.md 13)."""

PUBLISHED = PublishedSizes(
    512 / 224, window=0, stride=0, padding="middle", resize="squash", kernel="bicubic"
)
"""512 px square; the other published size is 224."""

POINT_CELL_PATCHES = 2
"""Side in patches of the cells that points are chosen from: one patch alone is no object (9.2)."""


class Options(WindowOptions):
    """Options of the method `clip_surgery`."""

    position_rule: PositionInterpolation = "bilin"
    """How position embeddings are interpolated to other grids than CLIP's own."""
    templates: TemplateSet = "t85"
    """Prompt templates where the vocabulary gives none."""
    logit_scale: PositiveFloat = 100.0
    """Multiplies the scores before the softmax over all phrases."""
    second_path_blocks: PositiveInt | None = None
    """Number of the last blocks that have a second path; null: the published 6 of 12, or half."""
    redundancy: Annotated[Literal["shared", "empty"], ScoreOnly()] = "shared"
    """Redundant features that are subtracted: those shared by all phrases, or those of the
    templates without a word."""


class SurgeryEncoder(DenseEncoder[Options]):
    """Encoder with a second path through the last `num_blocks` blocks.

    Args:
        clip: the model.
        options: the method's.
        num_blocks: blocks that have a second path.
    """

    def __init__(self, clip: Clip, options: Options, num_blocks: int) -> None:
        super().__init__(clip, options)
        self._num_blocks = num_blocks

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk with the inputs of the blocks that have a second path."""
        depth = len(self.clip.visual.transformer.resblocks)
        inputs = range(depth - self._num_blocks - 1, depth - 2)
        return self.forward_trunk(windows_B3HW, return_blocks=inputs)

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the patches of the second path, and CLIP's own embedding as the class token."""
        blocks = self.clip.visual.transformer.resblocks[-self._num_blocks :]
        inputs = [*(trunk.blocks[key] for key in sorted(trunk.blocks)), trunk.tokens_BLC]
        new_BLC = inputs[0]
        for block, ori_BLC in zip(blocks, inputs, strict=True):
            # 9.1: new <- new + out_proj(softmax(v v^T / sqrt d) v), v of the ordinary path
            new_BLC = new_BLC + self.clip.compute.run(value_attention, block, ori_BLC)
        patches_BND = self.clip.project(new_BLC[:, 1:])
        return DenseFeatures(
            patches_BND.transpose(1, 2).unflatten(2, trunk.grid_hw), self.clip.pool_trunk(trunk)
        )


def value_attention(block: Any, ori_BLC: Tensor) -> Tensor:
    """Return out_proj(softmax(v v^T / sqrt d) v) of a block (B, L, C); q and k are not needed."""
    attention = block.attn
    weight, bias = (part.chunk(3)[2] for part in (attention.in_proj_weight, attention.in_proj_bias))
    v_BLC = F.linear(block.ln_1(ori_BLC), weight, bias)
    v_BHLd = v_BLC.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    mixed_BHLd = F.scaled_dot_product_attention(v_BHLd, v_BHLd, v_BHLd)
    return attention.out_proj(mixed_BHLd.transpose(1, 2).flatten(2))


def without_empty_text(features: DenseFeatures, text: TextMatrix, empty_D: Tensor) -> Tensor:
    """Return F_n (T_t - T_empty) (B, Q, h, w): cosines less those with the empty text."""
    return torch.einsum("qd,ndhw->nqhw", text.rows_QD - empty_D, features.patches_BDhw)


@torch.inference_mode()
def empty_text(clip: Clip, templates: TemplateSet) -> Tensor:
    """Return the embedding (D) of the templates without a word, unit."""
    prompts = [template.replace("{}", "") for template in templates_of(templates)]
    return F.normalize(F.normalize(clip.encode_text(prompts), dim=1).mean(dim=0), dim=0)


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used.
        ConfigError: more blocks than CLIP has.
    """
    clip = backbones.clip
    depth = len(clip.visual.transformer.resblocks)
    count = options.second_path_blocks or depth // 2
    if not 0 < count < depth:
        raise ConfigError(
            f"method.options.second_path_blocks: expected 1 to {depth - 1} of this CLIP's {depth} "
            f"blocks, got {count}"
        )
    scoring = SURGERY  # 9.2: S[n, t] = F_n (w_t T_t - R)
    if options.redundancy == "empty":
        empty_D = empty_text(clip, options.templates)
        scoring = Scoring(partial(without_empty_text, empty_D=empty_D), "score")
    encoder = SurgeryEncoder(clip, options, count)
    return WindowSegmenter(backbones, encoder, PUBLISHED, scoring)


def display_maps(scores_Qhw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return each map scaled to 0 to 1 and enlarged bilinearly to an image (Q, H, W).

    Args:
        scores_Qhw: of the patches, in any range.
        size_hw: of the image.
    """
    return F.interpolate(min_max_scaled(scores_Qhw)[None], size=size_hw, mode="bilinear")[0]


def min_max_scaled(scores_Qhw: Tensor) -> Tensor:
    """Return each map minus its minimum, divided by its range; a constant map becomes 0."""
    low, high = scores_Qhw.amin(dim=(1, 2), keepdim=True), scores_Qhw.amax(dim=(1, 2), keepdim=True)
    scale = high - low
    return (scores_Qhw - low) / torch.where(scale > 0, scale, 1)


def point_prompts(
    scores_hw: Tensor, size_hw: tuple[int, int], threshold: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Return point prompts of one class for SAM: int64 (x, y) (2 m, 2), and their labels (2 m).

    The label is 1 on the object and 0 off it. The map is reduced to half its size and scaled to 0
    to 1. The m cells that reach the threshold, at most half of all, are points on the object,
    ordered by score; the m lowest are points off it, the lowest first.

    Args:
        scores_hw: of the patches, in any range.
        size_hw: of the image that the points are in.
        threshold: lowest score of a cell on the object, 0 to 1.
    """
    rows, columns = (max(side // POINT_CELL_PATCHES, 1) for side in scores_hw.shape)
    cells = F.interpolate(
        min_max_scaled(scores_hw[None])[None], size=(rows, columns), mode="bilinear"
    )
    values = min_max_scaled(cells[0]).flatten()
    most = min(int((values >= threshold).sum()), len(values) // 2)
    order = values.argsort(stable=True)
    chosen = torch.cat([order[len(order) - most :], order[:most]])
    x, y = chosen % columns, chosen // columns
    height, width = size_hw
    points_M2 = torch.stack([(x + 0.5) * width / columns, (y + 0.5) * height / rows], dim=1).long()
    on_M = (torch.arange(2 * most, device=points_M2.device) < most).to(torch.uint8)
    return points_M2.clamp(max=points_M2.new_tensor([width - 1, height - 1])), on_M
