"""What a truth and a run say of one image, as single masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ovseg_core.images.resize.nearest import SizeHW
from schemas.score_columns import PROPOSAL_SCORE, SCORE

FOUND_COLUMNS = ["image_id", "category_id", "rle_counts", "area_px", SCORE, PROPOSAL_SCORE]
"""Columns of the annotations table that a comparison reads."""


class TrueInstance(NamedTuple):
    """One true object, or with `is_crowd` a group of objects that nobody has told apart."""

    label: int
    """Label k of the vocabulary, from 1."""
    rle_counts: str
    """COCO compressed RLE in the frame of the run."""
    area_px: float
    """As the truth's file says it, for COCO's ranges of area."""
    is_crowd: bool = False


class FoundInstance(NamedTuple):
    """One segment of the run."""

    label: int
    rle_counts: str
    area_px: float
    score: float
    """See `schemas.score_columns.ranking_score`."""


@dataclass(frozen=True)
class ImagePair:
    """One image.

    Attributes:
        number: of the image in the run: ties between scores are in this order, as in COCOeval.
        size_hw: of all masks.
        truth: true objects of labels that are compared.
        found: segments of these labels.
    """

    number: int
    size_hw: SizeHW
    truth: Sequence[TrueInstance]
    found: Sequence[FoundInstance]


def by_label(
    instances: Sequence[TrueInstance] | Sequence[FoundInstance],
) -> Mapping[int, list[Any]]:
    """Return instances by their label, in order."""
    found: dict[int, list[Any]] = {}
    for instance in instances:
        found.setdefault(instance.label, []).append(instance)
    return found
