"""Score columns of a large canvas from a bounded number of samples.

The canvas is cut into square blocks. A block inside one segment is sampled at its centre; one that
holds pixels at the rim of a segment is halved, again and again, down to single pixels. So small
segments and rims are computed at their own pixels, and large ones at some thousand points. The
second differences of neighbouring blocks say how the values bend inside a block: each whole block
gives two points whose mean is right to the third order; one that bends much is halved as well
(docs/methods.md 14.2).

Shapes: Q phrases, K classes, H W pixels, n m nodes, r c blocks along the rows and the columns.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_core.decision.cells import Cells
from ovseg_core.decision.values import columns_of

MAX_BLOCKS = 1 << 16
"""A canvas of more pixels is sampled, at first in at most this many blocks."""
_CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 24}
"""Scores (Q, samples) computed at once: they should stay in a CPU's cache, and fill a GPU."""
_MAX_BEND = 0.06
"""Larger second differences of a block and its neighbours, in both directions, halve it."""
_LOWEST_PEAK = 0.002
"""A class that is nowhere likelier is not searched for its highest probability."""


@dataclass(frozen=True)
class Samples:
    """The pixels that stand for all of a canvas; their values are in the `Decision`."""

    rows: NDArray[np.int64]
    """(N,) row of each; several samples may lie in one pixel."""
    columns: NDArray[np.int64]
    weights: NDArray[np.float32]
    """(N,) how many pixels each stands for."""
    num_rim: int
    """The first samples are all pixels that have a label and a 4-neighbour of another label."""


@dataclass(frozen=True)
class Field:
    """What is sampled: scores at the nodes of their cells, and what becomes of them.

    Attributes:
        scores: of the phrases.
        objectness: in the same way, one map; None: none.
        probabilities: scores (Q, r, c), used up, and objectness (r, c) -> probabilities (K, r, c),
            and their entropy in nats (r, c), where it is known.
    """

    scores: Cells
    objectness: Cells | None
    probabilities: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


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
    while side * side * MAX_BLOCKS < num_pixels:
        side *= 2
    return side


def sample_columns(field: Field, labels_HW: Tensor, side: int) -> SampledColumns:
    """Return the values of the samples of a decided canvas, and the probabilities of the classes.

    Args:
        field: what is sampled.
        labels_HW: final labels.
        side: of the largest blocks, a power of two from 2 on.
    """
    source = _Source(field, labels_HW.shape[0], labels_HW.shape[1])
    rim_HW = _rim(labels_HW)
    rim_row, rim_column = rim_HW.nonzero().T
    mixed_rc = _holds(rim_row, rim_column, side, rim_HW)
    peaks = _Peaks(source)
    blocks_Vrc, block_labels_rc, mean_prob = _whole_blocks(source, labels_HW, side, peaks)
    peaks.see_nodes()
    two_Vrc2, is_steep_rc = _two_points(blocks_Vrc, block_labels_rc, ~mixed_rc, side)
    mixed_rc |= is_steep_rc
    small = [
        _pixel_points(blocks, labels_HW, rim_HW) if size == 1 else _pairs(blocks, size, labels_HW)
        for size, blocks in _cut_blocks(mixed_rc, rim_HW, (rim_row, rim_column), side)
    ]
    small.reverse()  # the pixels first, and of these the rim
    whole = (~mixed_rc).nonzero()
    row, column = whole.T
    area = _extent(row * side, side, source.height) * _extent(column * side, side, source.width)
    halves = area.repeat(2).float() / 2

    def joined(of_small: Iterable[Tensor], of_blocks: Tensor) -> NDArray[Any]:
        return torch.cat([*of_small, of_blocks]).cpu().numpy()

    samples = Samples(
        rows=joined((points.rows for points in small), (row * side).repeat(2)),
        columns=joined((points.columns for points in small), (column * side).repeat(2)),
        weights=joined((points.weights for points in small), halves),
        num_rim=sum(points.num_rim for points in small),
    )
    values = [source.values_at(points) for points in small]
    values.append(two_Vrc2[:, row, column].transpose(1, 2).flatten(1))
    return SampledColumns(samples, torch.cat(values, 1), mean_prob, peaks.climbed(side))


class _Blocks(NamedTuple):
    """Square blocks of one size, by the first row and column of each."""

    rows: Tensor
    columns: Tensor


class _Points(NamedTuple):
    """Points of a canvas, with the first pixel of the block that each is in."""

    rows: Tensor
    columns: Tensor
    down: Tensor | None
    """Distance from the middle of that pixel, in pixels; None: no distance."""
    aside: Tensor | None
    labels: Tensor
    weights: Tensor
    num_rim: int = 0


def _rim(labels_HW: Tensor) -> Tensor:
    """Return which pixels have a 4-neighbour of another label."""
    rim_HW = torch.zeros_like(labels_HW, dtype=torch.bool)
    across, along = labels_HW[1:] != labels_HW[:-1], labels_HW[:, 1:] != labels_HW[:, :-1]
    rim_HW[1:] |= across
    rim_HW[:-1] |= across
    rim_HW[:, 1:] |= along
    rim_HW[:, :-1] |= along
    return rim_HW


def _holds(row: Tensor, column: Tensor, size: int, canvas_HW: Tensor) -> Tensor:
    """Return which blocks (r, c) hold any of some pixels."""
    shape = -(-canvas_HW.shape[0] // size), -(-canvas_HW.shape[1] // size)
    held = torch.zeros(shape, dtype=torch.bool, device=row.device)
    held.view(-1)[row // size * shape[1] + column // size] = True
    return held


def _cut_blocks(
    mixed_rc: Tensor, rim_HW: Tensor, rim: tuple[Tensor, Tensor], side: int
) -> Iterator[tuple[int, _Blocks]]:
    """Yield the parts of some blocks, by size: halves, and halves of these that hold a rim.

    Args:
        mixed_rc: the blocks.
        rim_HW: which pixels are at a rim.
        rim: their rows and columns.
        side: of the blocks.
    """
    height, width = rim_HW.shape
    row, column = mixed_rc.nonzero().T
    quarter = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]], device=rim_HW.device)
    size = side
    while size > 1:
        size //= 2
        row = (row[:, None] * 2 + quarter[0]).flatten()
        column = (column[:, None] * 2 + quarter[1]).flatten()
        if height % side or width % side:
            there = ((row * size < height) & (column * size < width)).nonzero()[:, 0]
            row, column = row[there], column[there]
        if size == 1:
            yield size, _Blocks(row, column)
            return
        mixed = _holds(*rim, size, rim_HW)[row, column]
        whole, halved = (~mixed).nonzero()[:, 0], mixed.nonzero()[:, 0]
        yield size, _Blocks(row[whole] * size, column[whole] * size)
        row, column = row[halved], column[halved]


def _pixel_points(pixels: _Blocks, labels_HW: Tensor, rim_HW: Tensor) -> _Points:
    """Return pixels as points, those of a rim first."""
    places = pixels.rows * labels_HW.shape[1] + pixels.columns
    is_rim = rim_HW.view(-1)[places] & (labels_HW.view(-1)[places] > 0)
    order = torch.cat([is_rim.nonzero()[:, 0], (~is_rim).nonzero()[:, 0]])
    return _Points(
        rows=pixels.rows[order],
        columns=pixels.columns[order],
        down=None,
        aside=None,
        labels=labels_HW.view(-1)[places[order]],
        weights=torch.ones(len(order), device=order.device),
        num_rim=int(is_rim.sum()),
    )


def _pairs(blocks: _Blocks, size: int, labels_HW: Tensor) -> _Points:
    """Return two points for each block, on alternating diagonals.

    Their mean is that over the block's pixels for any parabola along an axis.
    """
    tall = _extent(blocks.rows, size, labels_HW.shape[0])
    wide = _extent(blocks.columns, size, labels_HW.shape[1])
    turn = _alternating(blocks.rows // size, blocks.columns // size, crossed=False)
    down, aside = _spread(tall), _spread(wide) * turn
    middle, across = (tall - 1) / 2, (wide - 1) / 2
    labels = labels_HW.view(-1)[blocks.rows * labels_HW.shape[1] + blocks.columns]
    return _Points(
        rows=blocks.rows.repeat(2),
        columns=blocks.columns.repeat(2),
        down=torch.cat([middle - down, middle + down]),
        aside=torch.cat([across - aside, across + aside]),
        labels=labels.repeat(2),
        weights=(tall * wide / 2).repeat(2),
    )


def _alternating(row: Tensor, column: Tensor, *, crossed: bool = True) -> Tensor:
    """Return 1 or -1 as on a chessboard, float32; crossed: where all rows and columns cross."""
    number = row[:, None] + column if crossed else row + column
    return 1.0 - 2.0 * (number % 2)


def _spread(num_pixels: Tensor) -> Tensor:
    """Return the standard deviation of the pixels of blocks along an axis."""
    return ((num_pixels.float().square() - 1) / 12).sqrt()


def _extent(first: Tensor, size: int | Tensor, num_pixels: int) -> Tensor:
    """Return how many pixels of an axis blocks have that begin at `first`."""
    return (num_pixels - first).minimum(torch.as_tensor(size, device=first.device))


def _in_nodes(pixel: Tensor, shift: Tensor | None, axis_position: Tensor) -> Tensor:
    """Return where points are among the nodes of an axis.

    Args:
        pixel: int64 pixels.
        shift: distance from the middle of these, not negative; None: no distance.
        axis_position: where the middle of each pixel is.
    """
    if shift is None:
        return axis_position[pixel]
    low = shift.floor()
    first = pixel + low.long()
    begin, end = axis_position[first], axis_position[(first + 1).clamp(max=len(axis_position) - 1)]
    return torch.lerp(begin, end, shift - low)


class _Source:
    """The scores of any point of a canvas, between the nodes."""

    def __init__(self, field: Field, height: int, width: int) -> None:
        self.field, self.height, self.width = field, height, width
        scores = field.scores.scores_Qnm.float()
        self.num_phrases, self.device = len(scores), scores.device
        self.chunk = _CHUNK_ELEMENTS.get(self.device.type, _CHUNK_ELEMENTS["cpu"])
        self.chunk = max(self.chunk // len(scores), 1)
        self._maps = [_Nodes(field.scores)]
        if field.objectness is not None:
            self._maps.append(_Nodes(field.objectness))

    def grid(
        self, rows: Tensor, columns: Tensor, shifts: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield a grid a few rows at a time: which rows, scores (Q, r, c) and objectness (r, c)."""
        down, aside = shifts or (None, None)
        wide = [nodes.wide(_in_nodes(columns, aside, nodes.columns)) for nodes in self._maps]
        step = max(self.chunk // len(columns), 1)
        for start in range(0, len(rows), step):
            some = slice(start, min(start + step, len(rows)))
            found = [
                nodes.rows_of(
                    one, _in_nodes(rows[some], None if down is None else down[some], nodes.rows)
                )
                for nodes, one in zip(self._maps, wide, strict=True)
            ]
            yield some, found[0], found[1][0] if len(found) > 1 else None

    def points(
        self, rows: Tensor, columns: Tensor, down: Tensor | None, aside: Tensor | None
    ) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield points some at a time: which, scores (Q, 1, N) and objectness (1, N)."""
        places = [
            (_in_nodes(rows, down, nodes.rows), _in_nodes(columns, aside, nodes.columns))
            for nodes in self._maps
        ]
        for start in range(0, len(rows), self.chunk):
            some = slice(start, start + self.chunk)
            found = [
                nodes.points(row[some], column[some])[:, None]
                for nodes, (row, column) in zip(self._maps, places, strict=True)
            ]
            yield some, found[0], found[1][0] if len(found) > 1 else None

    def values_at(self, points: _Points) -> Tensor:
        """Return the values of the columns (V, N) at points."""
        num_values = 3 if self.field.objectness is None else 4
        values_VN = torch.empty(num_values, len(points.rows), device=self.device)
        for some, scores, objectness in self.points(*points[:4]):
            probs, surprise = self.field.probabilities(scores, objectness)
            found = columns_of(probs, points.labels[some][None], objectness, surprise)
            values_VN[:, some] = found[:, 0]
        return values_VN


class _Nodes:
    """A map between its nodes; positions are counted in nodes."""

    def __init__(self, cells: Cells) -> None:
        self._scores_Qnm = cells.scores_Qnm.float()
        self._scores_nmQ = self._scores_Qnm.permute(1, 2, 0).contiguous()
        device = self._scores_Qnm.device
        self.rows, self.columns = (
            axis.position.float().to(device) for axis in (cells.rows, cells.columns)
        )

    def wide(self, columns: Tensor) -> Tensor:
        """Return the maps at some columns (Q, n, c)."""
        low, high, weight = _between(columns, self._scores_Qnm.shape[2])
        lines = self._scores_Qnm.flatten(0, 1)
        wide = lines.index_select(1, low).lerp_(lines.index_select(1, high), weight)
        return wide.unflatten(0, self._scores_Qnm.shape[:2])

    def rows_of(self, wide_Qnc: Tensor, rows: Tensor) -> Tensor:
        """Return some rows of maps (Q, r, c)."""
        near, matrix = _row_matrix(rows, wide_Qnc.shape[1])
        return matrix @ wide_Qnc[:, near]

    def points(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the maps at points (Q, N)."""
        num_rows, num_columns, num_maps = self._scores_nmQ.shape
        upper, lower, down = _between(rows, num_rows)
        left, right, aside = _between(columns, num_columns)
        nodes = self._scores_nmQ.view(-1, num_maps)

        def along(row: Tensor) -> Tensor:
            first, second = (
                nodes.index_select(0, row * num_columns + one) for one in (left, right)
            )
            return first.lerp_(second, aside[:, None])

        return along(upper).lerp_(along(lower), down[:, None]).T.contiguous()


def _between(position: Tensor, num_nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nodes before and after positions, and the float32 weight of the latter."""
    low = position.long().clamp(max=max(num_nodes - 2, 0))
    return low, (low + 1).clamp(max=num_nodes - 1), (position - low).float()


def _row_matrix(rows: Tensor, num_nodes: int) -> tuple[slice, Tensor]:
    """Return the nodes near some positions, and the weights of the nodes for each position."""
    low, high, weight = _between(rows, num_nodes)
    near = slice(int(low.min()), int(high.max()) + 1)
    matrix = torch.zeros(len(rows), near.stop - near.start, device=rows.device)
    matrix.scatter_(1, (low - near.start)[:, None], 1 - weight[:, None])
    matrix.scatter_add_(1, (high - near.start)[:, None], weight[:, None])
    return near, matrix


def _whole_blocks(
    source: _Source, labels_HW: Tensor, side: int, peaks: "_Peaks"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (V, r, c) and labels (r, c) at the centres of blocks, and mean probs (K)."""
    rows, columns = (
        torch.arange(0, num_pixels, side, device=source.device)
        for num_pixels in (source.height, source.width)
    )
    labels_rc = labels_HW[rows][:, columns]
    heights, widths = (_extent(rows, side, source.height), _extent(columns, side, source.width))
    parts, total = [], torch.zeros((), dtype=torch.float64)
    for some, scores, objectness in source.grid(
        rows, columns, ((heights - 1) / 2, (widths - 1) / 2)
    ):
        probs, surprise = source.field.probabilities(scores, objectness)
        total = total.to(probs.device) + (probs @ widths.float()).double() @ heights[some].double()
        peaks.see(probs, rows[some], columns)
        parts.append(columns_of(probs, labels_rc[some], objectness, surprise))
    return torch.cat(parts, dim=1), labels_rc, total / (source.height * source.width)


def _two_points(
    values_Vrc: Tensor, labels_rc: Tensor, whole_rc: Tensor, side: int
) -> tuple[Tensor, Tensor]:
    """Return two values (V, r, c, 2) for each block, and which blocks bend too much for that.

    The mean of the two is that of a parabola through the neighbouring blocks, over the block's
    pixels.
    """
    slope_r, bend_r, known_r = _slope_and_bend(values_Vrc, labels_rc, whole_rc)
    slope_c, bend_c, known_c = (
        one.transpose(-1, -2)
        for one in _slope_and_bend(values_Vrc.transpose(1, 2), labels_rc.T, whole_rc.T)
    )
    squared = (1 - side**-2) / 12  # mean squared distance of a block's pixels from its centre
    middle = values_Vrc + (bend_r + bend_c) * (squared / 2)
    down, right = slope_r * squared**0.5, slope_c * squared**0.5
    turn = _alternating(*(torch.arange(n, device=down.device) for n in labels_rc.shape))
    two = [middle - down - turn * right, middle + down + turn * right]
    is_steep_rc = (bend_r.abs() + bend_c.abs()).amax(0) > _MAX_BEND
    is_steep_rc |= ~(known_r & known_c)
    return torch.stack(two, dim=-1).clamp_(0, 1), is_steep_rc & whole_rc


def _slope_and_bend(
    values_Vrc: Tensor, labels_rc: Tensor, whole_rc: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return first and second differences along the rows, from blocks of the same segment only.

    And whether there are three blocks in a row (r, c) to tell the second ones.
    """
    slope, bend = torch.zeros_like(values_Vrc), torch.zeros_like(values_Vrc)
    known = torch.zeros_like(whole_rc)
    if len(labels_rc) < 3:
        return slope, bend, known
    joined = (labels_rc[1:] == labels_rc[:-1]) & whole_rc[1:] & whole_rc[:-1]
    step = values_Vrc[:, 1:] - values_Vrc[:, :-1]
    step = step * joined
    three = joined[1:] & joined[:-1]
    curve = (step[:, 1:] - step[:, :-1]) * three
    # In the middle of three; else from the three that end or begin here, or none.
    bend[:, 1:-1] = curve
    known[1:-1] = three
    for here in (slice(0, -2), slice(2, None)):
        open_rc = ~known[here] & three
        bend[:, here] = torch.where(open_rc, curve, bend[:, here])
        known[here] |= open_rc
    ahead, behind = torch.zeros_like(whole_rc), torch.zeros_like(whole_rc)
    ahead[:-1], behind[1:] = joined, joined
    slope[:, :-1] += step
    slope[:, 1:] += step
    both = ahead & behind
    one_sided = behind.to(slope) - ahead.to(slope)
    return torch.where(both, slope / 2, slope + one_sided * bend / 2), bend, known


class _Peaks:
    """The highest probability of each class, and where it is."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._best = self._row = self._column = torch.empty(0)

    def see(self, probs_Krc: Tensor, rows: Tensor, columns: Tensor) -> None:
        """Take probabilities where some rows and columns cross."""
        if not len(self._best):
            self._best = probs_Krc.new_full((len(probs_Krc),), -1.0)
            self._row = rows.new_zeros(len(probs_Krc))
            self._column = self._row.clone()
        better = (probs_Krc.amax((1, 2)) > self._best).nonzero()[:, 0]
        best, place = probs_Krc[better].flatten(1).max(1)
        self._best[better] = best
        self._row[better] = rows[place // len(columns)]
        self._column[better] = columns[place % len(columns)]

    def see_nodes(self) -> None:
        """Take the pixels at the nodes, where probabilities have their kinks."""
        cells = self._source.field.scores
        rows, columns = (axis.nodes.to(self._best.device) for axis in (cells.rows, cells.columns))
        for some, scores, objectness in self._source.grid(rows, columns):
            self.see(self._source.field.probabilities(scores, objectness)[0], rows[some], columns)

    def climbed(self, side: int) -> Tensor:
        """Return the highest probabilities (K), after a search around the best places."""
        which = (self._best > _LOWEST_PEAK).nonzero()[:, 0]
        around = torch.arange(9, device=which.device)
        step = side
        while step > 1:
            step //= 2
            rows = self._row[which][:, None] + (around // 3 - 1) * step
            columns = self._column[which][:, None] + (around % 3 - 1) * step
            rows.clamp_(0, self._source.height - 1)
            columns.clamp_(0, self._source.width - 1)
            owner = which.repeat_interleave(9)
            found = [
                self._source.field.probabilities(scores, objectness)[0]
                .gather(0, owner[some][None, None])
                .flatten()
                for some, scores, objectness in self._source.points(
                    rows.flatten(), columns.flatten(), None, None
                )
            ]
            if not found:
                break
            best, turn = torch.cat(found).view(-1, 9).max(1)
            self._best[which] = torch.maximum(self._best[which], best)
            self._row[which] = rows.gather(1, turn[:, None])[:, 0]
            self._column[which] = columns.gather(1, turn[:, None])[:, 0]
        return self._best.clamp(0, 1)
