"""A map of numbers -> its runs down the columns, on the canvas or at the image's size.

One pass over the map finds where the number changes on the way down a column. Segments, components,
areas, boxes and run lengths all follow from the runs, of which there are some thousand, and not
from the pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW, nearest_counts, nearest_source

Ints = NDArray[np.int64]


class MapRuns(NamedTuple):
    """All runs of a map (H, W), each within one column, by column and row."""

    value: NDArray[np.integer]
    """The number in the map."""
    start: Ints
    """First pixel, counted down the columns: `column * H + row`."""
    stop: Ints
    """The pixel after the last one."""

    def select(self, which: NDArray[np.bool_ | np.int64]) -> "MapRuns":
        """Return some of the runs, by a mask or by their places."""
        return MapRuns(self.value[which], self.start[which], self.stop[which])


def map_runs(values: NDArray[np.integer]) -> MapRuns:
    """Return the runs of a map (H, W) with at least one pixel."""
    height, width = values.shape
    changes = np.flatnonzero(values[1:] != values[:-1])
    # Whole rows are compared, as they lie in memory; the few places found are sorted afterwards.
    row, column = np.divmod(changes, width)
    start = np.concatenate([np.arange(width) * height, column * height + row + 1])
    start.sort()
    column, row = np.divmod(start, height)
    return MapRuns(values[row, column], start, np.append(start[1:], height * width))


def runs_at_size(runs: MapRuns, canvas_hw: SizeHW, size_hw: SizeHW) -> MapRuns:
    """Return the runs of a map after its nearest resize, `floor(i * in / out)`.

    Args:
        runs: of the map on its canvas.
        canvas_hw: size of the canvas.
        size_hw: size of the result.
    """
    if canvas_hw == size_hw:
        return runs
    row_counts = nearest_counts(canvas_hw[0], size_hw[0])
    new_row = np.append(0, np.cumsum(row_counts))
    column = runs.start // canvas_hw[0]
    top = column * canvas_hw[0]
    first, last = new_row[runs.start - top], new_row[runs.stop - top]
    if not row_counts.all():
        left = np.flatnonzero(last > first)
        runs, column, first, last = runs.select(left), column[left], first[left], last[left]
    # Each new column has the runs of the one that it repeats.
    num_runs = np.bincount(column, minlength=canvas_hw[1])
    source = nearest_source(canvas_hw[1], size_hw[1])
    copies = num_runs[source]
    before = np.cumsum(copies) - copies
    begin = (np.cumsum(num_runs) - num_runs)[source]
    of_run = np.repeat(begin - before, copies) + np.arange(int(copies.sum()))
    top = np.repeat(np.arange(size_hw[1]) * size_hw[0], copies)
    return MapRuns(runs.value[of_run], top + first[of_run], top + last[of_run])
