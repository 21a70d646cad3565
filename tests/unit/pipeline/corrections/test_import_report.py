"""Counts of an import by label."""

import numpy as np

from ovseg_core.rle.encode import encode_rle
from pipeline.corrections.import_report import Tally
from pipeline.corrections.matching import CorrectedMask, match

SIZE_HW = 4, 8
NAMES = ("cat", "dog", "bird")
IMAGE = {"image_id": "a", "height": SIZE_HW[0], "width": SIZE_HW[1]}


def _rows(label_map: np.ndarray) -> list[dict]:
    regions = encode_rle(label_map, SIZE_HW)
    return [
        {
            "image_id": "a", "label": NAMES[number - 1], "category_id": number,
            "segment_index": place, "height": 4, "width": 8, "rle_counts": region.counts,
        }
        for place, (number, region) in enumerate(sorted(regions.items()))
    ]  # fmt: skip


def test_tally_counts_what_became_of_each_segment():
    label_map = np.zeros(SIZE_HW, np.int64)
    label_map[:, :4], label_map[:, 4:6] = 1, 2
    predicted = _rows(label_map)
    smaller = np.where(np.arange(8) < 3, label_map, 0)
    smaller[:, 6:] = 3
    corrected = [CorrectedMask(row["category_id"], row["rle_counts"]) for row in _rows(smaller)]
    tally = Tally(NAMES)
    tally.add(IMAGE, predicted, match(IMAGE, predicted, corrected, NAMES), 90.0)
    tally.add(IMAGE, predicted, match(IMAGE, predicted, [], NAMES), None)
    cat, dog, bird = tally.labels()
    assert (cat.predicted, cat.accepted, cat.changed, cat.rejected, cat.added) == (2, 0, 1, 1, 0)
    assert (dog.predicted, dog.rejected, dog.iou) == (2, 2, 0.0)
    assert (bird.predicted, bird.added, bird.accepted_share) == (0, 1, None)
    assert cat.iou == 12 / 32
    assert [label.minutes for label in (cat, dog, bird)] == [0.5, 0.5, 0.5]
