"""What a person should look at first: `review_priority` of a mask and of an image, 1 first.

Both follow from columns that every run has, so a mask's is computed where it is shown and needs no
column of its own. The form was chosen on drawn scenes of other seeds than those that it is tested
on; nothing in it is fitted.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_AREA = 0.005
"""Share of the image at which size alone halves the trust in a mask: specks are rarely right."""


def mask_priority(scores: Mapping[str, Any], agreement: Any = 1.0) -> Any:
    """Return how doubtful a mask is.

    There are four reasons to trust it: its label is probable, no other label comes near, the
    probability is not spread over many, and it is no speck. Doubt is 1 less their product,
    `mean_prob * margin_mean * (1 - entropy_mean) * area_frac / (area_frac + SMALL_AREA)`.

    Where another method's run is known, trust is halved if it does not have the label there at all.

    Args:
        scores: a row of the annotations table, or whole columns of it as arrays: these four.
        agreement: IoU of the label in the image with another run's (`ovseg compare`), of each mask.
    """
    area = scores["area_frac"]
    sure = scores["mean_prob"] * scores["margin_mean"] * (1 - scores["entropy_mean"])
    return 1 - sure * area / (area + SMALL_AREA) * (1 + agreement) / 2


def image_priority(masks: Iterable[Mapping[str, Any]], missed: float = 0.0) -> float:
    """Return how much an image deserves a look: about how many of its masks are bad.

    Args:
        masks: rows of the image's segments.
        missed: counts where there are none: the highest probability that any label reached.
    """
    return combined([mask_priority(row) for row in masks] or [missed])


def combined(doubts: Iterable[float]) -> float:
    """Return an image's priority from those of its masks.

    With `s` the sum of their fourth powers, so that only doubtful ones count, it is `s / (1 + s)`.
    """
    return _of_sum(sum(map(_weight, doubts)))


def combined_by_image(
    doubts: NDArray[np.float64], image: NDArray[np.int32], num_images: int
) -> NDArray[np.float64]:
    """Return the same for many images at once.

    Args:
        doubts: (N,) priorities of masks.
        image: (N,) the image of each mask, from 0.
        num_images: of the result; an image without masks has 0.
    """
    return _of_sum(np.bincount(image, _weight(doubts), num_images))


def _weight(doubt: Any) -> Any:
    return doubt**4


def _of_sum(total: Any) -> Any:
    return total / (1 + total)
