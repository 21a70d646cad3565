"""Random views of a training image, as mmsegmentation makes them for MaskCLIP+.

Source of the steps and their numbers: docs/methods.md 4.3. A view is a function of the image and of
the random numbers that it is given.

Shapes: H W pixels, S side of a view.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.images.batch import Image
from ovseg_core.images.resize.published_sizes import limit_side
from ovseg_core.training.students import IGNORED, UNLABELLED, Labels, TrainingView

_CROP_TRIES = 10
_HUES = 180
"""OpenCV's number of hues of 8-bit images."""


@dataclass(frozen=True)
class ViewSteps:
    """What is done to an image.

    Attributes:
        size_px: S.
        max_side_px: longer side that an image is reduced to first.
        scale: range of the random factor of both sides.
        max_label_share: a crop in which one label has a larger share is drawn anew, up to ten
            times (`cat_max_ratio`).
        distort: change brightness, contrast, saturation and hue.
    """

    size_px: int
    max_side_px: int
    scale: tuple[float, float] = (0.5, 2.0)
    max_label_share: float = 0.75
    distort: bool = True


class RandomViews:
    """The part of a student's task that makes the views, see `StudentTask.view`.

    Args:
        steps: what is done to an image.
    """

    def __init__(self, steps: ViewSteps) -> None:
        self._view_steps = steps

    def view(
        self, image: Image, labels: Labels, teacher: Labels, rng: np.random.Generator
    ) -> TrainingView:
        """Return a random view of an image for one step."""
        return random_view(image, labels, teacher, self._view_steps, rng)


def random_view(
    image: Image, labels: Labels, teacher: Labels, steps: ViewSteps, rng: np.random.Generator
) -> TrainingView:
    """Return a view: resized, cropped, mirrored, distorted; what lies outside is ignored.

    Args:
        image: uint8 (3, H, W).
        labels: (H, W).
        teacher: (H, W).
        steps: what is done.
        rng: random numbers of this view.
    """
    # Large images by area average, as where a student annotates; then bilinear, as published.
    pixels: Any = np.ascontiguousarray(limit_side(image, steps.max_side_px).permute(1, 2, 0))
    both: Any = np.stack([labels, teacher], axis=2).astype(np.int16)
    factor = float(rng.uniform(*steps.scale))
    height, width = (max(1, round(side * factor)) for side in pixels.shape[:2])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    # Exact: by cell centres, as bilinear; OpenCV's other rule lies up to half a pixel beside.
    both = cv2.resize(both, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    top, left = _corner(both, steps, rng)
    inside = np.s_[top : top + steps.size_px, left : left + steps.size_px]
    pixels, both = pixels[inside], both[inside]
    if rng.random() < 0.5:
        pixels, both = pixels[:, ::-1], both[:, ::-1]
    if steps.distort:
        pixels = _distorted(np.ascontiguousarray(pixels), rng)
    below, right = steps.size_px - pixels.shape[0], steps.size_px - pixels.shape[1]
    pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)))
    both = np.pad(both, ((0, below), (0, right), (0, 0)), constant_values=IGNORED)
    return TrainingView(
        torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
        _int64(both[..., 0]),
        _int64(both[..., 1]),
    )


def _int64(labels: NDArray[np.int16]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))


def _corner(both: NDArray[np.int16], steps: ViewSteps, rng: np.random.Generator) -> tuple[int, int]:
    """Return the corner of a crop in which no label has too large a share, if one is found."""
    side = steps.size_px
    corner = 0, 0
    for _ in range(_CROP_TRIES):
        top, left = (int(rng.integers(max(length - side, 0) + 1)) for length in both.shape[:2])
        corner = top, left
        crop = both[top : top + side, left : left + side]
        shown = np.where(crop[..., 0] == UNLABELLED, crop[..., 1], crop[..., 0])
        counts = np.unique(shown[shown != IGNORED], return_counts=True)[1]
        if len(counts) > 1 and counts.max() < steps.max_label_share * counts.sum():
            break
    return corner


def _distorted(pixels: Any, rng: np.random.Generator) -> Any:
    """Return a uint8 RGB image (H, W, 3) with other colours.

    mmsegmentation's PhotoMetricDistortion. Each step is done with probability 1/2: brightness
    +-32, contrast .5 to 1.5 (before or after the other two), saturation .5 to 1.5, hue +-18 of 180.
    """
    if rng.random() < 0.5:
        pixels = _linear(pixels, 1.0, rng.uniform(-32, 32))
    contrast_first, contrast = rng.random() < 0.5, rng.uniform(0.5, 1.5)
    change_contrast = rng.random() < 0.5
    if change_contrast and contrast_first:
        pixels = _linear(pixels, contrast, 0.0)
    saturate, saturation = rng.random() < 0.5, rng.uniform(0.5, 1.5)
    turn, hue = rng.random() < 0.5, int(rng.integers(-18, 18))
    if saturate or turn:
        hsv: Any = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        if saturate:
            hsv[..., 1] = _linear(hsv[..., 1], saturation, 0.0)
        if turn:
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + hue) % _HUES
        pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if change_contrast and not contrast_first:
        pixels = _linear(pixels, contrast, 0.0)
    return pixels


def _linear(values: Any, factor: float, offset: float) -> NDArray[np.uint8]:
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)
