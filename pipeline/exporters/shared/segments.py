"""A run's segments image by image, cut as the format wants them: whole labels or regions."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle import components, label_map
from ovseg_core.rle.encode import decode
from pipeline.exporters.shared.losses import LossReport
from pipeline.run.reader import FinishedShard, Row, RunReader
from schemas.errors import RunFolderError
from schemas.score_columns import SCORE, SCORE_COLUMNS

log = logging.getLogger(__name__)

Segments = Literal["as_run", "class", "components"]
"""How masks are cut: as the run has them, one for each label and image, or connected regions."""

DIGITS = 6
"""Of scores: what float32 columns hold."""
IMAGE_COLUMNS = (
    "path",
    "uri",
    "height",
    "width",
    "exif_orientation",
    "review_priority",
)


def cut_of(finished: RunReader, wanted: Segments) -> Literal["class", "components"]:
    """Return what the segments will be."""
    return finished.run.info.job().masks.segments if wanted == "as_run" else wanted


def is_cut_anew(finished: RunReader, wanted: Segments) -> bool:
    """Tell whether the wanted segments are others than the run's own."""
    return cut_of(finished, wanted) != cut_of(finished, "as_run")


def images(
    finished: RunReader,
    losses: LossReport,
    wanted: Segments = "as_run",
    min_score: float = 0.0,
    min_area_px: int = 0,
) -> Iterator[tuple[Row, list[Row]]]:
    """Yield every annotated image with its segments, in order, one shard in memory.

    Segments cut anew carry `part_of`, the `segment_index` of the run's segment that they are of:
    all their scores are those of that segment. Segments put together have only the columns that
    can be told from their parts, and the `segment_index` of the first.

    Args:
        finished: the run.
        losses: what is left out is counted there.
        wanted: how to cut.
        min_score: segments of the run with a lower mean probability are left out.
        min_area_px: segments of fewer pixels are left out, after cutting.
    """
    change = _changes(finished, wanted)
    _count_images(finished, losses)
    for shard in finished.shards(IMAGE_COLUMNS):
        for image, rows in _by_image(shard):
            likely = [row for row in rows if round(row[SCORE], DIGITS) >= min_score]
            cut_anew = change(likely) if likely else []
            kept = [row for row in cut_anew if row["area_px"] >= min_area_px]
            if len(likely) < len(rows):
                losses.lost("segments left out by score", len(rows) - len(likely))
            if len(kept) < len(cut_anew):
                losses.lost("segments left out by size", len(cut_anew) - len(kept))
            if image["exif_orientation"] != 1:
                losses.wrote("of the images are turned by EXIF: masks fit them as displayed")
            losses.wrote("images")
            losses.wrote("segments", len(kept))
            yield image, kept


def _changes(finished: RunReader, wanted: Segments) -> Callable[[list[Row]], list[Row]]:
    if not is_cut_anew(finished, wanted):
        return lambda rows: rows
    return _split if wanted == "components" else _join


def _count_images(finished: RunReader, losses: LossReport) -> None:
    if finished.num_left:
        log.warning("%d images of the run are not annotated yet", finished.num_left)
    losses.wrote("images", 0)
    losses.wrote("segments", 0)
    for count, what in (
        (sum(finished.errors.values()), "images that failed in the run"),
        (finished.num_left, "images that the run has not annotated yet"),
    ):
        if count:
            losses.lost(what, count)


def _by_image(shard: FinishedShard) -> Iterator[tuple[Row, list[Row]]]:
    segments = shard.segments()
    row = next(segments, None)
    for image_id, image in shard.images.items():
        rows: list[Row] = []
        while row is not None and row["image_id"] == image_id:
            rows.append(row)
            row = next(segments, None)
        yield image, rows
    if row is not None:
        raise RunFolderError(
            f"shard {shard.marker.shard} has segments of {row['image_id']}, which is none of its "
            "annotated images, or they are out of order: the run is damaged"
        )


def _split(rows: Sequence[Row]) -> list[Row]:
    """Cut one image's class masks into their connected regions."""
    size_hw = rows[0]["height"], rows[0]["width"]
    found = components.split([row["rle_counts"] for row in rows], size_hw)
    pairs = ((row, rle) for row, regions in zip(rows, found, strict=True) for rle in regions)
    return [
        {
            **whole,
            "part_of": whole["segment_index"],
            "segment_index": index,
            "rle_counts": rle.counts,
            "area_px": rle.area_px,
            "bbox_xywh": list(rle.bbox_xywh),
            "area_frac": rle.area_px / (size_hw[0] * size_hw[1]),
            "num_components": 1,
        }
        for index, (whole, rle) in enumerate(pairs)
    ]


def _join(rows: Sequence[Row]) -> list[Row]:
    """Put one image's regions together, one mask for each label."""
    parts: dict[int, list[Row]] = {}
    for row in rows:
        parts.setdefault(row["category_id"], []).append(row)
    return [_joined(label) for _, label in sorted(parts.items())]


def _joined(parts: list[Row]) -> Row:
    first = parts[0]
    size = [first["height"], first["width"]]
    rles: Any = [{"size": size, "counts": row["rle_counts"].encode("ascii")} for row in parts]
    union: Any = coco_mask.merge(rles)
    area = sum(row["area_px"] for row in parts)
    joined = {
        **first,
        "rle_counts": union["counts"].decode("ascii"),
        "area_px": area,
        "bbox_xywh": [float(value) for value in coco_mask.toBbox(union)],
    }
    for name, column in SCORE_COLUMNS.items():
        if name not in first:
            continue
        if column.join == "mean":
            joined[name] = sum(row[name] * row["area_px"] for row in parts) / area
        elif column.join == "sum":
            joined[name] = sum(row[name] for row in parts)
        else:
            del joined[name]
    return joined


@dataclass(frozen=True)
class Crop:
    """One mask inside its box."""

    left: int
    top: int
    mask: NDArray[np.uint8]
    """(h, w) of 0 and 1, contiguous."""


def crops(rows: Sequence[Row]) -> Iterator[Crop]:
    """Yield the masks of one image's rows; all are decoded in one go."""
    if not rows:
        return
    size_hw = rows[0]["height"], rows[0]["width"]
    counts = [row["rle_counts"] for row in rows]
    numbers = label_map.paint(counts, range(1, len(rows) + 1), size_hw, np.uint32)
    for number, row in enumerate(rows, start=1):
        left, top, width, height = (int(value) for value in row["bbox_xywh"])
        box = slice(top, top + height), slice(left, left + width)
        mask = (numbers[box] == number).view(np.uint8)
        if np.count_nonzero(mask) != row["area_px"]:  # another mask lies over it
            mask = np.ascontiguousarray(decode(row["rle_counts"], size_hw)[box])
        yield Crop(left, top, mask)
