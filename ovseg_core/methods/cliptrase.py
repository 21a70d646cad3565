"""CLIPtrase (Shao et al., ECCV 2024): patches find their region, and the region takes one label.

The likeness of patches that CLIP lost in training is recovered from a block's queries, keys and
values; DBSCAN cuts it into regions, in each of which the majority of the labels wins. The numbers
beside the lines are the steps of methods.md 8. The authors label the centre square of an image;
here the whole image goes through, the same on a square one. SAM's masks, a variant that the paper
mentions and its repository lacks, are ours: `region_folder`, a vote after that of the clusters.
Shapes: B images, L = 1 + N tokens, D joint width, Q text rows, h w patches, G clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from ovseg_core.backbones.clip import Clip, TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense import clustering
from ovseg_core.dense.attention import SoftmaxSum
from ovseg_core.dense.encoder import read_trunk
from ovseg_core.dense.last_block import last_block, qkv
from ovseg_core.dense.options import PublishedSizes, Scoring, WindowOptions, cosines
from ovseg_core.dense.segmenter import ReadWindows, WindowFeatures, WindowSegmenter
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import MethodCard, TextMatrix
from schemas.config import ClipConfig
from schemas.errors import WeightsError

CARD = MethodCard(
    title="CLIPtrase",
    paper="Explore the Potential of CLIP for Training-Free Open Vocabulary Semantic Segmentation",
    arxiv="2407.08268",
    parts="q-q + k-k + v-v attention, residual and MLP; DBSCAN of patch correlation, region vote",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="CLIP ViT-B/16 openai (ViT-B-16-quickgelu)",
    licence="MIT",
    published={
        "VOC21": 53.04,
        "Context60": 30.79,
        "VOC20": 81.2,
        "Context59": 34.92,
        "Stuff": 24.06,
        "ADE": 17.04,
    },
)
"""At 336 px, by the authors' own protocol (their COCO-80 is not COCO-Object)."""

PUBLISHED = PublishedSizes(short=1.5, window=0, stride=0, padding="middle", kernel="bicubic")
"""Short side 336 px; the other published size is 224."""

ATTENTION = SoftmaxSum(("qq", "kk", "vv"))


class Options(WindowOptions):
    """Options of the method `cliptrase`."""

    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    eps: PositiveFloat | None = None
    """Distance of neighbours in the clustering; null: the published 0.7 for 14 x 14 patches and 1.1
    for 21 x 21, and in proportion."""
    min_samples: PositiveInt | None = None
    """Neighbours of a core patch, itself among them; null: the published 3 and 7, in proportion."""
    class_token_weighting: bool = False
    """A phrase's cosines are multiplied by that of the class token (published for VOC20)."""

    @model_validator(mode="after")
    def _whole(self) -> "Options":
        if self.window_px:
            raise ValueError("window_px: cliptrase clusters the whole image; expected 0 or null")
        return self


@dataclass(frozen=True)
class CliptraseReader:
    """Reads images with `clip`, as the method's `options` say."""

    clip: Clip
    options: Options

    @property
    def multiple_px(self) -> int:
        """CLIP's patch."""
        return self.clip.patch_px

    def read(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk's state with the input of the last block but one."""
        keep = (len(self.clip.visual.transformer.resblocks) - 3,)
        return read_trunk(self.clip, windows_B3HW, self.options, return_blocks=keep)

    def finish(self, state: TrunkFeatures) -> Tensor:
        """Return patches (B, D, h, w), the class token's D at each of them, and Att's N columns."""
        tokens_BLC = last_block(self.clip, state.tokens_BLC, ATTENTION, residual=True)  # 2
        patches_BND = self.clip.project(tokens_BLC[:, 1:])
        class_BND = self.clip.pool(tokens_BLC)[:, None].expand_as(patches_BND)
        correlation_BNN = clustering.denoised(self.correlation(state))  # 1, 4
        maps_BNF = torch.cat([patches_BND, class_BND, correlation_BNN], dim=2)
        return maps_BNF.transpose(1, 2).unflatten(2, state.grid_hw)

    def correlation(self, state: TrunkFeatures) -> Tensor:
        """Return the likeness of tokens in the last block but one (B, L, L)."""
        block = self.clip.visual.transformer.resblocks[-2]
        return clustering.recovered_correlation(*qkv(block, *state.blocks.values()))


class Cliptrase(WindowSegmenter):
    """The method; see the module."""

    _options: Options

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> WindowFeatures:
        """Read all images and find their regions; masks of `region_folder` vote after them."""
        features = super().encode(images)
        masks = features.regions or ((),) * len(features)
        clusters = [self.regions(one) for one in features.images]
        regions = tuple((*own, *given) for own, given in zip(clusters, masks, strict=True))
        kept = [one.extra_WEhw[:, : self._clip.dim].clone() for one in features.images]
        read = zip(features.images, kept, strict=True)
        lighter = tuple(replace(one, extra_WEhw=extra) for one, extra in read)
        return replace(features, images=lighter, regions=regions)

    def regions(self, image: ReadWindows) -> tuple[Tensor, ...]:
        """Return the region map of one image's clusters; none where all patches are noise."""
        grid_hw = (image.patches_WDhw.shape[2], image.patches_WDhw.shape[3])
        att_NN = image.extra_WEhw[0, self._clip.dim :].flatten(1).mT.cpu()
        given = self._options
        density = clustering.density(len(att_NN), given.eps, given.min_samples)
        clusters_N = clustering.cluster(att_NN, *density)  # 5
        if clusters_N.max() < 0:
            return ()
        prototypes_Ghw = clustering.prototypes(att_NN, clusters_N, grid_hw)  # 5, 6
        maps_Ghw = clustering.median_filtered(prototypes_Ghw)  # 6
        size_hw = (len(image.stitch.rows_SP), len(image.stitch.columns_SP))
        # Attention over one grid has no padding left; else it is cut off, as it is of the scores.
        patch_px = 0 if given.global_attention else self._clip.patch_px
        return (clustering.region_map(maps_Ghw, size_hw, patch_px),)


def weighted(unit_WDhw: Tensor, extra_WEhw: Tensor, text: TextMatrix, scale: float) -> Tensor:
    """Return the cosine of each patch times that of the class token (W, Q, h, w) (3)."""
    patches_WQhw = cosines(unit_WDhw, extra_WEhw, text, scale)
    return patches_WQhw * cosines(F.normalize(extra_WEhw, dim=1), extra_WEhw, text, scale)


def build(options: Options, backbones: Backbones) -> Cliptrase:
    """Load CLIP and the objectness source.

    Raises:
        WeightsError: weights that cannot be found, fetched or used; a CLIP of fewer than 3 blocks.
    """
    depth = len(backbones.clip.visual.transformer.resblocks)
    if depth < 3:
        raise WeightsError(f"cliptrase needs a CLIP of at least 3 blocks, this one has {depth}")
    scoring = Scoring(weighted if options.class_token_weighting else cosines, "cosine")
    reader = CliptraseReader(backbones.clip, options)
    return Cliptrase(backbones, reader, options, PUBLISHED, scoring)
