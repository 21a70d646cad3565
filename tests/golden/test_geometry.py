"""Sizes, resized pixels and windows, against mmseg's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ovseg_core.dense.windows import window_boxes
from ovseg_core.images.resize.published_sizes import mmseg_size, resize_linear
from tests.golden import reference


def _sizes(short: str) -> NDArray[np.int64]:
    sizes = reference.tensors("geometry")["sizes_hw"].tolist()
    return np.array([mmseg_size((height, width), int(short)) for height, width in sizes])


def _pixels(image: str, short: str) -> NDArray[np.uint8]:
    pixels = reference.image(image)
    height, width = pixels.shape[1:]
    return resize_linear(pixels, mmseg_size((height, width), int(short))).permute(1, 2, 0).numpy()


def _windows() -> NDArray[np.int64]:
    geometry = reference.tensors("geometry")
    configs = geometry["window_crop_stride"].tolist()
    sizes = geometry["window_sizes_hw"].tolist()
    listed = dict.fromkeys(map(tuple, geometry["windows"][:, :2].tolist()))
    return np.array(
        [
            (config, size, *box)
            for config, size in listed
            for box in window_boxes(tuple(sizes[size]), *configs[config])
        ]
    )


def _given(name: str) -> NDArray[np.int64]:
    return reference.tensors("geometry")[name]


CHECKS = [
    (r"resized_hw\.short(?P<short>\d+)", _sizes),
    (r"pixels\.(?P<image>.+)_short(?P<short>\d+)", _pixels),
    (r"windows", _windows),
    (
        r"(?P<name>sizes_hw|window_crop_stride|window_sizes_hw)",
        _given,
    ),  # inputs of the others
]


@pytest.mark.parametrize("key", reference.keys("geometry"))
def test_sizes_pixels_and_windows_equal_mmsegs(key: str) -> None:
    ours = reference.computed(key, CHECKS)
    reference.assert_alike(ours, reference.tensors("geometry")[key])


def test_all_but_the_finest_windows_are_listed() -> None:
    geometry = reference.tensors("geometry")
    listed = set(map(tuple, geometry["windows"][:, :2].tolist()))
    configs, sizes = len(geometry["window_crop_stride"]), len(geometry["window_sizes_hw"])
    assert len(listed) > (configs - 1) * sizes
