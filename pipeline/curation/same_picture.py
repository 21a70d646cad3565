"""Whether two images are the same picture, by small pictures of them.

CLIP's vectors say what an image shows; two photographs of one scene may be as close as a picture
and its crop. So a pair that is close is compared pixel by pixel, at 16 x 16: the Pearson
correlation of one with the other, as it is, mirrored, and with 5 % cut off one of them in nine
ways. Most pairs differ already at 8 x 8, whole or mirrored, and are not looked at further.

On 320 drawn scenes and photographs with copies (JPEG of quality 30, 5 % cut off, mirrored, half the
size) no copy was below 0.92 (at 8 x 8: 0.87), and no other pair of a cosine of 0.9 or more above
0.67; on 320 others, of which nothing was chosen, 0.92 (0.86) and 0.70. Small pictures are square: a
tall photograph and a wide one of COCO reached 0.82. So where the sides' ratios differ, an image
must be the other one stretched.

Shapes: N images, P pairs, S side of a small picture.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SMALL_PX = 32
"""S: what is kept of an image, 3 kB."""
_COMPARED_PX = 16
"""Fine enough to tell scenes apart, coarse enough for a crop that is a few pixels off."""
_COARSE_PX = 8
_LOOKED_AT_FROM = 0.5
"""Correlation at 8 x 8 from which a pair is compared at 16 x 16."""
_CROP = 0.95
"""Side of what is left by a crop."""
SAME_FROM = 0.8
"""Correlation from which two images are the same picture."""
STRETCHED_FROM = 0.95
"""Likewise of images whose sides are not in the same ratio."""
_RATIO_APART = 1.15
"""More than what a crop of 5 % and rounded sides change."""
_PAIRS_AT_ONCE = 1024
_COARSE_PAIRS_AT_ONCE = 65536


def small_picture(rgb_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image at (S, S, 3), its sides not in proportion."""
    size = (SMALL_PX, SMALL_PX)
    return np.asarray(cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)


def correlation(
    small_NSS3: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Return (P,) the greatest correlation of the images of each pair, -1 to 1, see the module.

    Of pairs that differ at 8 x 8 it is that one, below 0.5. An image of one colour correlates with
    nothing: 0.

    Args:
        small_NSS3: from `small_picture`.
        first: (P,) places of images.
        second: (P,) places of the images to compare them with.
    """
    found = _coarse_correlation(small_NSS3, first, second)
    alike = np.flatnonzero(found >= _LOOKED_AT_FROM)
    found[alike] = _fine_correlation(small_NSS3, first[alike], second[alike])
    return found


def are_same(
    correlation_P: NDArray[np.float32], first_ratio: NDArray[Any], second_ratio: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return (P,) whether the images of each pair are the same picture.

    Args:
        correlation_P: of the pairs, see `correlation`.
        first_ratio: (P,) height by width of the first images.
        second_ratio: (P,) of the second ones.
    """
    apart = np.maximum(first_ratio / second_ratio, second_ratio / first_ratio)
    return correlation_P >= np.where(apart > _RATIO_APART, STRETCHED_FROM, SAME_FROM)


def _coarse_correlation(
    small_NSS3: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
) -> NDArray[np.float32]:
    size = (_COARSE_PX, _COARSE_PX)
    coarse = [cv2.resize(small, size, interpolation=cv2.INTER_AREA) for small in small_NSS3]
    whole = _centred(np.array(coarse, np.float32).reshape(len(coarse), -1))
    mirrored = whole.reshape(-1, *size, 3)[:, :, ::-1].reshape(whole.shape)
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), _COARSE_PAIRS_AT_ONCE):
        part = slice(start, start + _COARSE_PAIRS_AT_ONCE)
        ours = whole[first[part]]
        pairs = (np.einsum("pi,pi->p", ours, other[second[part]]) for other in (whole, mirrored))
        found[part] = np.maximum(*pairs)
    return found


def _fine_correlation(
    small_NSS3: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
    first: NDArray[np.integer],
    second: NDArray[np.integer],
) -> NDArray[np.float32]:
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        places, inverse = np.unique([first[part], second[part]], return_inverse=True)
        views = np.stack([_views(small_NSS3[place]) for place in places])
        ours, theirs = (views[one] for one in inverse.reshape(2, -1))
        best = np.full(len(ours), -1.0, np.float32)
        for a, b in ((ours, theirs), (theirs, ours)):
            for other in (b, _mirrored(b)):
                best = np.maximum(best, np.einsum("pi,pvi->pv", a[:, 0], other).max(axis=1))
        parts.append(best)
    return np.concatenate(parts)


def _views(small_SS3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return an image and nine crops of it (10, 16 * 16 * 3), each of mean 0 and length 1."""
    side = _CROP * SMALL_PX
    corners = [(0.0, 0.0, float(SMALL_PX))]
    offsets = (0.0, (SMALL_PX - side) / 2, SMALL_PX - side)
    corners += [(left, top, side) for top in offsets for left in offsets]
    return _centred(np.stack([_window(small_SS3, *one) for one in corners]).reshape(10, -1))


def _centred(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows of mean 0 and length 1; of equal numbers a row of zeros."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-3)


def _window(
    small_SS3: NDArray[np.uint8], left: float, top: float, side: float
) -> NDArray[np.float32]:
    scale = side / _COMPARED_PX
    # From the middle of a pixel of the result to the place in the picture.
    move = np.array([[scale, 0, left + scale / 2 - 0.5], [0, scale, top + scale / 2 - 0.5]])
    size, flags = (_COMPARED_PX, _COMPARED_PX), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    edge = cv2.BORDER_REPLICATE
    picture: Any = cv2.warpAffine(small_SS3, move, size, flags=flags, borderMode=edge)
    return picture.astype(np.float32)


def _mirrored(views_PVI: NDArray[np.float32]) -> NDArray[np.float32]:
    shape = views_PVI.shape
    pixels = views_PVI.reshape(*shape[:2], _COMPARED_PX, _COMPARED_PX, 3)
    return np.ascontiguousarray(pixels[:, :, :, ::-1]).reshape(shape)
