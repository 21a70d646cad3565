"""A confusion matrix as a picture: for each true class the shares of its predicted classes.

Up to 32 classes are drawn with names and percentages. More classes are drawn small, and beside them
those that were confused most, with names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg_core.images.lettering import INK, PAPER, QUIET, TEXT_PX, font, shortened_text, text_width

RIGHT, WRONG = (25, 113, 60), (190, 30, 45)
"""Colours of a share of 1 on the diagonal, and off it."""
CELL_PX = 30
"""Side of a cell with a percentage."""
_AXES = "rows: truth, columns: predicted"
_GRID = (233, 236, 239)
_MARGIN_PX, _LINE_PX, _SMALL_TEXT_PX = 24, 20, 11
_MAX_NAMED = 32
"""Most classes that are drawn with names and percentages."""
_MAX_SHOWN = 24
"""Classes drawn with names where there are more."""
_OVERVIEW_PX = 900
_NAME_PX = 190
"""Longer names are cut."""
_FAINT = 0.005
"""Smaller shares stay blank."""


@dataclass(frozen=True)
class ConfusionShares:
    """For each true class, the shares of its pixels that were predicted as each class.

    Attributes:
        names: of the classes.
        cells: (K, K), 0 to 1; row: truth, column: prediction. A row sums to 1, or to 0 if the
            class does not occur.
    """

    names: tuple[str, ...]
    cells: NDArray[np.float64]

    def of_classes(self, classes: Sequence[int]) -> "ConfusionShares":
        """Return some of the classes; rows keep the shares that they have of all."""
        return ConfusionShares(
            tuple(self.names[index] for index in classes), self.cells[classes][:, classes]
        )


def draw_confusion(names: Sequence[str], counts: NDArray[np.int64]) -> Image.Image:
    """Draw a confusion matrix.

    Args:
        names: of all classes, background first.
        counts: (K, K) pixels; row: truth, column: prediction. Background is left out if it is
            in neither.
    """
    first = 0 if counts[0].any() or counts[:, 0].any() else 1
    counts = counts[first:, first:]
    totals = counts.sum(axis=1, keepdims=True)
    shares = ConfusionShares(tuple(names[first:]), counts / np.maximum(totals, 1))
    if len(shares.names) <= _MAX_NAMED:
        title = f"What each class was taken for ({_AXES}, in percent)"
        return _page([(title, draw_matrix(shares))])
    shown = shares.of_classes(sorted(most_confused(counts, _MAX_SHOWN)))
    title = f"All {len(shares.names)} classes ({_AXES}, in the vocabulary's order)"
    shown_title = f"Pairs most confused, both classes of each ({_AXES}, in percent)"
    return _page([(title, _draw_overview(shares)), (shown_title, draw_matrix(shown))])


def most_confused(counts: NDArray[np.int64], limit: int) -> list[int]:
    """Return the classes of the pairs with the most wrong pixels, at most `limit` classes."""
    wrong = counts * (1 - np.eye(len(counts), dtype=np.int64))
    found: dict[int, None] = {}
    for place in np.argsort(-wrong, axis=None, kind="stable"):
        pair = divmod(int(place), len(counts))
        if not wrong[pair] or len(found | dict.fromkeys(pair)) > limit:
            break
        found |= dict.fromkeys(pair)
    return list(found) or list(range(min(limit, len(counts))))


def _page(parts: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Return the pictures beside each other, each below its title."""
    titled = [(title, part, max(part.width, text_width(title))) for title, part in parts]
    width = sum(wide for *_, wide in titled) + (len(parts) + 1) * _MARGIN_PX
    height = max(part.height for _, part in parts) + _LINE_PX + 3 * _MARGIN_PX
    page = Image.new("RGB", (width, height), PAPER)
    pen, x = ImageDraw.Draw(page), _MARGIN_PX
    for title, part, wide in titled:
        pen.text((x, _MARGIN_PX), title, INK, font())
        page.paste(part, (x, 2 * _MARGIN_PX + _LINE_PX))
        x += wide + _MARGIN_PX
    return page


def _draw_overview(shares: ConfusionShares) -> Image.Image:
    """Draw a matrix without names or percentages."""
    cell_px = max(_OVERVIEW_PX // len(shares.names), 1)
    colours = _colours(shares.cells).repeat(cell_px, axis=0).repeat(cell_px, axis=1)
    picture = Image.fromarray(colours)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=QUIET)
    return picture


def draw_matrix(shares: ConfusionShares) -> Image.Image:
    """Draw a matrix with class names left of the rows and, upright, above the columns."""
    names = [shortened_text(name, TEXT_PX, _NAME_PX) for name in shares.names]
    left = max(text_width(name) for name in names) + 8
    side = CELL_PX * len(names)
    picture = Image.new("RGB", (left + side + 1, left + side + 1), PAPER)
    picture.paste(_draw_upright(names, left), (left, 0))
    cells = _colours(shares.cells).repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    picture.paste(Image.fromarray(cells), (left, left))
    pen = ImageDraw.Draw(picture)
    for index, name in enumerate(names):
        middle = left + index * CELL_PX + CELL_PX // 2
        pen.text((left - 8, middle), name, INK, font(), anchor="rm")
    for place in range(len(names) + 1):
        at = left + place * CELL_PX
        pen.line((left, at, left + side, at), _GRID)
        pen.line((at, left, at, left + side), _GRID)
    for row, column in np.argwhere(shares.cells >= _FAINT).tolist():
        share = shares.cells[row, column]
        x, y = (left + place * CELL_PX + CELL_PX // 2 for place in (column, row))
        ink = PAPER if share > 0.5 else INK
        pen.text((x, y), f"{share:.0%}"[:-1], ink, font(_SMALL_TEXT_PX), anchor="mm")
    return picture


def _draw_upright(names: Sequence[str], height: int) -> Image.Image:
    """Return the names upright, one above each column."""
    lying = Image.new("RGB", (height, CELL_PX * len(names)), PAPER)
    pen = ImageDraw.Draw(lying)
    for index, name in enumerate(names):
        y = index * CELL_PX + CELL_PX // 2
        pen.text((8, y), name, INK, font(), anchor="lm")
    return lying.transpose(Image.Transpose.ROTATE_90)


def _colours(cells: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (K, K, 3): white for 0, green on the diagonal, red off it."""
    full = np.broadcast_to(np.array(WRONG, np.float64), (*cells.shape, 3)).copy()
    full[np.eye(len(cells), dtype=bool)] = RIGHT
    depth = np.sqrt(cells)[..., None]  # small shares must be seen
    return (np.array(PAPER) + depth * (full - np.array(PAPER))).round().astype(np.uint8)
