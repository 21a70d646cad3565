"""Label map -> segments: one per label, or one per connected region (8-neighbourhood)."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Regions:
    """A label map cut into regions."""

    regions: NDArray[np.integer]
    """(Hc, Wc) region numbers from 1, by label, then by first pixel; 0 is background."""
    labels: NDArray[np.int64]
    """(N + 1,) label of each region; entry 0 is background."""
    num_components: NDArray[np.int64]
    """(N + 1,) connected regions of each region's mask."""


def cut_regions(label_map: NDArray[np.uint16], mode: Literal["class", "components"]) -> Regions:
    """Cut a map into regions.

    The map may be any size of which the image's own is a nearest enlargement: repeating rows and
    columns neither joins nor parts regions, so the numbers hold at full size.
    """
    boxes = _label_boxes(label_map)
    labels, num_components = [0], [0]
    regions = np.zeros(label_map.shape, np.int32)
    for label, box in boxes.items():
        inside = label_map[box] == label
        count, components = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
        found = count - 1
        if mode == "class":
            regions[box][inside] = len(labels)
            labels.append(label)
            num_components.append(found)
        else:
            regions[box][inside] = _in_reading_order(components[inside], found) + len(labels)
            labels += [label] * found
            num_components += [1] * found
    return Regions(regions, np.array(labels), np.array(num_components))


def _label_boxes(label_map: NDArray[np.uint16]) -> dict[int, tuple[slice, slice]]:
    """Find the tight box (rows, columns) of every label present, ascending."""
    boxes: dict[int, tuple[slice, slice]] = {}
    for label in np.flatnonzero(np.bincount(label_map.ravel())).tolist():
        if label:
            x, y, width, height = cv2.boundingRect((label_map == label).view(np.uint8))
            boxes[label] = slice(y, y + height), slice(x, x + width)
    return boxes


def _in_reading_order(components: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Renumber components (1..count, pixels in reading order) from 0 by their first pixel."""
    first = np.empty(count + 1, np.int64)
    first[components[::-1]] = np.arange(
        len(components) - 1, -1, -1
    )  # the last write is the first pixel
    rank = np.empty(count + 1, np.int32)
    rank[1 + np.argsort(first[1:])] = np.arange(count, dtype=np.int32)
    return rank[components]
