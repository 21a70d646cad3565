"""Review priority of a mask and of an image: 1 is to be looked at first.

Both follow from columns that every run has, so a mask's priority needs no column of its own. The
form was chosen on drawn scenes of other seeds than those of the tests; nothing in it is fitted
(docs/methods.md 14.3).
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_AREA = 0.005
"""Share of the image at which size alone halves the trust in a mask: specks are rarely right."""
PRIORITY_COLUMNS = ("mean_prob", "margin_mean", "entropy_mean", "area_frac")
"""Columns of the annotations table that `mask_priority` reads."""


def mask_priority(scores: Mapping[str, Any], agreement: Any = 1.0) -> Any:
    """Return the doubt in a mask, 0 to 1: 1 minus the trust in it.

    Trust is the product of four numbers: its label is probable, no other label comes near, the
    probability is not spread over many labels, and it is no speck:
    `mean_prob * margin_mean * (1 - entropy_mean) * area_frac / (area_frac + SMALL_AREA)`.

    Where a run of another method is given, trust is multiplied by (1 + agreement) / 2.

    Args:
        scores: a row of the annotations table, or columns of it as arrays: `PRIORITY_COLUMNS`.
        agreement: IoU of the label in the image with the other run's (`ovseg compare`), 0 to 1, of
            each mask.
    """
    area = scores["area_frac"]
    trust = scores["mean_prob"] * scores["margin_mean"] * (1 - scores["entropy_mean"])
    return 1 - trust * area / (area + SMALL_AREA) * (1 + agreement) / 2


def image_priority(masks: Iterable[Mapping[str, Any]], missed: float = 0.0) -> float:
    """Return the priority of an image: it grows with the number of its masks that are bad.

    Args:
        masks: rows of the image's segments.
        missed: counts where there are none: the highest probability of any label in the image.
    """
    return combined([mask_priority(row) for row in masks] or [missed])


def combined(doubts: Iterable[float]) -> float:
    """Return the priority of an image from the doubts in its masks.

    With s the sum of their fourth powers, so that only doubtful masks count, it is s / (1 + s).
    """
    total = sum(doubt**4 for doubt in doubts)
    return total / (1 + total)


def share_less_doubtful(priorities: NDArray[Any]) -> NDArray[np.float64]:
    """Return (I,) for each image the share of all images that have a lower review priority.

    It orders images as the priority does, and unlike it means the same in every run.

    Args:
        priorities: (I,) of a run's images.
    """
    lower = np.searchsorted(np.sort(priorities), priorities)
    return lower / max(1, len(priorities))


def combined_by_image(
    doubts: NDArray[np.float64], image: NDArray[np.int32], num_images: int
) -> NDArray[np.float64]:
    """Return the priorities (num_images,) of many images at once.

    Args:
        doubts: (N,) doubt in each mask.
        image: (N,) index of each mask's image, from 0.
        num_images: length of the result; an image without masks has 0.
    """
    total = np.bincount(image, doubts**4, num_images)
    return total / (1 + total)
