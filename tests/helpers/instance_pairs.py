"""Drawn pairs of true objects and segments, as single masks of small images."""

import numpy as np
from numpy.typing import NDArray

from ovseg_core.rle.coco_segmentation import encode_mask
from ovseg_core.rle.encode import decode_rle
from pipeline.evaluation.instances.image_pair import FoundInstance, ImagePair, TrueInstance


def box(size_hw: tuple[int, int], top: int, left: int, height: int, width: int) -> NDArray:
    """Return a mask (H, W) that is a rectangle."""
    mask = np.zeros(size_hw, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def true(label: int, mask: NDArray, is_crowd: bool = False) -> TrueInstance:
    """Return a true object of a mask."""
    return TrueInstance(label, encode_mask(mask), int(mask.sum()), is_crowd)


def found(label: int, mask: NDArray, score: float = 0.5) -> FoundInstance:
    """Return a segment of a mask."""
    return FoundInstance(label, encode_mask(mask), int(mask.sum()), score)


def drawn_pairs(
    seed: int, num_images: int, num_labels: int, most: int = 8, side: int = 40
) -> list[ImagePair]:
    """Return images with rectangles that overlap, crowds, ties, and images without any.

    Args:
        seed: of the drawing.
        num_images: their numbers do not rise by one.
        num_labels: labels from 1.
        most: masks of an image, of truth and of the run each.
        side: of about the longer side; the images are not square.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for place in range(num_images):
        size_hw = int(rng.integers(side // 2, side)), int(rng.integers(side, side + side // 2))
        truth = [
            true(int(rng.integers(1, num_labels + 1)), _rectangle(rng, size_hw), rng.random() < 0.1)
            for _ in range(rng.integers(0, most + 1))
        ]
        masks = [_rectangle(rng, size_hw) for _ in range(rng.integers(0, most + 1))]
        labels = [int(rng.integers(1, num_labels + 1)) for _ in masks]
        for one in truth:  # most objects are found, some of them twice, at another place
            for _ in range(rng.integers(0, 3)):
                masks.append(_near(rng, one, size_hw))
                labels.append(one.label)
        scores = rng.integers(0, 8, len(masks)) / 8  # with ties
        segments = [
            found(label, mask, float(score))
            for label, mask, score in zip(labels, masks, scores, strict=True)
        ]
        pairs.append(ImagePair(3 * place + 1, size_hw, truth, segments))
    return pairs


def _rectangle(rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray:
    height, width = (int(rng.integers(1, side + 1)) for side in size_hw)
    top = int(rng.integers(0, size_hw[0] - height + 1))
    left = int(rng.integers(0, size_hw[1] - width + 1))
    return box(size_hw, top, left, height, width)


def _near(rng: np.random.Generator, one: TrueInstance, size_hw: tuple[int, int]) -> NDArray:
    mask = decode_rle(one.rle_counts, size_hw).astype(bool)
    moved = np.roll(mask, tuple(rng.integers(-2, 3, 2)), (0, 1))
    return moved if rng.random() < 0.7 else mask
