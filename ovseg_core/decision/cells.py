"""Label map of a large canvas, cell by cell instead of pixel by pixel.

Enlarged scores are bilinear between the patches that they come from. Inside a cell of such a grid
every pixel's scores are convex combinations of those at the cell's four corners: a phrase that
leads at all four leads everywhere, and one that another beats at all four can win nowhere. So most
cells need the scores of their corners only, and the others those of two or three phrases. Where
two phrases are so close that rounding decides, the pixel's whole band is computed as
`decision.bands` does, so that the label map is the same, bit by bit.

Shapes: Q phrases, n m nodes (corners of cells) along the rows and the columns, C cells that are not
decided by their corners, H W pixels of the canvas.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.images.resize.stitching import StitchedMap

_KINK = 2e-5
"""A larger second difference of weights ends a straight piece; below lies rounding of positions."""
_MAX_WEIGHTS = 1 << 22
_MIN_PIXELS_PER_NODE = 4
_MAX_RESIDUAL = 1e-3
_ROUNDING = 2.0**-24
"""Of one float32 operation, relative to the largest score."""
_CHUNK_CELLS = 1 << 11


@dataclass(frozen=True)
class Axis:
    """One axis of a canvas, cut into cells where the weights of patches are linear in the pixel.

    Attributes:
        nodes: int64 (n,) pixels at the ends of cells, ascending, from the first to the last pixel.
        cell: int64 (H,) number of the node at or before each pixel.
        weight: float64 (H,) of the next node: pixel = lerp(nodes[cell], nodes[cell + 1], weight).
        residual: bound on the error of that, as a share of the largest score.
    """

    nodes: Tensor
    cell: Tensor
    weight: Tensor
    residual: float

    @property
    def position(self) -> Tensor:
        """Float64 (H,) position of each pixel, counted in nodes."""
        return self.cell + self.weight


def cut_axis(weights_HP: Tensor, max_px: int) -> Axis:
    """Cut an axis into cells of at most `max_px` pixels, between one node and the next.

    Args:
        weights_HP: weight of each patch at each pixel, float32; rows sum to 1.
        max_px: largest distance of neighbouring nodes.
    """
    exact_HP = weights_HP.double()
    num_pixels = len(exact_HP)
    is_node = torch.zeros(num_pixels, dtype=torch.bool)
    is_node[0] = is_node[-1] = True
    if num_pixels > 2:
        bend = (exact_HP[:-2] - 2 * exact_HP[1:-1] + exact_HP[2:]).abs().amax(1)
        is_node[1:-1] = bend > _KINK
    ends = is_node.nonzero()[:, 0]
    length = ends.diff()
    parts = (length + max_px - 1) // max_px
    piece = torch.repeat_interleave(torch.arange(len(parts)), parts)
    part = torch.arange(len(piece)) - (parts.cumsum(0) - parts)[piece]
    nodes = torch.cat([ends[piece] + length[piece] * part // parts[piece], ends[-1:]])
    cell = torch.searchsorted(nodes, torch.arange(num_pixels), right=True) - 1
    low, high = nodes[cell], nodes[(cell + 1).clamp(max=len(nodes) - 1)]
    across = exact_HP[high] - exact_HP[low]
    # Least squares: it follows the rounding of the weights, of which there are two at most places.
    weight = ((exact_HP - exact_HP[low]) * across).sum(1) / across.square().sum(1).clamp(min=1e-30)
    weight.clamp_(0, 1)
    found = torch.lerp(exact_HP[low], exact_HP[high], weight[:, None])
    return Axis(nodes, cell, weight, float((exact_HP - found).abs().sum(1).max()))


@dataclass(frozen=True)
class Cells:
    """A score map at the corners of its cells.

    Attributes:
        rows: cells along the rows.
        columns: cells along the columns.
        scores_Qnm: float64 scores at the nodes.
        error: bound on how far the scores of `decision.bands` are from the bilinear ones of a cell.
    """

    rows: Axis
    columns: Axis
    scores_Qnm: Tensor
    error: float


def cells_of(
    scores: MeanMap | StitchedMap, canvas_hw: SizeHW, max_px: int, largest: float
) -> Cells | None:
    """Return the cells of a score map; None: it has no cells that are worth it.

    Args:
        scores: the map.
        canvas_hw: its size.
        max_px: largest side of a cell.
        largest: largest magnitude of a score.
    """
    rows_HP, columns_WP = scores.weights()
    if max(rows_HP.numel(), columns_WP.numel()) > _MAX_WEIGHTS:
        return None
    rows, columns = cut_axis(rows_HP, max_px), cut_axis(columns_WP, max_px)
    num_nodes = len(rows.nodes) * len(columns.nodes)
    if num_nodes * _MIN_PIXELS_PER_NODE > canvas_hw[0] * canvas_hw[1]:
        return None
    # Roundings of a score: each product of a weight, and what comes before and after.
    num_taps = sum(int((weights > 0).sum(1).max()) for weights in (rows_HP, columns_WP))
    residual = rows.residual + columns.residual + (num_taps + 2) * _ROUNDING
    if residual > _MAX_RESIDUAL:
        return None
    return Cells(rows, columns, scores.at(rows.nodes, columns.nodes), residual * largest)


@dataclass(frozen=True)
class Winners:
    """The labels of a canvas.

    Attributes:
        labels_HW: uint8, or int32 for more than 256 classes.
        close: int64 pixels, row-major, at which the two best are closer than rounding.
    """

    labels_HW: Tensor
    close: Tensor


def winners(cells: Cells, class_index_Q: Tensor, slack: float, num_classes: int) -> Winners:
    """Return the class of the phrase with the highest score at every pixel.

    Args:
        cells: of the phrases' scores.
        class_index_Q: class of each phrase.
        slack: two phrases of different classes whose scores differ by no more are close.
        num_classes: K.
    """
    kind = torch.uint8 if num_classes <= 256 else torch.int32
    nodes_Qnm = cells.scores_Qnm.float()
    own = class_index_Q[nodes_Qnm.max(0).indices]
    of_row, of_column = (axis.cell.to(own.device) for axis in (cells.rows, cells.columns))
    labels_HW = own.to(kind).index_select(1, of_column).index_select(0, of_row)
    # Where the worst corner of one phrase is above the best of another, this one cannot win.
    floor_nm = _over_corners(nodes_Qnm, torch.minimum).amax(0) - slack
    rival_Qnm = _over_corners(nodes_Qnm, torch.maximum) >= floor_nm
    close = [of_row[:0]]
    for row, column, phrase_RC, corners_RCcc in _contests(cells, rival_Qnm, slack):
        owner_RC = class_index_Q[phrase_RC]
        places, label, lead = _decide_pixels(cells, (row, column), corners_RCcc, owner_RC)
        labels_HW.view(-1).scatter_(0, places, label.to(kind))
        close.append(places[lead <= slack])
    return Winners(labels_HW, torch.cat(close).unique())


def _contests(
    cells: Cells, rival_Qnm: Tensor, slack: float
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield cells that their corners do not decide, and the phrases that can win a pixel in them.

    Yields:
        First nodes of cells along the rows and the columns (C), phrases and their scores at the
        corners (R, C, 2, 2).
    """
    found: dict[int, list[tuple[Tensor, ...]]] = {}
    rival_QN = rival_Qnm.flatten(1)
    some = (rival_QN.sum(0, dtype=torch.int32) > 1).nonzero()[:, 0]
    for which, rivals_RC, is_real_RC in _groups(rival_QN.index_select(1, some), growth=4):
        row, column = some[which] // rival_Qnm.shape[2], some[which] % rival_Qnm.shape[2]
        corners_RCcc = _corners(cells.scores_Qnm, rivals_RC, row, column)
        left_RC = _unbeaten(corners_RCcc.flatten(2), slack) & is_real_RC
        for part, left, _ in _groups(left_RC, growth=2):
            chosen = (left * len(row) + part).flatten()
            phrase_RC = rivals_RC.flatten()[chosen].view(left.shape)
            some_RCcc = corners_RCcc.flatten(0, 1).index_select(0, chosen)
            one = row[part], column[part], phrase_RC, some_RCcc.unflatten(0, left.shape)
            found.setdefault(len(left), []).append(one)
    for parts in found.values():
        rows, columns, phrases, corners = zip(*parts, strict=True)
        row, column = torch.cat(rows), torch.cat(columns)
        phrase_RC, corners_RCcc = torch.cat(phrases, 1), torch.cat(corners, 1)
        for start in range(0, len(row), _CHUNK_CELLS):
            some = slice(start, start + _CHUNK_CELLS)
            yield row[some], column[some], phrase_RC[:, some], corners_RCcc[:, some]


def _over_corners(nodes_Qnm: Tensor, pick: Callable[..., Tensor]) -> Tensor:
    """Return for each cell, named by its first node, the pick of its corners."""
    down = nodes_Qnm.clone()
    pick(nodes_Qnm[:, :-1], nodes_Qnm[:, 1:], out=down[:, :-1])
    both = down.clone()
    pick(down[..., :-1], down[..., 1:], out=both[..., :-1])
    return both


def _corners(scores_Qnm: Tensor, phrase_RC: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return scores of phrases (R, C, 2, 2) at the corners of cells; past the last node, it."""
    _, num_rows, num_columns = scores_Qnm.shape
    below, right = (row + 1).clamp(max=num_rows - 1), (column + 1).clamp(max=num_columns - 1)
    rows, columns = torch.stack([row, below], 1), torch.stack([column, right], 1)
    places_Ccc = rows[:, :, None] * num_columns + columns[:, None]
    places_RCcc = phrase_RC[:, :, None, None] * (num_rows * num_columns) + places_Ccc
    return scores_Qnm.flatten().index_select(0, places_RCcc.flatten()).view(places_RCcc.shape)


def _groups(rival_QC: Tensor, growth: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield cells with two rivals or more, those of about as many together.

    Cells of two rivals are most; those of many must not make their work longer.

    Args:
        rival_QC: which phrases are rivals in which cells.
        growth: how many times as many rivals the next group may have.

    Yields:
        Cells (C), their rivals in ascending order (R, C), so that ties go to the lowest index, and
        False where the last one is repeated (R, C).
    """
    cell, phrase = rival_QC.T.contiguous().nonzero().T
    count_C = cell.bincount(minlength=rival_QC.shape[1])
    first_C = count_C.cumsum(0) - count_C
    low, high, most = 1, 2, int(count_C.max()) if len(cell) else 0
    while low < most:
        which = ((count_C > low) & (count_C <= high)).nonzero()[:, 0]
        if len(which):
            step_R1 = torch.arange(min(high, most), device=cell.device)[:, None]
            last = count_C[which] - 1
            yield which, phrase[first_C[which] + torch.minimum(step_R1, last)], step_R1 <= last
        low, high = high, growth * high - 1


def _unbeaten(corners_RC4: Tensor, slack: float) -> Tensor:
    """Return which phrases (R, C) no other beats at all four corners."""
    unbeaten_RC = torch.ones(corners_RC4.shape[:2], dtype=torch.bool, device=corners_RC4.device)
    number_C = torch.arange(corners_RC4.shape[1], device=corners_RC4.device)
    for leader_C in corners_RC4.max(0).indices.T:
        unbeaten_RC &= (corners_RC4[leader_C, number_C] - corners_RC4).amin(2) <= slack
    return unbeaten_RC


def _decide_pixels(
    cells: Cells, node: tuple[Tensor, Tensor], corners_RCcc: Tensor, owner_RC: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Decide the pixels of some cells among a few phrases.

    Args:
        cells: all cells.
        node: first node of each cell along the rows and the columns (C).
        corners_RCcc: scores of the phrases at the corners.
        owner_RC: their classes.

    Returns:
        Row-major places of the pixels, some more than once; their classes; the lead of these over
        the other classes.
    """
    (rows_Cr, weight_Cr), (columns_Cc, weight_Cc) = (
        _pixels_of(axis, first)
        for axis, first in zip((cells.rows, cells.columns), node, strict=True)
    )
    width = len(cells.columns.cell)
    places = (rows_Cr[:, :, None] * width + columns_Cc[:, None]).flatten()

    def enlarged(corners_Ccc: Tensor) -> Tensor:
        upper, lower = (
            torch.lerp(corners_Ccc[:, side, :1], corners_Ccc[:, side, 1:], weight_Cc)
            for side in (0, 1)
        )
        return torch.lerp(upper[:, None], lower[:, None], weight_Cr[:, :, None])

    owner_RC11 = owner_RC[:, :, None, None]
    if len(owner_RC) == 2:
        ahead = enlarged(corners_RCcc[1] - corners_RCcc[0])
        label = torch.where(ahead > 0, owner_RC11[1], owner_RC11[0])
        lead = ahead.abs_().masked_fill_(owner_RC11[0] == owner_RC11[1], torch.inf)
        return places, label.flatten(), lead.flatten()
    best = enlarged(corners_RCcc[0])
    second, label = torch.full_like(best, -torch.inf), owner_RC11[0].expand_as(best)
    for corners_Ccc, owner_C11 in zip(corners_RCcc[1:], owner_RC11[1:], strict=True):
        score = enlarged(corners_Ccc)
        behind = torch.where(score > best, best, torch.maximum(second, score))
        second = torch.where(owner_C11 == label, second, behind)
        label = torch.where(score > best, owner_C11, label)
        best = torch.maximum(best, score)
    return places, label.flatten(), (best - second).flatten()


def _pixels_of(axis: Axis, node: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of cells (C, longest) and their weights; the last one is repeated."""
    nodes, weight = axis.nodes.to(node.device), axis.weight.to(node.device)
    last = torch.cat([nodes[1:] - 1, nodes[-1:]])[node]
    first = nodes[node]
    step = torch.arange(int((last - first).max()) + 1, device=node.device)
    pixels = torch.minimum(first[:, None] + step, last[:, None])
    return pixels, weight[pixels]
