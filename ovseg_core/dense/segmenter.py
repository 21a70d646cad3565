"""The sliding-window methods: dense CLIP features of every window, scored, then stitched.

A method supplies an encoder (`encoder.py`), its published sizes (`options.py`) and its scoring
(`scoring.py`); the rest is here. Features and scores are float32 and on CLIP's device; the stitches
are on the CPU.

Shapes: B windows of one size, W windows of one image, D joint width, Q text rows, K classes, h w
patches of a window, n_y n_x rows and columns of windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.clip import TrunkFeatures
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder, templates_of
from ovseg_core.decision.refine.pamr import Pamr, Refinement
from ovseg_core.dense.encoder import REGIONS, DenseEncoder, DenseFeatures
from ovseg_core.dense.options import AttentionOptions, PublishedSizes
from ovseg_core.dense.scoring import COSINES, Scoring, top_label_rows
from ovseg_core.dense.whole_image import merge_windows
from ovseg_core.dense.windows import SlidingWindows, WindowGrid, side_by_side
from ovseg_core.images.batch import Image, ImageBatch
from ovseg_core.images.proposal_masks import check_regions
from ovseg_core.images.resize.pillow_passes import BICUBIC, resize_in_passes
from ovseg_core.images.resize.published_sizes import mmseg_size, resize_linear
from ovseg_core.images.resize.stitching import Stitch
from ovseg_core.objectness import build_objectness
from ovseg_core.segmenter import DecisionRule, ScoreMaps, Segmenter, TextMatrix
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary


@dataclass(frozen=True)
class ImageFeatures:
    """Dense features of one image.

    Attributes:
        dense: of its W windows in scan order; patches and class tokens are unit.
        grid: rows and columns of windows.
        stitch: positions of the windows' patches in the resized image.
        embeddings_WD: CLIP's own embedding of each window, not normalised; (W, 0) where all labels
            compete.
    """

    dense: DenseFeatures
    grid: tuple[int, int]
    stitch: Stitch
    embeddings_WD: Tensor

    def __post_init__(self) -> None:
        """Check that the patches are those of the windows.

        Raises:
            ValueError: they are not.
        """
        rows, columns = self.stitch.rows, self.stitch.columns
        windows = (len(rows.spans), len(columns.spans))
        patches = (windows[0] * windows[1], rows.num_patches, columns.num_patches)
        found = (len(self.dense.patches_BDhw), *self.dense.grid_hw)
        if self.grid != windows or found != patches:
            raise ValueError(f"expected {patches} windows and patches in {windows}, got {found}")


@dataclass(frozen=True)
class WindowFeatures:
    """All that a window method computes of a batch without the vocabulary.

    Attributes:
        images: the dense features of each image.
        objectness: of each image, float32 (h, w) in [0, 1]; None without a source.
        refinement: PAMR, guided by the resized images; None: no PAMR.
        regions: region maps of each image that vote on its labels; None: no vote.
    """

    images: tuple[ImageFeatures, ...]
    objectness: tuple[Tensor, ...] | None
    refinement: Refinement | None
    regions: tuple[tuple[Tensor, ...], ...] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def image(self, index: int) -> "WindowFeatures":
        """Return the features of one image, as those of a batch of one."""
        part = slice(index, index + 1)
        guided = self.refinement
        return WindowFeatures(
            self.images[part],
            self.objectness and self.objectness[part],
            guided and replace(guided, guides=guided.guides[part]),
            self.regions and self.regions[part],
        )


class WindowSegmenter(Segmenter[WindowFeatures]):
    """A method that encodes sliding windows.

    Args:
        backbones: supply the objectness source.
        encoder: encodes windows; its options are the method's.
        published: the sizes where the options give none.
        scoring: from dense features to scores.
        area_threshold: share of all foreground pixels that a label must exceed to stay.

    Raises:
        ConfigError: a stride that leaves gaps between the windows.
        WeightsError: weights of the objectness source that cannot be found, fetched or used.
    """

    def __init__(
        self,
        backbones: Backbones,
        encoder: DenseEncoder[Any],
        published: PublishedSizes,
        scoring: Scoring = COSINES,
        area_threshold: float = 0.0,
    ) -> None:
        options, clip = encoder.options, encoder.clip
        self.encoder = encoder
        self._clip = clip
        self._options = options
        self._published = published
        self._scoring = scoring
        self._area_threshold = area_threshold
        self._objectness = build_objectness(options.objectness, backbones)
        self._text = TextEncoder(clip, templates_of(options.templates))
        self.decode_side_px, window_px, stride_px = (
            round(sides * clip.input_px) if given is None else given
            for given, sides in (
                (options.short_side_px, published.short),
                (options.window_px, published.window),
                (options.stride_px, published.stride),
            )
        )
        if window_px and stride_px > window_px:
            raise ConfigError(
                f"method.options.stride_px: expected at most the window's {window_px} px, "
                f"got {stride_px}; larger steps leave gaps"
            )
        self.windows = SlidingWindows(
            window_px,
            stride_px,
            clip.patch_px,
            encoder.multiple_px,
            published.padding,
            clip.black,
        )

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's text matrix; background may have no phrases."""
        return self._text.matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> WindowFeatures:
        """Return the features of a batch; windows of one size share forward passes."""
        options = self._options
        resized = [self.resize(image).to(self._clip.device) for image in images]
        inputs = [self._clip.normalise(image) for image in resized]
        if isinstance(options, AttentionOptions) and options.limited_attention:
            inputs = with_regions(inputs, images)
        grids = [self.windows.cut(one) for one in inputs]
        encode_grids = self._encode_merged if options.global_attention else self._encode_windows
        features = encode_grids(grids)
        refinement = None
        if options.pamr_steps:
            pamr = Pamr(options.pamr_steps, options.pamr_dilations)
            refinement = Refinement(pamr, tuple(resized))
        return WindowFeatures(features, self._objectness.maps(images), refinement)

    def _encode_windows(self, grids: Sequence[WindowGrid]) -> tuple[ImageFeatures, ...]:
        """Encode each window by itself."""

        def encode(windows_BEHW: Tensor) -> list[tuple[DenseFeatures, Tensor]]:
            trunk = self.encoder.encode_trunk(windows_BEHW[:, :3])
            if windows_BEHW.shape[1] > 3:
                # The region at each patch's centre.
                regions = F.interpolate(windows_BEHW[:, 3:], trunk.grid_hw, mode="nearest-exact")
                trunk = replace(trunk, extra_maps={**trunk.extra_maps, REGIONS: regions})
            embeddings_BD = self._embeddings(trunk)
            dense = self.encoder.encode_dense(trunk).unit()
            return list(zip(dense.unbind(), embeddings_BD, strict=True))

        images = []
        for grid, windows in zip(grids, self.windows.apply(grids, encode), strict=True):
            parts, embeddings = zip(*windows, strict=True)
            dense, embeddings_WD = DenseFeatures.cat(parts), torch.stack(embeddings)
            stitch = grid.stitch(dense.grid_hw)
            images.append(ImageFeatures(dense, grid.shape, stitch, embeddings_WD))
        return tuple(images)

    def _encode_merged(self, grids: Sequence[WindowGrid]) -> tuple[ImageFeatures, ...]:
        """Run the trunk on each window, merge the windows, and run the last block on the whole."""
        trunks = self.windows.apply(
            grids, lambda windows_B3HW: self.encoder.encode_trunk(windows_B3HW).unbind()
        )
        images = []
        for grid, windows in zip(grids, trunks, strict=True):
            embeddings_WD = torch.cat([self._embeddings(window) for window in windows])
            trunk = merge_windows(windows, grid, self._clip.patch_px)
            dense, merged = self.encoder.encode_dense(trunk).unit(), grid.merged()
            stitch = merged.stitch(dense.grid_hw)
            images.append(ImageFeatures(dense, merged.shape, stitch, embeddings_WD))
        return tuple(images)

    def _embeddings(self, trunk: TrunkFeatures) -> Tensor:
        """Return CLIP's embeddings of windows (B, D) if they are needed, else (B, 0)."""
        if self._options.top_k_labels:
            return self._clip.pool_trunk(trunk)
        return trunk.tokens_BLC.new_empty(len(trunk.tokens_BLC), 0)

    @torch.inference_mode()
    def score(self, features: WindowFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the scores of all phrases or classes; windows are averaged at the decision."""
        by_class = self._scoring.domain == "prob"
        classes_K = torch.arange(text.num_classes, device=text.class_index_Q.device)
        return ScoreMaps(
            levels=tuple((self._score_image(image, text),) for image in features.images),
            canvas_hw=None,
            objectness=features.objectness,
            fusion="none" if features.objectness is None else "foreground_gate",
            domain=self._scoring.domain,
            logit_scale=self._options.logit_scale,
            stitches=tuple(image.stitch for image in features.images),
            rule=DecisionRule(
                classes_K if by_class else text.class_index_Q,
                text.num_classes,
                self._options.probability_threshold,
                self._area_threshold,
            ),
            refinement=features.refinement,
            regions=features.regions,
        )

    def _score_image(self, image: ImageFeatures, text: TextMatrix) -> Tensor:
        """Return the scores of one image's windows side by side (Q or K, n_y h, n_x w)."""
        top_k = self._options.top_k_labels
        if not top_k:
            return side_by_side(self._scoring.score(image.dense, text), image.grid)
        rows_Q = top_label_rows(image.embeddings_WD, text, self._clip.logit_scale, top_k)
        competing = TextMatrix(text.rows_QD[rows_Q], text.class_index_Q[rows_Q], text.num_classes)
        scores = self._scoring.score(image.dense, competing)
        if self._scoring.domain != "prob":
            # The lowest cosine there is, or less than any score: the softmax leaves nothing of it.
            lowest = -1.0 if self._scoring.domain == "cosine" else float(scores.min()) - 1
            all_scores = scores.new_full((len(scores), len(rows_Q), *scores.shape[2:]), lowest)
            all_scores[:, rows_Q] = scores
            scores = all_scores
        return side_by_side(scores, image.grid)

    def resize(self, image: Image) -> Image:
        """Return an image (3, H, W) at the method's size, uint8."""
        if not self.decode_side_px:
            return image
        size_hw = self._resized_hw((image.shape[1], image.shape[2]))
        if self._published.kernel == "linear":
            return resize_linear(image, size_hw)
        return resize_in_passes(image, size_hw, BICUBIC)

    def _resized_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the method's size of an image."""
        short_px = self.decode_side_px
        if not short_px:
            return size_hw
        if self._published.resize == "squash":
            return short_px, short_px
        return mmseg_size(size_hw, short_px)

    def check_size(self, features: WindowFeatures, size_hw: tuple[int, int]) -> None:
        """Check that windows are those of images of one size, as only the features themselves say.

        A decoder that reduces an image rounds its sides, which changes its aspect a little.

        Args:
            features: of images of that size, from anywhere.
            size_hw: of the images' files.

        Raises:
            ValueError: the windows are of another image, or patches are finer than any network's.
        """
        expected_hw = self._resized_hw(size_hw)
        rounding_px = 2 + 2 * max(expected_hw) // min(expected_hw) if self.decode_side_px else 0
        for regions_hw in (one for some in features.regions or () for one in some):
            check_regions(regions_hw, regions_hw.numel())
        for place, image in enumerate(features.images):
            axes = image.stitch.rows, image.stitch.columns
            found_hw = axes[0].side_px, axes[1].side_px
            far_px = max(abs(a - b) for a, b in zip(found_hw, expected_hw, strict=True))
            if far_px > rounding_px:
                raise ValueError(
                    f"expected windows on about {expected_hw} pixels, of an image of {size_hw}, "
                    f"got {found_hw}"
                )
            for axis in axes:
                self.windows.check_axis(axis, merged=self._options.global_attention)
            if features.refinement is not None:
                guide_hw = tuple(features.refinement.guides[place].shape[1:])
                if guide_hw != found_hw:
                    raise ValueError(f"expected a resized image of {found_hw}, got {guide_hw}")


def with_regions(inputs: Sequence[Tensor], images: Sequence[Image]) -> list[Tensor]:
    """Return network inputs (3, H, W) with the number of each pixel's region as a fourth channel.

    Numbers are from 1; 0 is no region.

    Raises:
        ConfigError: the batch has no proposals.
    """
    proposals = images.proposals if isinstance(images, ImageBatch) else None
    if proposals is None:
        raise ConfigError(
            "method.options.limited_attention needs the images' proposals: give the images as an "
            "ovseg_core.images.batch.ImageBatch with proposals"
        )
    with_numbers = []
    for one, found in zip(inputs, proposals, strict=True):
        numbers_11hw = (found.region_map()[None, None] + 1).to(one)
        numbers_11HW = F.interpolate(numbers_11hw, one.shape[1:], mode="nearest-exact")
        with_numbers.append(torch.cat([one, numbers_11HW[0]]))
    return with_numbers
