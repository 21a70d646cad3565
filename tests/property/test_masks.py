"""Laws that hold for any map: run lengths equal pycocotools', resizes equal PyTorch's."""

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch.nn import functional

from ovseg_core.decision.segments import cut_segments
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.images.resize.nearest import nearest_counts, to_size
from ovseg_core.rle.encode import decode_rle, encode_rle, transpose
from tests.helpers import slow_segments

SIDE = st.integers(1, 40)


@st.composite
def region_maps(draw: st.DrawFn) -> np.ndarray:
    """Noise or blocks, also constant and one pixel wide."""
    height, width, cell = draw(SIDE), draw(SIDE), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = rng.integers(0, draw(st.integers(1, 6)), (height // cell + 1, width // cell + 1))
    return np.kron(coarse, np.ones((cell, cell), int))[:height, :width].astype(np.uint16)


def _pycocotools(mask: np.ndarray) -> tuple[str, int, tuple[float, ...]]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return (
        rle["counts"].decode(),
        int(coco_mask.area(rle)),
        tuple(coco_mask.toBbox(rle).tolist()),
    )


@given(region_maps(), SIDE, SIDE)
@settings(max_examples=300)
def test_run_lengths_equal_pycocotools_at_any_size(regions, height, width):
    full = to_size(regions, (height, width))
    found = encode_rle(regions, (height, width))
    assert list(found) == [value for value in np.unique(full).tolist() if value]
    for value, rle in found.items():
        expected = _pycocotools(full == value)
        assert (rle.counts, rle.area_px, rle.bbox_xywh) == expected
        np.testing.assert_array_equal(decode_rle(rle.counts, (height, width)), full == value)


@given(region_maps())
@settings(max_examples=50)
def test_transpose_is_its_own_inverse(regions):
    turned = transpose(regions)
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, regions.T)


@given(
    st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=3),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 90),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=100)
def test_bands_of_a_mean_map_equal_the_mean_of_interpolate(sizes, size, band, seed):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.rand((3, *hw), generator=generator) for hw in sizes]
    mean = MeanMap(levels, size)
    bands = [slice(start, min(start + band, size[0])) for start in range(0, size[0], band)]
    ours = torch.cat([mean.rows(rows) for rows in bands], dim=1)
    alone = MeanMap(levels, size)
    torch.testing.assert_close(
        torch.cat([alone.few_rows(rows) for rows in bands], dim=1), ours, rtol=0, atol=0
    )
    rows, columns = torch.arange(0, size[0], 3), torch.arange(0, size[1], 2)
    crossed = mean.at(rows, columns).float()
    torch.testing.assert_close(crossed, ours[:, rows][:, :, columns], rtol=0, atol=2e-6)
    theirs = sum(functional.interpolate(level[None], size, mode="bilinear")[0] for level in levels)
    torch.testing.assert_close(ours, theirs / len(levels), rtol=0, atol=2e-6)


@given(SIDE, SIDE, st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31 - 1))
@settings(max_examples=200)
def test_nearest_counts_make_canvas_means_full_size_means(
    height, width, out_height, out_width, seed
):
    values = np.random.default_rng(seed).random((height, width))
    rows, columns = nearest_counts(height, out_height), nearest_counts(width, out_width)
    mean = rows @ values @ columns / (out_height * out_width)
    np.testing.assert_allclose(mean, to_size(values, (out_height, out_width)).mean(), rtol=1e-9)


@given(region_maps(), st.integers(0, 30), st.integers(0, 30))
@settings(max_examples=200)
def test_component_counts_do_not_change_with_enlargement(regions, more_rows, more_columns):
    height, width = regions.shape
    full = to_size(regions, (height + more_rows, width + more_columns))
    small, large = cut_segments(regions, "class"), cut_segments(full, "class")
    np.testing.assert_array_equal(small.num_components, large.num_components)
    for label, count in zip(large.labels[1:], large.num_components[1:], strict=True):
        found, _ = cv2.connectedComponents((full == label).astype(np.uint8), connectivity=8)
        assert count == found - 1


@given(region_maps(), st.sampled_from(["class", "components"]))
@settings(max_examples=200)
def test_segments_equal_those_cut_label_by_label(regions, mode):
    cut = cut_segments(regions, mode)
    numbers, labels, num_components = slow_segments.cut_segments(regions, mode)
    np.testing.assert_array_equal(cut.numbers, numbers)
    assert (cut.labels.tolist(), cut.num_components.tolist()) == (labels, num_components)
    rows, columns = np.indices(regions.shape).reshape(2, -1)
    np.testing.assert_array_equal(cut.at(rows, columns, regions), numbers.ravel())


@given(region_maps())
@settings(max_examples=100)
def test_components_partition_their_labels(regions):
    whole = cut_segments(regions, "components")
    np.testing.assert_array_equal(whole.labels[whole.numbers], regions)
    first = [np.flatnonzero(whole.numbers.ravel() == n)[0] for n in range(1, len(whole.labels))]
    order = list(zip(whole.labels[1:].tolist(), first, strict=True))
    assert order == sorted(order)
