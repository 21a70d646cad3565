"""Score columns of a large canvas from a bounded number of its pixels.

The canvas is cut into square blocks. Blocks that hold rim pixels (those with a 4-neighbour of
another label), their neighbours, and blocks whose values differ much from those of the next one are
halved; so are, down to single pixels, the parts that hold rim pixels. What is not halved is sampled
at the pixel in its middle. So rims and what is small are computed at their own pixels, and a sample
stands for as many pixels of its segment as its block has (docs/methods.md 14.2).

Shapes: Q phrases, K classes, H W pixels, n m nodes, r c blocks along the rows and the columns, N
samples, V columns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.decision.cells import Cells
from ovseg_core.decision.values import columns_of

SAMPLED_FROM_PX = 1 << 20
"""A canvas of no more pixels is computed at all of them."""
_MAX_BLOCKS = 1 << 19
"""Before any is halved."""
_MAX_STEP = 0.05
"""Blocks whose values differ by more from those of the next one are halved."""


@dataclass(frozen=True)
class Samples:
    """The pixels that stand for all of a canvas; their values are in the `Decision`."""

    rows: NDArray[np.int64]
    """(N,) row of each."""
    columns: NDArray[np.int64]
    weights: NDArray[np.float32]
    """(N,) how many pixels each stands for."""
    is_rim: NDArray[np.bool_]
    """(N,) whether it has a 4-neighbour of another label; every pixel that has is a sample."""


@dataclass(frozen=True)
class Field:
    """What is sampled: scores at the nodes of their cells, and what becomes of them.

    Attributes:
        scores: of the phrases.
        objectness: in the same way, one map; None: none.
        probabilities: scores (Q, r, c), used up, and objectness (r, c) -> probabilities (K, r, c)
            and their entropy in nats (r, c).
        max_elements: scores (Q, samples) computed at once.
    """

    scores: Cells
    objectness: Cells | None
    probabilities: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
    max_elements: int


@dataclass(frozen=True)
class SampledColumns:
    """The samples, their values and the probabilities of the classes; see `Decision`."""

    samples: Samples
    values: Tensor
    """(3 or 4, N) confidence, margin, entropy, objectness."""
    class_mean_prob: Tensor
    class_max_prob: Tensor


def block_side(num_pixels: int) -> int:
    """Return the side of the blocks of a canvas, a power of two from 2 on."""
    side = 2
    while side * side * _MAX_BLOCKS < num_pixels:
        side *= 2
    return side


def sample_columns(field: Field, labels_HW: Tensor, side: int) -> SampledColumns:
    """Return the values of the samples of a decided canvas, and the probabilities of the classes.

    Args:
        field: what is sampled.
        labels_HW: final labels.
        side: of the largest blocks, a power of two from 2 on.
    """
    maps = _Maps(field)
    rim_HW = _rim(labels_HW)
    rim = _Places(*rim_HW.nonzero().T)
    values_Vrc, mean_prob, max_prob = _at_middles(maps, labels_HW, side)
    is_cut_rc = _with_neighbours(_holds(rim, side, labels_HW)) | _are_steep(values_Vrc)
    whole = _Places(*(~is_cut_rc).nonzero().T)
    blocks = _cut_blocks(_Places(*is_cut_rc.nonzero().T), rim, side, labels_HW)
    parts = [_middles(*one, labels_HW) for one in [(whole, side), *blocks]]
    row, column, weight = (torch.cat(values) for values in zip(*parts, strict=True))
    small = _Places(row[len(whole.row) :], column[len(whole.row) :])
    of_whole = values_Vrc.flatten(1).index_select(1, whole.in_order(is_cut_rc))
    is_rim = rim_HW.view(-1).index_select(0, _Places(row, column).in_order(labels_HW))
    samples = Samples(*(values.cpu().numpy() for values in (row, column, weight, is_rim)))
    values_VN = torch.cat([of_whole, _at_pixels(maps, small, labels_HW)], dim=1)
    return SampledColumns(samples, values_VN, mean_prob, max_prob)


class _Places(NamedTuple):
    """Pixels or blocks (N,), by their row and column among those of the canvas."""

    row: Tensor
    column: Tensor

    def in_order(self, array_HW: Tensor) -> Tensor:
        """Return their numbers in an array, row-major."""
        return self.row * array_HW.shape[1] + self.column

    def select(self, which: Tensor) -> "_Places":
        """Return some of them, by a mask."""
        chosen = which.nonzero()[:, 0]
        return _Places(self.row.index_select(0, chosen), self.column.index_select(0, chosen))


def _rim(labels_HW: Tensor) -> Tensor:
    """Return which pixels have a 4-neighbour of another label."""
    rim_HW = torch.zeros_like(labels_HW, dtype=torch.bool)
    across, along = labels_HW[1:] != labels_HW[:-1], labels_HW[:, 1:] != labels_HW[:, :-1]
    rim_HW[1:] |= across
    rim_HW[:-1] |= across
    rim_HW[:, 1:] |= along
    rim_HW[:, :-1] |= along
    return rim_HW


def _holds(pixels: _Places, side: int, canvas_HW: Tensor) -> Tensor:
    """Return which blocks (r, c) hold any of some pixels."""
    shape = -(-canvas_HW.shape[0] // side), -(-canvas_HW.shape[1] // side)
    held = torch.zeros(shape, dtype=torch.bool, device=canvas_HW.device)
    held.view(-1)[_Places(pixels.row // side, pixels.column // side).in_order(held)] = True
    return held


def _with_neighbours(is_block_rc: Tensor) -> Tensor:
    """Return some blocks and the 8 around each: near a rim, values bend most."""
    for axis in (0, 1):
        wider = is_block_rc.clone()
        count = is_block_rc.shape[axis] - 1
        wider.narrow(axis, 1, count).logical_or_(is_block_rc.narrow(axis, 0, count))
        wider.narrow(axis, 0, count).logical_or_(is_block_rc.narrow(axis, 1, count))
        is_block_rc = wider
    return is_block_rc


def _are_steep(values_Vrc: Tensor) -> Tensor:
    """Return which blocks (r, c) differ much from the next one in any value."""
    steep_rc = torch.zeros_like(values_Vrc[0], dtype=torch.bool)
    for axis in (0, 1):
        steps = values_Vrc.diff(dim=axis + 1).abs_().amax(0) > _MAX_STEP
        count = steps.shape[axis]
        steep_rc.narrow(axis, 0, count).logical_or_(steps)
        steep_rc.narrow(axis, 1, count).logical_or_(steps)
    return steep_rc


def _cut_blocks(
    blocks: _Places, rim: _Places, side: int, canvas_HW: Tensor
) -> Iterator[tuple[_Places, int]]:
    """Yield the parts of some blocks, and their side.

    Args:
        blocks: to be halved.
        rim: pixels; parts that hold any of them are halved again.
        side: of the blocks.
        canvas_HW: any array of the canvas.
    """
    quarter = torch.arange(4, device=canvas_HW.device)
    height, width = canvas_HW.shape
    while side > 1:
        side //= 2
        row = (blocks.row[:, None] * 2 + quarter // 2).flatten()
        column = (blocks.column[:, None] * 2 + quarter % 2).flatten()
        blocks = _Places(row, column)
        if height % (2 * side) or width % (2 * side):
            blocks = blocks.select((row * side < height) & (column * side < width))
        if side == 1:
            yield blocks, side
            return
        held = _holds(rim, side, canvas_HW)
        is_cut = held.view(-1).index_select(0, blocks.in_order(held))
        yield blocks.select(~is_cut), side
        blocks = blocks.select(is_cut)


def _middles(blocks: _Places, side: int, canvas_HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return row and column of the middle of each block, and how many pixels it has."""
    if side == 1:
        return blocks.row, blocks.column, torch.ones(len(blocks.row), device=canvas_HW.device)
    (row, tall), (column, wide) = (
        _middle(block, side, num_pixels)
        for block, num_pixels in zip(blocks, canvas_HW.shape, strict=True)
    )
    return row, column, (tall * wide).float()


def _middle(block: Tensor, side: int, num_pixels: int) -> tuple[Tensor, Tensor]:
    """Return the middle pixel of blocks along an axis, and how many pixels they have there.

    Of two pixels in the middle the first and the second are taken in turn.
    """
    extent = (num_pixels - block * side).clamp(max=side)
    return block * side + (extent - 1 + block % 2) // 2, extent


def _at_middles(maps: "_Maps", labels_HW: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values (V, r, c) in the middles of all blocks, and mean and highest probs (K)."""
    (rows, heights), (columns, widths) = (
        _middle(torch.arange(-(-num_pixels // side), device=labels_HW.device), side, num_pixels)
        for num_pixels in labels_HW.shape
    )
    labels_rc = labels_HW[rows][:, columns]
    # A class is likeliest between the samples where a score has its kink: at a node.
    all_rows, all_columns = (
        torch.cat(pixels) for pixels in zip((rows, columns), maps.nodes, strict=True)
    )
    parts, most = [], torch.zeros((), device=labels_HW.device)
    total = torch.zeros((), dtype=torch.float64, device=labels_HW.device)
    for start, probs, entropy, objectness in maps.grid(all_rows, all_columns):
        most = torch.maximum(most, probs.flatten(1).amax(1))
        some = slice(start, min(start + probs.shape[1], len(rows)))
        if some.start >= some.stop:
            continue
        inside = slice(some.stop - some.start), slice(len(columns))
        probs, shown = probs[:, *inside], None if objectness is None else objectness[inside]
        total = total + (probs @ widths.float()).double() @ heights[some].double()
        parts.append(columns_of(probs, entropy[inside], labels_rc[some], shown))
    return torch.cat(parts, dim=1), total / labels_HW.numel(), most.clamp(0, 1)


def _at_pixels(maps: "_Maps", pixels: _Places, labels_HW: Tensor) -> Tensor:
    """Return the values (V, N) at some pixels."""
    labels = labels_HW.view(-1).index_select(0, pixels.in_order(labels_HW))
    parts = [torch.empty(maps.num_values, 0, device=labels.device)]
    for some, probs, entropy, objectness in maps.points(*pixels):
        parts.append(columns_of(probs, entropy, labels[some][None], objectness)[:, 0])
    return torch.cat(parts, dim=1)


class _Maps:
    """Probabilities, their entropy and objectness at any pixels of a canvas."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._maps = [_Nodes(cells) for cells in (field.scores, field.objectness) if cells]
        self._max_points = max(field.max_elements // len(field.scores.scores_Qnm), 1)
        self.num_values = 2 + len(self._maps)

    @property
    def nodes(self) -> tuple[Tensor, Tensor]:
        """Pixels at the nodes of the scores along the rows and the columns."""
        return self._maps[0].pixels

    def grid(
        self, rows: Tensor, columns: Tensor
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor | None]]:
        """Yield a grid some rows at a time: the first; probabilities, entropy, objectness."""
        wide = [nodes.wide(columns) for nodes in self._maps]
        step = max(self._max_points // len(columns), 1)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            found = [nodes.rows_of(one, some) for nodes, one in zip(self._maps, wide, strict=True)]
            yield start, *self._probabilities(found)

    def points(
        self, rows: Tensor, columns: Tensor
    ) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        """Yield pixels some at a time: which; probabilities, entropy, objectness, of one row."""
        for start in range(0, len(rows), self._max_points):
            some = slice(start, start + self._max_points)
            found = [nodes.points(rows[some], columns[some])[:, None] for nodes in self._maps]
            yield some, *self._probabilities(found)

    def _probabilities(self, found: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        objectness = found[1][0] if len(found) > 1 else None
        return *self._field.probabilities(found[0], objectness), objectness


class _Nodes:
    """A map between its nodes."""

    def __init__(self, cells: Cells) -> None:
        self._scores_Qnm = cells.scores_Qnm.float()
        self._scores_NQ = self._scores_Qnm.flatten(1).T.contiguous()
        device = self._scores_Qnm.device
        axes = cells.rows, cells.columns
        self.pixels = axes[0].nodes.to(device), axes[1].nodes.to(device)
        self._cell, self._next = [], []
        for axis in axes:
            cell = axis.cell.to(device)
            self._cell.append(cell)
            self._next.append((cell + 1).clamp(max=len(axis.nodes) - 1))
        self._weight = [axis.weight.float().to(device) for axis in axes]

    def _between(self, axis: int, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nodes before and after pixels of an axis, and the weight of the latter."""
        return self._cell[axis][pixels], self._next[axis][pixels], self._weight[axis][pixels]

    def wide(self, columns: Tensor) -> Tensor:
        """Return the maps at some columns (Q, n, c)."""
        low, high, weight = self._between(1, columns)
        lines = self._scores_Qnm.flatten(0, 1)
        wide = lines.index_select(1, low).lerp_(lines.index_select(1, high), weight)
        return wide.unflatten(0, self._scores_Qnm.shape[:2])

    def rows_of(self, wide_Qnc: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of maps (Q, r, c)."""
        low, high, weight = self._between(0, rows)
        near = slice(int(low.min()), int(high.max()) + 1)
        matrix = torch.zeros(len(rows), near.stop - near.start, device=rows.device)
        matrix.scatter_(1, (low - near.start)[:, None], 1 - weight[:, None])
        matrix.scatter_add_(1, (high - near.start)[:, None], weight[:, None])
        return matrix @ wide_Qnc[:, near]

    def points(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the maps at pixels (Q, N)."""
        upper, lower, down = self._between(0, rows)
        left, right, aside = self._between(1, columns)
        num_columns = self._scores_Qnm.shape[2]

        def along(row: Tensor) -> Tensor:
            first, second = (
                self._scores_NQ.index_select(0, row * num_columns + one) for one in (left, right)
            )
            return first.lerp_(second, aside[:, None])

        return along(upper).lerp_(along(lower), down[:, None]).T.contiguous()
