"""Label map -> segments: one for each label, or one for each connected component."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SegmentMap:
    """A label map cut into N segments."""

    numbers: NDArray[np.integer]
    """(Hc, Wc) segment numbers from 1, by label, then by first pixel; 0 is background."""
    labels: NDArray[np.int64]
    """(N + 1,) label of each segment; entry 0 is background."""
    num_components: NDArray[np.int64]
    """(N + 1,) connected components of each segment."""


def cut_segments(label_map: NDArray[np.uint16], mode: Literal["class", "components"]) -> SegmentMap:
    """Cut a label map into segments.

    The map may be any size of which the image's own is a nearest enlargement: repeating rows and
    columns neither joins nor parts components, so the numbers hold at full size.

    Args:
        label_map: (Hc, Wc); 0 is background.
        mode: `class`: a segment for each label present; `components`: one for each of its
            connected components (8-neighbourhood).
    """
    labels, num_components = [0], [0]
    numbers = np.zeros(label_map.shape, np.int32)
    for label, box in _label_boxes(label_map).items():
        inside = label_map[box] == label
        count, components = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
        found = count - 1
        if mode == "class":
            numbers[box][inside] = len(labels)
            labels.append(label)
            num_components.append(found)
        else:
            numbers[box][inside] = _in_reading_order(components[inside], found) + len(labels)
            labels += [label] * found
            num_components += [1] * found
    return SegmentMap(numbers, np.array(labels), np.array(num_components))


def _label_boxes(label_map: NDArray[np.uint16]) -> dict[int, tuple[slice, slice]]:
    """Return the tight box (rows, columns) of every label present, ascending."""
    boxes: dict[int, tuple[slice, slice]] = {}
    for label in np.flatnonzero(np.bincount(label_map.ravel())).tolist():
        if label:
            x, y, width, height = cv2.boundingRect((label_map == label).view(np.uint8))
            boxes[label] = slice(y, y + height), slice(x, x + width)
    return boxes


def _in_reading_order(components: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Number components (1..count, pixels in reading order) from 0 by their first pixel."""
    first = np.empty(count + 1, np.int64)
    backwards = np.arange(len(components) - 1, -1, -1)
    first[components[::-1]] = backwards  # the last write is the first pixel
    rank = np.empty(count + 1, np.int32)
    rank[1 + np.argsort(first[1:])] = np.arange(count, dtype=np.int32)
    return rank[components]
