"""CLIP Surgery (Li et al., 2023): a second path through the tower; what all words share removed.

The last blocks run twice: as they are, and with v-v attention alone, which sees places. From the
patches' scores that which they have in common for all phrases is subtracted. The numbers beside
the lines are the sections of methods.md. The authors' code for segmentation is not released; our
reading: each pixel takes the phrase of the highest score, background phrases compete like labels,
and maps are not spread over 0 to 1 (that is for display: `display_maps`). Shapes: B or W
windows (the whole squashed image is one), C trunk width, D joint width, Q text rows, h w patches.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.position_embedding import PositionInterpolation
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text_encoder import TemplateSet, templates_of
from ovseg_core.dense.adjust import surgery
from ovseg_core.dense.encoder import read_trunk
from ovseg_core.dense.options import PublishedSizes, Scoring, WindowOptions
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.segmenter import MethodCard, TextMatrix
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
"""The figures are recalled from the paper, not read again (methods.md 13)."""

PUBLISHED = PublishedSizes(
    512 / 224, window=0, stride=0, padding="middle", resize="squash", kernel="bicubic"
)
"""512 px square; the other published size is 224."""

POINT_CELL_PATCHES = 2
"""Points are sought on cells of so many patches a side: a lone patch is no object (9.2)."""


class Options(WindowOptions):
    """Options of the method `clip_surgery`."""

    position_rule: PositionInterpolation = "bilin"
    """How the position table is read at other grids than its own."""
    templates: TemplateSet = "t85"
    """Prompt templates where the vocabulary gives none."""
    logit_scale: PositiveFloat = 100.0
    """Multiplies the scores before the softmax over all phrases, which orders a review."""
    second_path_blocks: PositiveInt | None = None
    """So many of the last blocks have a second path; null: the published 6 of 12, or half."""
    redundancy: Literal["shared", "empty"] = "shared"
    """What is subtracted: what all phrases have in common, or the text of no word at all."""


@dataclass(frozen=True)
class SurgeryReader:
    """Reads images with `clip`; the last `num_blocks` blocks have a second path."""

    clip: Clip
    options: Options
    num_blocks: int

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk's state with the inputs of the blocks that have a second path."""
        depth = len(self.clip.visual.transformer.resblocks)
        keep = range(depth - self.num_blocks - 1, depth - 2)
        return read_trunk(self.clip, windows_B3HW, self.options, return_blocks=keep)

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return the patches (B, D, h, w), and the image's embedding (D) at each of them."""
        blocks = self.clip.visual.transformer.resblocks[-self.num_blocks :]
        inputs = [*(state.blocks[key] for key in sorted(state.blocks)), state.tokens_BLC]
        new_BLC = inputs[0]
        for block, ori_BLC in zip(blocks, inputs, strict=True):
            # 9.1: new <- new + out_proj(softmax(v v^T / sqrt d) v), v of the path as it is
            new_BLC = new_BLC + attended_values(block, ori_BLC)
        patches_BND = self.clip.project(new_BLC[:, 1:])
        class_BND = self.clip.pool_trunk(state)[:, None].expand_as(patches_BND)
        maps_BNF = torch.cat([patches_BND, class_BND], dim=2)
        return maps_BNF.transpose(1, 2).unflatten(2, state.grid_hw)


def attended_values(block: Any, ori_BLC: Tensor) -> Tensor:
    """Return out_proj(softmax(v v^T / sqrt d) v) of a block (B, L, C); q and k are not needed."""
    attention = block.attn
    weight, bias = (part.chunk(3)[2] for part in (attention.in_proj_weight, attention.in_proj_bias))
    v_BLC = F.linear(block.ln_1(ori_BLC), weight, bias)
    v_BHLd = v_BLC.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    mixed_BHLd = F.scaled_dot_product_attention(v_BHLd, v_BHLd, v_BHLd)
    return attention.out_proj(mixed_BHLd.transpose(1, 2).flatten(2))


def empty_removed(
    unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float, empty_D: Tensor
) -> Tensor:
    """Return the cosines less those with the text of no word (W, Q, h, w)."""
    return torch.einsum("qd,ndhw->nqhw", text.rows_QD - empty_D, unit_WDhw)


@torch.inference_mode()
def empty_text(clip: Clip, templates: TemplateSet) -> Tensor:
    """Return the unit embedding (D) of the templates without a word."""
    prompts = [template.replace("{}", "") for template in templates_of(templates)]
    return F.normalize(F.normalize(clip.encode_text(prompts), dim=1).mean(dim=0), dim=0)


def build(options: Options, backbones: Backbones) -> WindowSegmenter:
    """Load CLIP and the objectness source.

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
    maps = surgery  # 9.2: S[n, t] = F_n (w_t T_t - R)
    if options.redundancy == "empty":
        maps = partial(empty_removed, empty_D=empty_text(clip, options.templates))
    reader = SurgeryReader(clip, options, count)
    return WindowSegmenter(backbones, reader, options, PUBLISHED, Scoring(maps, "score"))


def display_maps(scores_Qhw: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return each map spread over 0 to 1 and enlarged bilinearly to an image (Q, H, W).

    Args:
        scores_Qhw: of the patches, in any range.
        size_hw: of the image.
    """
    return F.interpolate(spread(scores_Qhw)[None], size=size_hw, mode="bilinear")[0]


def spread(scores_Qhw: Tensor) -> Tensor:
    """Return each map less its minimum, divided by its range; a constant map is 0."""
    low, high = scores_Qhw.amin(dim=(1, 2), keepdim=True), scores_Qhw.amax(dim=(1, 2), keepdim=True)
    scale = high - low
    return (scores_Qhw - low) / torch.where(scale > 0, scale, 1)


def point_prompts(
    scores_hw: Tensor, size_hw: tuple[int, int], threshold: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Return points of one class (2 m, 2) as int64 (x, y), and 1 for on it, 0 for off it (2 m).

    The map is halved and spread over 0 to 1. Cells from the threshold on, at most half of all, are
    points on the object, the surest last; as many of the lowest are points off it, lowest first.

    Args:
        scores_hw: of the patches, in any range.
        size_hw: of the image that the points are in.
        threshold: what a cell on the object has at least, 0 to 1.
    """
    rows, columns = (max(side // POINT_CELL_PATCHES, 1) for side in scores_hw.shape)
    cells = F.interpolate(spread(scores_hw[None])[None], size=(rows, columns), mode="bilinear")
    values = spread(cells[0]).flatten()
    most = min(int((values >= threshold).sum()), len(values) // 2)
    order = values.argsort(stable=True)
    chosen = torch.cat([order[len(order) - most :], order[:most]])
    x, y = chosen % columns, chosen // columns
    height, width = size_hw
    points_M2 = torch.stack([(x + 0.5) * width / columns, (y + 0.5) * height / rows], dim=1).long()
    on_M = (torch.arange(2 * most, device=points_M2.device) < most).to(torch.uint8)
    return points_M2.clamp(max=points_M2.new_tensor([width - 1, height - 1])), on_M
