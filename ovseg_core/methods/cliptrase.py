"""CLIPtrase (Shao et al., ECCV 2024): patches are clustered, and each cluster takes one label.

The correlation of patches that CLIP lost in training is recovered from a block's queries, keys and
values; DBSCAN clusters it into regions, in each of which the majority label wins. Numbers in
comments are the steps of docs/methods.md 8. The authors label the centre square of an image; here
the whole image goes through, the same on a square one. SAM's masks, a variant that the paper
mentions and its repository lacks, are ours: `proposals`, a vote after that of the clusters.

Shapes: B images (one window each), L = 1 + N tokens (class token first), H heads, d head width, C =
H * d, D joint width, Q text rows, N = M = h * w patches, G clusters.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures, qkv
from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.encoder import DenseEncoder, DenseFeatures
from ovseg_core.dense.last_block import SoftmaxSum, run_last_block
from ovseg_core.dense.options import PublishedSizes, WindowOptions
from ovseg_core.dense.scoring import COSINES, Scoring, class_token_cosines, cosines
from ovseg_core.dense.segmenter import ImageFeatures, WindowFeatures, WindowSegmenter
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.segmenter import MethodCard, ScoreOnly, TextMatrix
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

CORRELATION = "correlation"
"""Name of the patches' correlation (B, N, N) among the features."""

_ENLARGED = 4
"""Factor by which the maps of the clusters are enlarged before the median filter."""
_MEDIAN_SIDE = 7
_BAND_ELEMENTS = 1 << 22
"""Elements of the enlarged maps of one band of rows: 16 MB."""


class Options(WindowOptions):
    """Options of the method `cliptrase`."""

    logit_scale: PositiveFloat = 100.0
    """Multiplies the cosines before the softmax over all phrases."""
    eps: PositiveFloat | None = None
    """DBSCAN's distance of neighbours; null: the published 0.7 for 14 x 14 patches and 1.1 for
    21 x 21, other grids in proportion."""
    min_samples: PositiveInt | None = None
    """DBSCAN's number of neighbours of a core patch, itself among them; null: the published 3 and
    7, other grids in proportion."""
    class_token_weighting: Annotated[bool, ScoreOnly()] = False
    """Multiply a phrase's cosines by that of the class token (published for VOC20)."""

    @model_validator(mode="after")
    def _whole(self) -> "Options":
        if self.window_px:
            raise ValueError("window_px: cliptrase clusters the whole image; expected 0 or null")
        return self


class CliptraseEncoder(DenseEncoder[Options]):
    """Encoder under q-q + k-k + v-v attention, with the correlation of patches."""

    def encode_trunk(self, windows_B3HW: Tensor) -> TrunkFeatures:
        """Return the trunk with the input of the last block but one."""
        depth = len(self.clip.visual.transformer.resblocks)
        return self.forward_trunk(windows_B3HW, return_blocks=(depth - 3,))

    def encode_dense(self, trunk: TrunkFeatures) -> DenseFeatures:
        """Return the patches, the class token and the correlation of patches."""
        tokens_BLC = run_last_block(self.clip, trunk.tokens_BLC, ATTENTION, residual=True)  # 2
        patches_BND = self.clip.project(tokens_BLC[:, 1:])
        correlation_BNN = denoised(self.token_correlation(trunk))  # 1, 4
        return DenseFeatures(
            patches_BND.transpose(1, 2).unflatten(2, trunk.grid_hw),
            self.clip.pool(tokens_BLC),
            {CORRELATION: correlation_BNN},
        )

    def token_correlation(self, trunk: TrunkFeatures) -> Tensor:
        """Return the correlation of tokens in the last block but one (B, L, L) (1)."""
        block = self.clip.visual.transformer.resblocks[-2]
        (input_BLC,) = trunk.blocks.values()
        return recovered_correlation(*qkv(block, input_BLC))


class Cliptrase(WindowSegmenter):
    """The method; see the module."""

    def encode(self, images: Sequence[Image]) -> WindowFeatures:
        """Return the features with the clusters' region maps."""
        features = super().encode(images)
        return replace(
            features,
            # The correlation has N x N elements and is not needed for the scores.
            images=tuple(
                replace(image, dense=replace(image.dense, extra={})) for image in features.images
            ),
            regions=tuple(self.cluster_regions(image) for image in features.images),
        )

    def cluster_regions(self, image: ImageFeatures) -> tuple[Tensor, ...]:
        """Return the region map of one image's clusters; none where all patches are noise."""
        correlation_NN = image.dense.extra[CORRELATION][0].float().cpu()
        options: Options = self.encoder.options
        density = dbscan_density(len(correlation_NN), options.eps, options.min_samples)
        clusters_N = dbscan(correlation_NN, *density)  # 5
        if clusters_N.max() < 0:
            return ()
        maps_Ghw = cluster_maps(correlation_NN, clusters_N, image.dense.grid_hw)  # 5, 6
        maps_Ghw = median_filtered(maps_Ghw)  # 6
        size_hw = (image.stitch.rows.side_px, image.stitch.columns.side_px)
        # With global attention no padding is left; else it is cut off, as it is of the scores.
        patch_px = 0 if options.global_attention else self.encoder.clip.patch_px
        return (region_map(maps_Ghw, size_hw, patch_px),)


def weighted_cosines(features: DenseFeatures, text: TextMatrix) -> Tensor:
    """Return the cosine of each patch times that of the class token (B, Q, h, w) (3)."""
    return cosines(features, text) * class_token_cosines(features, text)


def build(options: Options, backbones: Backbones) -> Cliptrase:
    """Return the method with its networks loaded.

    Raises:
        WeightsError: weights that cannot be found, fetched or used; a CLIP of fewer than 3 blocks.
    """
    depth = len(backbones.clip.visual.transformer.resblocks)
    if depth < 3:
        raise WeightsError(f"cliptrase needs a CLIP of at least 3 blocks, this one has {depth}")
    encoder = CliptraseEncoder(backbones.clip, options)
    scoring = Scoring(weighted_cosines, "cosine") if options.class_token_weighting else COSINES
    return Cliptrase(backbones, encoder, PUBLISHED, scoring)


def recovered_correlation(*tokens_BHLd: Tensor) -> Tensor:
    """Return the mean cosine of tokens (B, L, L) over heads and over the given tensors (1).

    Args:
        tokens_BHLd: queries, keys and values of a block.
    """
    # The cosines of the heads add up when the heads' unit vectors are laid end to end.
    units_BLC = [F.normalize(one, dim=-1).transpose(1, 2).flatten(2) for one in tokens_BHLd]
    joined_BLC = torch.cat(units_BLC, dim=-1)
    return joined_BLC @ joined_BLC.transpose(1, 2) / (tokens_BHLd[0].shape[1] * len(units_BLC))


def denoised(correlation_BLL: Tensor) -> Tensor:
    """Return the correlation of patches (B, N, N) minus the class token's, clamped at 0 (4)."""
    return (correlation_BLL[:, 1:, 1:] - correlation_BLL[:, :1, 1:]).clamp(min=0)


def dbscan_density(
    num_patches: int, eps: float | None = None, min_samples: int | None = None
) -> tuple[float, int]:
    """Return DBSCAN's (eps, min_samples); what is not given is as published for the grid's size.

    The authors give (0.7, 3) for 14 x 14 patches and (1.1, 7) for 21 x 21. For other grids eps
    follows the power law through both values, and min_samples is a 64th of the patches, at least
    two.
    """
    exponent = math.log(1.1 / 0.7) / math.log(21**2 / 14**2)
    return (
        eps or 0.7 * (num_patches / 14**2) ** exponent,
        min_samples or max(round(num_patches / 64), 2),
    )


def dbscan(rows_NM: Tensor, eps: float, min_samples: int) -> NDArray[np.intp]:
    """Return each row's cluster (N) by DBSCAN with Euclidean distance (5); -1 is noise.

    Args:
        rows_NM: correlation of each patch with the others, on the CPU.
        eps: largest distance of neighbours.
        min_samples: neighbours of a core point, itself among them.
    """
    from sklearn.cluster import DBSCAN  # here, as it is slow to import

    return DBSCAN(eps=eps, min_samples=min_samples).fit(rows_NM.numpy()).labels_


def cluster_maps(rows_NM: Tensor, clusters_N: NDArray[np.intp], grid_hw: tuple[int, int]) -> Tensor:
    """Return the mean row of each cluster as a map, enlarged four times (G, 4 h, 4 w) (5, 6).

    Args:
        rows_NM: correlation of each patch with all, M = N = h * w.
        clusters_N: as `dbscan` returns them, at least one not noise.
        grid_hw: the patches' grid.
    """
    means_GN = torch.stack(
        [rows_NM[torch.from_numpy(clusters_N == g)].mean(0) for g in range(clusters_N.max() + 1)]
    )
    maps_Ghw = means_GN.unflatten(1, grid_hw)[None]
    return F.interpolate(maps_Ghw, scale_factor=float(_ENLARGED), mode="bilinear")[0]


def median_filtered(maps_Ghw: Tensor) -> Tensor:
    """Return the median of each 7 x 7 neighbourhood, by SciPy's mode `reflect` (6).

    It takes a third of the time of SciPy's `median_filter`.
    """
    reach, middle = _MEDIAN_SIDE // 2, _MEDIAN_SIDE**2 // 2
    filtered = []
    for map_hw in maps_Ghw.numpy():
        padded = np.pad(map_hw, reach, mode="symmetric")
        near = sliding_window_view(padded, (_MEDIAN_SIDE, _MEDIAN_SIDE)).reshape(-1, middle * 2 + 1)
        near.partition(middle, axis=1)
        filtered.append(near[:, middle].reshape(map_hw.shape))
    return torch.from_numpy(np.stack(filtered))


def region_map(
    maps_Ghw: Tensor,
    size_hw: tuple[int, int],
    patch_px: int,
    band_elements: int = _BAND_ELEMENTS,
) -> Tensor:
    """Return the index of the highest map at each pixel of an image, int32 (H, W) (6).

    The maps are enlarged bilinearly first, band by band.

    Args:
        maps_Ghw: on a grid four times as fine as the patches.
        size_hw: of the image.
        patch_px: the maps cover the image padded to whole patches of this side, and the padding is
            cut off (of an odd remainder the larger part after the image); 0: they cover the image
            without padding.
        band_elements: elements of the enlarged maps that are held at once.
    """
    fine_hw = maps_Ghw.shape[1:]
    padded_hw = [side * patch_px // _ENLARGED for side in fine_hw] if patch_px else size_hw
    enlarged = MeanMap([maps_Ghw], (padded_hw[0], padded_hw[1]))
    top, left = ((side - kept) // 2 for side, kept in zip(padded_hw, size_hw, strict=True))
    step = max(band_elements // (len(maps_Ghw) * padded_hw[1]), 1)
    bottom = top + size_hw[0]
    bands = (enlarged.rows(slice(y, min(y + step, bottom))) for y in range(top, bottom, step))
    winners = [band.max(dim=0).indices[:, left : left + size_hw[1]].int() for band in bands]
    return torch.cat(winners)
