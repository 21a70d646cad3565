"""A contact sheet: image, masks and truth side by side, of a student its teacher."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ovseg_core.images.lettering import INK, PAPER, QUIET, font
from ovseg_core.images.overlay import overlay
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.truth import IGNORE, Wanted, open_truth
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.run.reader import RunReader, paint_places, paint_segments
from schemas.errors import ImageError

logger = logging.getLogger(__name__)

_GAP_PX, _MARGIN_PX, _LINE_PX = 6, 24, 22
_LEAST_TILE_PX = 208
"""Width of a tile (an image, its masks or its truth) where there are three or more in a row."""
_LEAST_ROW_PX = 3 * (_LEAST_TILE_PX + _GAP_PX) - _GAP_PX
"""Width of a row of tiles: two are larger than three."""
_LARGEST_TILE_PX = (_LEAST_ROW_PX - _GAP_PX) // 2
_HEIGHT_SHARE = 0.8
"""Greatest height of a tile beside its width."""
_MAX_LEFT_OUT = 200
"""Images that cannot be read, after which no more are tried."""
_PER_LINE = 2
"""Rows of tiles (image, masks, truth) beside each other."""


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet."""

    caption: str
    image: NDArray[np.uint8]
    """(h, w, 3) RGB; may be reduced."""
    found: NDArray[np.integer]
    """(H, W) label map."""
    truth: NDArray[np.integer] | None = None
    """(H, W) true label map; -1 is not counted."""
    teacher: NDArray[np.integer] | None = None
    """(H, W) label map of the teacher, where the masks are a student's."""
    by_instance: NDArray[np.integer] | None = None
    """(H, W) label map of another run, of instances."""
    instances: NDArray[np.integer] | None = None
    """(H, W) number of each pixel's instance, for outlines: of `by_instance` if there is one, else
    of the masks; None: they are none."""
    image_id: str = ""
    """Of the run."""
    note: str = ""
    """Stands beside the caption."""


def sheet_rows(
    run: RunFolder,
    truth_uri: str = "",
    limit: int = 24,
    only: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> list[SheetRow]:
    """Return the first images of a run; those that cannot be read are left out, and named.

    Args:
        run: the run.
        truth_uri: see `pipeline.evaluation.truth`; empty: none.
        limit: greatest number of images.
        only: `image_id` of the images to show, in this order; None: all.
        renamed: labels of the run by the truth's names for them.
    """
    images = RunImages(run)
    wanted = Wanted.of_run(run)._replace(renamed=renamed or {})
    truth = open_truth(truth_uri, wanted) if truth_uri else None

    left_out: list[str] = []
    wanted_ids = None if only is None else frozenset(only)

    def rows() -> Iterable[SheetRow]:
        for shard in RunReader(run, wanted_ids).shards():
            for image, segments in shard.images_to_paint():
                try:
                    pixels = images.read_image(image, _LARGEST_TILE_PX).rgb
                except ImageError as error:
                    left_out.append(f"{image['path']}: {error}")
                    if len(left_out) >= _MAX_LEFT_OUT:  # a collection that was moved
                        return
                    continue
                true_map = truth.label_map(image["path"]) if truth else None
                if true_map is not None and true_map.size > wanted.max_px:
                    true_map = None  # it was not read
                size_hw = image["height"], image["width"]
                found, instances = paint_segments(segments, size_hw), None
                if run.mask_kind == "instance":
                    instances = paint_places(segments, size_hw)
                row = SheetRow(image["path"], pixels, found, true_map, instances=instances)
                yield replace(row, image_id=image["image_id"])

    shown = list(islice(rows(), limit))
    if left_out:
        logger.warning(
            "%d images cannot be read and are left out, the first is %s", len(left_out), left_out[0]
        )
    if only is not None:
        by_id = {row.image_id: row for row in shown}
        shown = [by_id[one] for one in only if one in by_id]
    return shown


def with_instances(rows: Sequence[SheetRow], others: Sequence[SheetRow]) -> list[SheetRow]:
    """Return rows with the masks of the same images in a run of instances, as one more column.

    Args:
        rows: of a run.
        others: of a run of instances with the same vocabulary.
    """
    found = {row.caption: row for row in others}
    return [
        replace(row, by_instance=other.found, instances=other.instances)
        if (other := found.get(row.caption))
        else row
        for row in rows
    ]


def contact_sheet(rows: Sequence[SheetRow], names: Sequence[str]) -> Image.Image:
    """Draw a sheet.

    Args:
        rows: the images, two beside each other.
        names: the vocabulary's labels in order, without background; written on the masks, or below
            them where there is no room.
    """
    columns = ["image", "masks"]
    if any(row.teacher is not None for row in rows):
        columns = ["image", "teacher", "student"]
    if any(row.by_instance is not None for row in rows):
        columns.append("instances")
    if any(row.truth is not None for row in rows):
        columns.append("truth")
    tile_px = max(_LEAST_TILE_PX, (_LEAST_ROW_PX + _GAP_PX) // len(columns) - _GAP_PX)
    strip_px = len(columns) * (tile_px + _GAP_PX) - _GAP_PX
    width = 2 * _MARGIN_PX + _PER_LINE * strip_px + (_PER_LINE - 1) * 2 * _MARGIN_PX
    strips = [_strip(row, columns, names, tile_px) for row in rows]
    lines = [strips[first : first + _PER_LINE] for first in range(0, len(strips), _PER_LINE)]
    tops = [_MARGIN_PX + _LINE_PX]
    for line in lines:
        tops.append(tops[-1] + max(strip.height for strip in line) + _GAP_PX)
    sheet = Image.new("RGB", (width, tops[-1] + _MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    for top, line in zip(tops, lines, strict=False):
        for index, strip in enumerate(line):
            x = _MARGIN_PX + index * (strip_px + 2 * _MARGIN_PX)
            sheet.paste(strip, (x, top))
            if top == tops[0]:
                for place, title in enumerate(columns):
                    left = x + place * (tile_px + _GAP_PX)
                    draw.text((left, top - _LINE_PX), title, QUIET, font())
    return sheet


def _strip(
    row: SheetRow, columns: Sequence[str], names: Sequence[str], tile_px: int
) -> Image.Image:
    """Return the tiles of one image beside each other, and its caption below them."""
    picture = _fitted(row.image, tile_px)
    pixels = np.asarray(picture)
    maps = {
        "teacher": row.teacher,
        "truth": row.truth,
        "masks": row.found,
        "student": row.found,
        "instances": row.by_instance,
    }
    of_instances = row.found if row.by_instance is None else row.by_instance
    tiles = {}
    for column in columns:
        drawn = maps.get(column)
        if drawn is not None:
            outlined = row.instances if drawn is of_instances else None
            labels = np.maximum(drawn, 0)
            tiles[column] = overlay(pixels, labels, names, write_names=True, segments=outlined)
        elif column == "image":
            tiles[column] = picture
    bottom = max(tile.height for tile in tiles.values())
    size = len(columns) * (tile_px + _GAP_PX) - _GAP_PX, bottom + _LINE_PX
    strip = Image.new("RGB", size, PAPER)
    for place, column in enumerate(columns):
        if column in tiles:
            strip.paste(tiles[column], (place * (tile_px + _GAP_PX), 0))
    ImageDraw.Draw(strip).text((0, bottom + 3), _caption(row), INK, font())
    return strip


def _fitted(rgb: NDArray[np.uint8], tile_px: int) -> Image.Image:
    """Return the image as large as a tile allows, its sides in proportion."""
    height, width = rgb.shape[:2]
    scale = min(tile_px / width, _HEIGHT_SHARE * tile_px / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)


def _caption(row: SheetRow) -> str:
    most = 32 if row.note else 44  # characters; two tiles must hold them
    name = row.caption if len(row.caption) <= most else f"…{row.caption[1 - most :]}"
    if row.note:
        name += f"   {row.note}"
    if row.truth is None:
        return name
    if row.truth.shape != row.found.shape:
        return f"{name}   truth of another size"
    matrix = ConfusionMatrix(int(max(row.truth.max(), row.found.max())) + 1, IGNORE)
    matrix.add(row.found, row.truth)
    judged = "masks" if row.teacher is None else "student"
    return f"{name}   mIoU of {judged} {matrix.mean_iou():.2f}"
