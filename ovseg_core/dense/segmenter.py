"""What the window methods share: CLIP's patches over sliding windows, scored and averaged.

A method is a way to read windows (`readers`), its sizes and its scoring (`recipe`); the rest is
here. Shapes: W windows of one image, D joint width, E further channels, Q text rows, K classes, h w
patches of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text_encoder import TextEncoder, templates_of
from ovseg_core.dense.encoder import DenseEncoder
from ovseg_core.dense.options import COSINES, PublishedSizes, Scoring, WindowOptions
from ovseg_core.dense.presence import present_rows
from ovseg_core.dense.whole_image import merge_windows
from ovseg_core.dense.windows import WindowGrid, Windows, side_by_side
from ovseg_core.images.batch import Image
from ovseg_core.images.region_masks import region_masks
from ovseg_core.objectness import build_objectness
from ovseg_core.refine.pamr import Pamr, Refinement
from ovseg_core.resize.pillow_bicubic import bicubic_resize
from ovseg_core.resize.published_sizes import mmseg_size, resize_linear
from ovseg_core.resize.stitching import Stitch
from ovseg_core.segmenter import DecisionRule, ScoreMaps, TextMatrix
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary


@dataclass(frozen=True)
class ReadWindows:
    """One image's windows after CLIP.

    Attributes:
        patches_WDhw: unit, in scan order.
        extra_WEhw: further channels of the method.
        grid: windows by (rows, columns).
        stitch: where the patches lie.
        pooled_WD: CLIP's embedding of each window; None where no label is ruled out by it.
    """

    patches_WDhw: Tensor
    extra_WEhw: Tensor
    grid: tuple[int, int]
    stitch: Stitch
    pooled_WD: Tensor | None


@dataclass(frozen=True)
class WindowFeatures:
    """What a window method knows of a batch before the words.

    Attributes:
        images: the windows of each.
        objectness: foreground probability of each image; None without a source.
        refinement: PAMR with the resized images as its guides; None: no PAMR.
        regions: region maps of each image that vote on its labels; None: no vote.
    """

    images: tuple[ReadWindows, ...]
    objectness: tuple[Tensor, ...] | None
    refinement: Refinement | None
    regions: tuple[tuple[Tensor, ...], ...] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)


class WindowSegmenter:
    """A window method; see the module.

    Args:
        backbones: supply the objectness source.
        reader: reads windows.
        options: the method's, with its own defaults.
        published: the sizes where the options give none.
        scoring: from patches to scores.
        area_threshold: share of all foreground pixels that a label must exceed to stay.

    Raises:
        ConfigError: a stride that leaves gaps between the windows; no such `region_folder`.
    """

    def __init__(
        self,
        backbones: Backbones,
        reader: DenseEncoder,
        options: WindowOptions,
        published: PublishedSizes,
        scoring: Scoring = COSINES,
        area_threshold: float = 0.0,
    ) -> None:
        self._clip = reader.clip
        self._reader = reader
        self._options = options
        self._published = published
        self._scoring = scoring
        self._area_threshold = area_threshold
        self._objectness = build_objectness(options.objectness, backbones)
        folder = options.region_folder
        self._masks = region_masks(folder, "method.options.region_folder") if folder else None
        self._text = TextEncoder(self._clip, templates_of(options.templates))
        self.decode_side_px = _given_or(
            options.short_side_px, published.short * self._clip.input_px
        )
        self._windows = self._cutter()

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary as rows; background may have none."""
        return self._text.matrix(vocabulary)

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> WindowFeatures:
        """Read the windows of all images; those of one size go together."""
        resized = [self._resize(image).to(self._clip.device) for image in images]
        cuts = [self._windows.cut(self._clip.normalise(one)) for one in resized]
        whole = self._options.global_attention
        read = self._read_whole(cuts) if whole else self._read_apart(cuts)
        regions = None if self._masks is None else tuple((m,) for m in self._masks.read(images))
        return WindowFeatures(
            tuple(read), self._objectness.maps(images), self._refinement(resized), regions
        )

    @torch.inference_mode()
    def score(self, features: WindowFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the scores of all phrases or classes, averaged over windows when decided."""
        options, by_class = self._options, self._scoring.domain == "prob"
        classes_K = torch.arange(text.num_classes, device=text.class_index_Q.device)
        return ScoreMaps(
            levels=tuple((self._level(one, text),) for one in features.images),
            canvas_hw=None,
            objectness=features.objectness,
            fusion="none" if features.objectness is None else "foreground_gate",
            domain=self._scoring.domain,
            logit_scale=options.logit_scale,
            stitches=tuple(one.stitch for one in features.images),
            rule=DecisionRule(
                classes_K if by_class else text.class_index_Q,
                text.num_classes,
                options.probability_threshold,
                self._area_threshold,
            ),
            refinement=features.refinement,
            regions=features.regions,
        )

    def _level(self, image: ReadWindows, text: TextMatrix) -> Tensor:
        """Return the scores of one image's windows side by side (Q or K, n_y h, n_x w)."""
        scale, competing = self._options.logit_scale, text
        if image.pooled_WD is not None:
            rows_Q = present_rows(
                image.pooled_WD, text, self._clip.logit_scale, self._options.presence_top
            )
            competing = TextMatrix(
                text.rows_QD[rows_Q], text.class_index_Q[rows_Q], text.num_classes
            )
        scores = self._scoring.maps(image.patches_WDhw, image.extra_WEhw, competing, scale)
        if image.pooled_WD is not None and self._scoring.domain != "prob":
            # The lowest cosine there is, or less than any score: nothing is left by the softmax.
            lowest = -1.0 if self._scoring.domain == "cosine" else float(scores.min()) - 1
            everything = scores.new_full((len(scores), len(rows_Q), *scores.shape[2:]), lowest)
            everything[:, rows_Q] = scores
            scores = everything
        return side_by_side(scores, image.grid)

    def _read_apart(self, cuts: Sequence[WindowGrid]) -> list[ReadWindows]:
        read = self._windows.read(cuts, self._finished)
        return [self._of_image(windows, cut) for windows, cut in zip(read, cuts, strict=True)]

    def _finished(self, windows_B3HW: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        state = self._reader.read(windows_B3HW)
        pooled_BD = self._clip.pool_trunk(state) if self._options.presence_top else None
        maps = self._reader.finish(state)
        return [(one, None if pooled_BD is None else pooled_BD[i]) for i, one in enumerate(maps)]

    def _of_image(
        self, windows: Sequence[tuple[Tensor, Tensor | None]], cut: WindowGrid
    ) -> ReadWindows:
        maps_WFhw = torch.stack([one for one, _ in windows])
        pooled = [one for _, one in windows if one is not None]
        stitch = cut.stitch((maps_WFhw.shape[2], maps_WFhw.shape[3]))
        return self._read_windows(maps_WFhw, cut.grid, stitch, pooled)

    def _read_whole(self, cuts: Sequence[WindowGrid]) -> list[ReadWindows]:
        """Read windows, lay them together, and run the last block once for each image."""
        states = self._windows.read(cuts, lambda windows: self._reader.read(windows).unbind())
        read = []
        for of_windows, cut in zip(states, cuts, strict=True):
            pooled = []
            if self._options.presence_top:
                pooled = [self._clip.pool_trunk(one)[0] for one in of_windows]
            maps_1Fhw = self._reader.finish(merge_windows(of_windows, cut, self._clip.patch_px))
            whole = cut.whole()
            stitch = whole.stitch((maps_1Fhw.shape[2], maps_1Fhw.shape[3]))
            read.append(self._read_windows(maps_1Fhw, whole.grid, stitch, pooled))
        return read

    def _read_windows(
        self,
        maps_WFhw: Tensor,
        grid: tuple[int, int],
        stitch: Stitch,
        pooled: Sequence[Tensor],
    ) -> ReadWindows:
        width = self._clip.dim
        units_WDhw = F.normalize(maps_WFhw[:, :width], dim=1)
        pooled_WD = torch.stack(list(pooled)) if pooled else None
        return ReadWindows(units_WDhw, maps_WFhw[:, width:], grid, stitch, pooled_WD)

    def _refinement(self, resized: Sequence[Image]) -> Refinement | None:
        if not self._options.pamr_steps:
            return None
        pamr = Pamr(self._options.pamr_steps, self._options.pamr_dilations)
        return Refinement(pamr, tuple(resized))

    def _resize(self, image: Image) -> Image:
        short_px = self.decode_side_px
        if not short_px:
            return image
        height, width = image.shape[1:]
        squash = self._published.resize == "squash"
        size_hw = (short_px, short_px) if squash else mmseg_size((height, width), short_px)
        linear = self._published.kernel == "linear"
        return resize_linear(image, size_hw) if linear else bicubic_resize(image, size_hw)

    def _cutter(self) -> Windows:
        options, published, side_px = self._options, self._published, self._clip.input_px
        window_px = _given_or(options.window_px, published.window * side_px)
        stride_px = _given_or(options.stride_px, published.stride * side_px)
        if window_px and stride_px > window_px:
            raise ConfigError(
                f"method.options.stride_px: expected at most the window's {window_px} px, "
                f"got {stride_px}; larger steps leave gaps"
            )
        return Windows(
            window_px,
            stride_px,
            self._clip.patch_px,
            self._reader.multiple_px,
            published.padding,
            self._clip.black,
        )


def _given_or(given: int | None, published_px: float) -> int:
    return round(published_px) if given is None else given
