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
from ovseg_core.images.resize.nearest import SizeHW, nearest_source
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.evaluation.reference import truth_reference
from pipeline.evaluation.truth import IGNORE
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages, other_size
from pipeline.run.reader import RunReader, paint_places, paint_segments
from pipeline.run.tables.rows import Row
from schemas.base import counted
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
_KEPT_TILE_PX = 2 * _LARGEST_TILE_PX
"""Width of a tile that holds what is kept of an image and its maps: twice what is drawn, so that
outlines are as if they were drawn from the whole map."""
_LEAST_NAME_PX, _TILE_NAMES = 12, 20
"""Height of the names in all tiles of a sheet: this share of a tile's width, but not less."""
_OTHER_SIZE = "truth of another size"
_MAX_LEFT_OUT = 200
"""Images that cannot be read, after which no more are tried."""
_PER_LINE = 2
"""Rows of tiles (image, masks, truth) beside each other."""


@dataclass(frozen=True)
class SheetRow:
    """One image of a sheet."""

    caption: str
    image: NDArray[np.uint8]
    """(h, w, 3) RGB; it and the maps may be reduced, each by itself."""
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
    agreement: str = ""
    """Of the masks with the truth, in words; empty: there is no truth."""

    def reduced(self) -> "SheetRow":
        """Return the row as small as tiles allow, with the agreement of the maps as they are here.

        Photographs have a hundred times the pixels of a tile, and a sheet has many of them.
        """
        size_hw = _tile_size((self.image.shape[0], self.image.shape[1]), _KEPT_TILE_PX)
        is_larger = self.image.shape[0] > size_hw[0]
        image = np.asarray(_fitted(self.image, _KEPT_TILE_PX)) if is_larger else self.image
        truth, teacher, by_instance, instances = (
            None if one is None else _reduced(one, size_hw)
            for one in (self.truth, self.teacher, self.by_instance, self.instances)
        )
        agreement = _agreement(self)
        if agreement == _OTHER_SIZE and (truth == IGNORE).all():
            truth = None  # it is larger than every image of the run, and was not read
        return replace(
            self,
            image=image,
            found=_reduced(self.found, size_hw),
            truth=truth,
            teacher=teacher,
            by_instance=by_instance,
            instances=instances,
            agreement=agreement,
        )


def sheet_rows(
    run: RunFolder,
    truth_uri: str = "",
    limit: int = 24,
    only: Sequence[str] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> list[SheetRow]:
    """Return the first images of a run, reduced.

    Those that cannot be read, or were replaced since the run, are left out, and named.

    Args:
        run: the run.
        truth_uri: see `truth_reference`; empty: none.
        limit: greatest number of images.
        only: `image_id` of the images to show, in this order; None: all.
        renamed: labels of the run by the truth's names for them.

    Raises:
        UserError: no usable truth.
    """
    images = RunImages(run)
    truth = truth_reference(run, truth_uri, "label", None, renamed).truth if truth_uri else None

    left_out: list[str] = []
    wanted_ids = None if only is None else frozenset(only)

    def rows() -> Iterable[SheetRow]:
        for shard in RunReader(run, wanted_ids).shards():
            for image, segments in shard.images_to_paint():
                try:
                    decoded = images.read_image(image, _LARGEST_TILE_PX)
                    problem = other_size(decoded, image)
                except ImageError as error:
                    problem = str(error)
                if problem:  # its masks are not painted either: a row may state any size
                    left_out.append(f"{image['path']}: {problem}")
                    if len(left_out) >= _MAX_LEFT_OUT:  # a collection that was moved
                        return
                    continue
                true_map = truth.label_map(image["path"]) if truth else None
                yield _row(run, image, segments, decoded.rgb, true_map).reduced()

    shown = list(islice(rows(), limit))
    if left_out:
        logger.warning("%s left out, the first is %s", counted(len(left_out), "image"), left_out[0])
    if only is not None:
        by_id = {row.image_id: row for row in shown}
        shown = [by_id[one] for one in only if one in by_id]
    return shown


def _row(
    run: RunFolder,
    image: Row,
    segments: Sequence[Row],
    rgb: NDArray[np.uint8],
    truth: NDArray[np.integer] | None,
) -> SheetRow:
    """Return the row of an image with its masks painted."""
    size_hw, instances = (image["height"], image["width"]), None
    if run.mask_kind == "instance":
        instances = paint_places(segments, size_hw)
        labels = [0, *(segment["category_id"] for segment in segments)]
        found = np.array(labels, np.uint16)[instances]
    else:
        found = paint_segments(segments, size_hw)
    path, image_id = image["path"], image["image_id"]
    return SheetRow(path, rgb, found, truth, instances=instances, image_id=image_id)


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
            name_px = max(_LEAST_NAME_PX, tile_px // _TILE_NAMES)
            tiles[column] = overlay(
                pixels, labels, names, write_names=True, name_px=name_px, segments=outlined
            )
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
    height, width = _tile_size(rgb.shape[:2], tile_px)
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)


def _tile_size(size_hw: SizeHW, tile_px: int) -> SizeHW:
    height, width = size_hw
    scale = min(tile_px / width, _HEIGHT_SHARE * tile_px / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _reduced(label_map: NDArray[np.integer], size_hw: SizeHW) -> NDArray[np.integer]:
    """Return a map no larger than a size, by nearest neighbour."""
    # In one step: a truth that was not read may be of any width and takes no memory.
    sides = zip(label_map.shape, size_hw, strict=True)
    return label_map[np.ix_(*(nearest_source(side, min(side, most)) for side, most in sides))]


def _caption(row: SheetRow) -> str:
    most = 32 if row.note else 44  # characters; two tiles must hold them
    name = row.caption if len(row.caption) <= most else f"…{row.caption[1 - most :]}"
    if row.note:
        name += f"   {row.note}"
    return f"{name}   {row.agreement}" if row.agreement else name


def _agreement(row: SheetRow) -> str:
    if row.truth is None:
        return ""
    if row.truth.shape != row.found.shape:
        return _OTHER_SIZE
    matrix = ConfusionMatrix(int(max(row.truth.max(), row.found.max())) + 1, IGNORE)
    matrix.add(row.found, row.truth)
    judged = "masks" if row.teacher is None else "student"
    return f"mIoU of {judged} {matrix.mean_iou():.2f}"
