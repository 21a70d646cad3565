"""What a person should look at first: `review_priority` of a mask and of an image, 1 first.

Both follow from columns that every run has, so a mask's is computed where it is shown and needs no
column of its own. The form was chosen on drawn scenes of other seeds than those that it is tested
on; nothing in it is fitted.
"""

from collections.abc import Iterable, Mapping
from typing import Any

SMALL_AREA = 0.005
"""Share of the image at which size alone halves the trust in a mask: specks are rarely right."""


def mask_priority(scores: Mapping[str, Any]) -> float:
    """Return how doubtful a mask is.

    There are four reasons to trust it: its label is probable, no other label comes near, the
    probability is not spread over many, and it is no speck. Doubt is 1 less their product,
    `mean_prob * margin_mean * (1 - entropy_mean) * area_frac / (area_frac + SMALL_AREA)`.

    Args:
        scores: a row of the annotations table, or these four of its columns.
    """
    area = scores["area_frac"]
    sure = scores["mean_prob"] * scores["margin_mean"] * (1 - scores["entropy_mean"])
    return 1 - sure * area / (area + SMALL_AREA)


def image_priority(masks: Iterable[Mapping[str, Any]], missed: float = 0.0) -> float:
    """Return how much an image deserves a look: about how many of its masks are bad.

    With `s` the sum of the masks' priorities to the fourth power, so that only doubtful ones
    count, it is `s / (1 + s)`.

    Args:
        masks: rows of the image's segments.
        missed: counts where there are none: the highest probability that any label reached.
    """
    doubts = [mask_priority(row) for row in masks] or [missed]
    total = sum(doubt**4 for doubt in doubts)
    return total / (1 + total)
