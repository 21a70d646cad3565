"""Laws that hold for any mask: runs paint the map they came from, outlines lose holes only."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ovseg_core.decision.segments import cut_segments
from ovseg_core.rle import components, label_map
from ovseg_core.rle.encode import decode_rle, encode_rle
from pipeline.exporters.shared import outlines
from tests.property.test_masks import region_maps


def _text(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def _without_holes(mask: np.ndarray) -> np.ndarray:
    filled = np.zeros_like(mask)
    rims, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(filled, rims, -1, 1, -1)
    return filled


@given(region_maps())
@settings(max_examples=200)
def test_run_lengths_paint_the_map_they_came_from(regions):
    found = encode_rle(regions, regions.shape)
    counts = [rle.counts for rle in found.values()]
    painted = label_map.paint_label_map(counts, list(found), regions.shape)
    assert painted.dtype == np.uint16
    assert painted.flags.c_contiguous
    np.testing.assert_array_equal(painted, regions)


@given(st.lists(region_maps(), min_size=1, max_size=3), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=100)
def test_where_masks_overlap_the_later_stays(maps, height, width):
    masks = [np.resize(regions > 0, (height, width)) for regions in maps]
    counts = [_text(mask) for mask in masks]
    expected = np.zeros((height, width), np.uint16)
    for value, mask in enumerate(masks, start=1):
        expected[mask] = value
    painted = label_map.paint_label_map(counts, range(1, len(masks) + 1), (height, width))
    np.testing.assert_array_equal(painted, expected)


@given(region_maps(), st.booleans())
@settings(max_examples=300)
def test_run_lengths_are_split_as_the_decoded_map_is(regions, inverted):
    labels = (regions.max() + 1 - regions if inverted else regions).astype(np.uint16)
    whole = encode_rle(labels, labels.shape)
    found = components.split_components([rle.counts for rle in whole.values()], labels.shape)
    pieces = cut_segments(labels, "components")
    expected = {label: [] for label in whole}
    for number, rle in encode_rle(pieces.numbers, labels.shape).items():
        expected[int(pieces.labels[number])].append(rle)
    assert found == list(expected.values())


def test_nothing_is_split_into_nothing():
    assert components.split_components([], (4, 6)) == []
    assert components.split_components([_text(np.zeros((4, 6)))], (4, 6)) == [[]]


def test_no_mask_paints_nothing():
    assert not label_map.paint_label_map([], [], (3, 5)).any()
    assert label_map.paint_label_map([_text(np.ones((3, 5)))], [7], (3, 5)).min() == 7


@given(region_maps())
@settings(max_examples=300)
def test_edges_fill_to_the_mask_without_holes_in_pycocotools(regions):
    mask = (regions == regions.max()).astype(np.uint8)
    height, width = mask.shape
    outline = outlines.trace(mask, "edges")
    corners = [ring.ravel().tolist() for ring in outline.contours]
    drawn = coco_mask.merge(coco_mask.frPyObjects(corners, height, width))
    filled = _without_holes(mask)
    np.testing.assert_array_equal(coco_mask.decode(drawn), filled)
    assert len(outline.contours) == cv2.connectedComponents(mask, connectivity=8)[0] - 1
    assert (outline.num_holes == 0) == bool((filled == mask).all())
    assert decode_rle(_text(mask), mask.shape).sum() <= filled.sum()


@given(region_maps())
@settings(max_examples=300)
def test_centres_fill_to_the_mask_without_holes_in_opencv(regions):
    mask = (regions == regions.max()).astype(np.uint8)
    drawn = np.zeros_like(mask)
    for ring in outlines.trace(mask, "centres").contours:
        cv2.fillPoly(drawn, [ring.astype(np.int32)], 1)
    np.testing.assert_array_equal(drawn, _without_holes(mask))
