"""Groups of near-duplicates from pairs."""

import numpy as np

from pipeline.curation.duplicates import groups_of
from pipeline.curation.neighbours import Pairs


def test_groups_are_chains_of_pairs_and_the_largest_image_is_kept():
    pairs = Pairs(np.array([7, 1, 2, 8]), np.array([9, 2, 5, 9]), np.ones(4, np.float32))
    size_px = np.array([1, 10, 30, 1, 1, 30, 1, 4, 4, 2])
    groups = [group.tolist() for group in groups_of(pairs, size_px)]
    assert groups == [[2, 5, 1], [7, 8, 9]], "of equal size the first"
    none = Pairs(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32))
    assert groups_of(none, size_px) == []
