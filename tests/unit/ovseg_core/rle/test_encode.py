"""Run lengths of masks with many runs; small maps of any size: tests/property/test_masks.py."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ovseg_core.images.resize.nearest import to_size
from ovseg_core.rle.encode import encode_rle


@pytest.mark.parametrize("size_hw", [(300, 401), (650, 500), (90, 777)])
def test_masks_of_many_runs_are_written_as_pycocotools_does(size_hw):
    numbers = np.random.default_rng(0).integers(0, 3, (150, 40)).repeat(2, 0).repeat(10, 1)
    full = to_size(numbers, size_hw)
    found = encode_rle(numbers, size_hw)
    assert sorted(found) == [1, 2]
    for number, rle in found.items():
        expected = coco_mask.encode(np.asfortranarray((full == number).astype(np.uint8)))
        assert rle.counts == expected["counts"].decode("ascii")
        assert rle.area_px == coco_mask.area(expected)
        assert list(rle.bbox_xywh) == coco_mask.toBbox(expected).tolist()
