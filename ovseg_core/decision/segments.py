"""Label map -> segments: one for each label, or one for each connected component.

All of it follows from the runs of the label map (`rle.map_runs`), in one pass for all labels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.components import component_numbers
from ovseg_core.rle.encode import transpose
from ovseg_core.rle.map_runs import Ints, MapRuns, map_runs


@dataclass(frozen=True)
class SegmentMap:
    """A label map cut into N segments."""

    runs: MapRuns
    """Runs of the segment numbers on the canvas. Numbers are from 1, by label, then by first pixel;
    0 is background."""
    canvas_hw: SizeHW
    labels: Ints
    """(N + 1,) label of each segment; entry 0 is background."""
    num_components: Ints
    """(N + 1,) connected components of each segment."""
    of_label: NDArray[np.int32] | None
    """The segment of each label; None where a label may have several."""

    @property
    def numbers(self) -> NDArray[np.integer]:
        """(Hc, Wc) segment number of every pixel."""
        height, width = self.canvas_hw
        by_column = np.repeat(self.runs.value, self.runs.stop - self.runs.start)
        return transpose(by_column.reshape(width, height))

    def at(self, rows: Ints, columns: Ints, label_map: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the segment numbers of some pixels of the label map."""
        if self.of_label is not None:
            return self.of_label[label_map[rows, columns]]
        places = columns * self.canvas_hw[0] + rows
        return self.runs.value[np.searchsorted(self.runs.start, places, side="right") - 1]


def cut_segments(
    label_map: NDArray[np.integer], mode: Literal["class", "components"]
) -> SegmentMap:
    """Cut a label map into segments.

    The map may be any size of which the image's own is a nearest enlargement: repeating rows and
    columns neither joins nor parts components, so the numbers hold at full size.

    Args:
        label_map: (Hc, Wc); 0 is background.
        mode: `class`: a segment for each label present; `components`: one for each of its
            connected components (8-neighbourhood).
    """
    canvas_hw = (label_map.shape[0], label_map.shape[1])
    runs = map_runs(label_map)
    inside = np.flatnonzero(runs.value)
    inside = inside[np.argsort(runs.value[inside], kind="stable")]
    label = runs.value[inside].astype(np.int64)
    component, component_labels = component_numbers(
        runs.start[inside], runs.stop[inside], label, canvas_hw
    )
    counts = np.bincount(component_labels)
    if mode == "components":
        number, labels = component + 1, component_labels
        num_components = np.ones(len(labels), np.int64)
    else:
        labels = np.flatnonzero(counts)
        number, num_components = np.searchsorted(labels, label) + 1, counts[labels]
    numbers = np.zeros(len(runs.value), np.int32)
    numbers[inside] = number
    of_label = None
    if mode == "class":
        of_label = np.zeros(int(label.max(initial=0)) + 1, np.int32)
        of_label[labels] = np.arange(1, len(labels) + 1)
    return SegmentMap(
        runs=runs._replace(value=numbers),
        canvas_hw=canvas_hw,
        labels=np.append(0, labels),
        num_components=np.append(0, num_components),
        of_label=of_label,
    )
