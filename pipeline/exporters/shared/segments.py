"""A run's segments image by image, as class masks or connected components, as a format wants."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ovseg_core.rle import components, label_map
from ovseg_core.rle.encode import decode_rle, encode_rle
from pipeline.exporters.shared.corrected_run import CorrectedShard
from pipeline.exporters.shared.loss_report import FAILED_IMAGES, NOT_ANNOTATED, LossReport
from pipeline.run.reader import FinishedShard, Row, RunReader, bottom_first, grouped
from schemas.errors import RunFolderError
from schemas.score_columns import MEANS, SCORE, SCORE_COLUMNS

logger = logging.getLogger(__name__)

SegmentKind = Literal["as_run", "class", "components"]
"""What a segment is: as in the run, one mask for each label and image, or a connected component."""
ResolvedKind = Literal["class", "components", "instances"]
"""The same, as `masks.segments` names it."""

CUT_COLUMNS = ("segment_index", "category_id", "height", "width", "rle_counts", "area_px")
"""Columns that cutting and joining masks needs."""
DIGITS = 6
"""Decimals of exported scores: float32 columns hold no more."""
_DRAWN = "of the segments without a score of the model: 1 stands there"
_JOINED_WITH_DRAWN = (
    "of the segments joined from several masks, some of them without a score of the model: the "
    "score is the mean by area, with 1 for these"
)
_JOINED = "masks joined with another of the label that people gave them"


def resolve_kind(reader: RunReader, kind: SegmentKind) -> ResolvedKind:
    """Return what the exported segments are; `as_run` becomes what the run has."""
    return reader.run.info.job().masks.segments if kind == "as_run" else kind


def is_changed(reader: RunReader, kind: SegmentKind) -> bool:
    """Return whether the exported segments are another kind than the run's."""
    return resolve_kind(reader, kind) != resolve_kind(reader, "as_run")


def images(
    reader: RunReader,
    losses: LossReport,
    kind: SegmentKind = "as_run",
    min_score: float = 0.0,
    min_area_px: int = 0,
) -> Iterator[tuple[Row, list[Row]]]:
    """Yield every annotated image with its segments, in order, one shard in memory.

    An image has a further entry `left_out`: the labels (category ids) of which a segment is left
    out by its score or size.

    Components that are cut out of class masks here have a further column `part_of`, the
    `segment_index` of the class mask, whose scores they keep. Class masks that are joined from
    components have the `segment_index` of the first one and only the score columns that follow
    from those of their components. Instances are cut and joined like class masks and components;
    `kind` stays what it was in the run, so that masks that may overlap can be told.

    Args:
        reader: of the run.
        losses: counts what is written and what is left out.
        kind: of segments.
        min_score: segments with a lower mean probability are left out, but not those that people
            decided on.
        min_area_px: segments with fewer pixels are left out, after splitting or joining.

    Raises:
        RunFolderError: a segment that belongs to no annotated image of its shard.
    """
    if reader.num_left:
        logger.warning("%d images of the run are not annotated yet", reader.num_left)
        losses.count_lost(NOT_ANNOTATED, reader.num_left)
    if reader.errors:
        losses.count_lost(FAILED_IMAGES, sum(reader.errors.values()))
    losses.count_written("images", 0)
    losses.count_written("segments", 0)
    is_other_kind = is_changed(reader, kind)
    cut = partial(_cut, kind=resolve_kind(reader, kind), is_changed=is_other_kind)
    for shard in reader.shards():
        for image, rows in _by_image(shard):
            likely = [
                row for row in rows if round(row[SCORE], DIGITS) >= min_score or "verdict" in row
            ]
            changed = cut(likely)
            if not is_other_kind and len(changed) < len(likely):
                losses.count_lost(_JOINED, len(likely) - len(changed))
            _count_decided(changed, losses)
            kept = [row for row in changed if row["area_px"] >= min_area_px]
            image["left_out"] = frozenset()
            if len(likely) < len(rows):
                image["left_out"] |= _labels_left_out(rows, likely)
                losses.count_lost("segments left out by score", len(rows) - len(likely))
            if len(kept) < len(changed):
                image["left_out"] |= _labels_left_out(changed, kept)
                losses.count_lost("segments left out by size", len(changed) - len(kept))
            if image["exif_orientation"] != 1:
                turned = "of the images turned by EXIF: masks fit them as displayed"
                losses.count_written(turned)
            losses.count_written("images")
            losses.count_written("segments", len(kept))
            yield image, kept
        _count_left_out(shard, losses)


def _labels_left_out(rows: Sequence[Row], kept: Sequence[Row]) -> frozenset[int]:
    """Return the labels that have a row which was not kept."""
    stayed = set(map(id, kept))
    return frozenset(row["category_id"] for row in rows if id(row) not in stayed)


def _cut(rows: list[Row], kind: ResolvedKind, is_changed: bool) -> list[Row]:
    """Return one image's masks as the wanted kind: all of them, or those that people left."""
    is_split = kind == "components"
    if rows and is_changed:
        return _split(rows) if is_split else _join(rows)
    if kind != "instances" and any("verdict" in row for row in rows):
        return _split_drawn(rows) if is_split else _join_repeated(rows)
    return rows


def as_run(rows: list[Row], kind: ResolvedKind) -> list[Row]:
    """Return one image's rows as an export has them that leaves the kind of segments as it is.

    In a run with one mask per label the masks that people gave one label are one; in a run of
    connected regions drawn masks are cut into theirs.

    Args:
        rows: with `CUT_COLUMNS`.
        kind: of the run's segments.
    """
    return _cut(rows, kind, is_changed=False)


def _count_decided(rows: Sequence[Row], losses: LossReport) -> None:
    found = [row["verdict"] for row in rows if "verdict" in row]
    if not found:
        return
    verdicts = Counter(found)
    for verdict, count in verdicts.items():
        losses.count_written(f"of the segments {verdict} by people", count)
    # What has no score of the model, or is joined with such a mask, has none of the other means.
    scores = [row[SCORE] for row in rows if any(name not in row for name in MEANS)]
    num_drawn = sum(score == 1 for score in scores)
    if num_drawn:
        losses.count_written(_DRAWN, num_drawn)
    if num_drawn < len(scores):
        losses.count_written(_JOINED_WITH_DRAWN, len(scores) - num_drawn)


def _count_left_out(shard: FinishedShard, losses: LossReport) -> None:
    if isinstance(shard, CorrectedShard):
        for what, count in shard.num_left_out.items():
            losses.count_lost(what, count)


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
            f"shard {shard.marker.shard} has segments of {row['image_id']}, which is not one of "
            "its annotated images, or its rows are out of order: the run is damaged"
        )


def _split(rows: Sequence[Row]) -> list[Row]:
    """Split one image's class masks into their connected components."""
    size_hw = rows[0]["height"], rows[0]["width"]
    found = components.split_components([row["rle_counts"] for row in rows], size_hw)
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


def _split_drawn(rows: Sequence[Row]) -> list[Row]:
    """Split those masks of one image that people changed or added; others are components."""
    number = 1 + max(row["segment_index"] for row in rows)
    found: list[Row] = []
    for row in rows:
        parts = [row] if row.get("verdict", "accepted") == "accepted" else _split([row])
        if len(parts) == 1:
            found.append(row)
            continue
        for part in parts:
            found.append({**part, "segment_index": number})
            number += 1
    return found


def _join(rows: Sequence[Row]) -> list[Row]:
    """Join one image's components or instances, one mask for each label."""
    return [_join_label(parts) for _, parts in sorted(grouped(rows, "category_id").items())]


def _join_repeated(rows: Sequence[Row]) -> list[Row]:
    """Join masks of one label in one image, which people have given the label."""
    by_label = sorted(grouped(rows, "category_id").items())
    return [_join_label(parts) if len(parts) > 1 else parts[0] for _, parts in by_label]


def _join_label(parts: list[Row]) -> Row:
    first = parts[0]
    size = [first["height"], first["width"]]
    rles: Any = [{"size": size, "counts": row["rle_counts"].encode("ascii")} for row in parts]
    union: Any = coco_mask.merge(rles)
    area, sum_of_areas = int(coco_mask.area(union)), sum(row["area_px"] for row in parts)
    joined = {
        **first,
        "rle_counts": union["counts"].decode("ascii"),
        "area_px": area,
        "bbox_xywh": [float(value) for value in coco_mask.toBbox(union)],
    }
    for name, column in SCORE_COLUMNS.items():
        if column.join == "drop" or not all(name in row for row in parts):
            joined.pop(name, None)
        elif column.join == "mean":
            joined[name] = sum(row[name] * row["area_px"] for row in parts) / sum_of_areas
        else:
            joined[name] = sum(row[name] for row in parts)
    verdicts = {row.get("verdict") for row in parts}
    is_of_instances = any(row.get("kind") == "instance" for row in parts)
    if is_of_instances or verdicts != {None}:  # instances and what people left may overlap
        joined["area_frac"] = area / (size[0] * size[1])
    if is_of_instances and "num_components" in joined:
        regions = components.split_components([joined["rle_counts"]], (size[0], size[1]))
        joined["num_components"] = len(regions[0])
    if verdicts != {None}:
        joined["verdict"] = verdicts.pop() if len(verdicts) == 1 else "changed"
    return joined


def flattened(rows: Sequence[Row], losses: LossReport) -> list[Row]:
    """Return one image's masks without overlaps, for formats that are one picture.

    Only instances and masks that people left may overlap, see `bottom_first` for which is on top.
    Hidden pixels and masks are counted.
    """
    if not any("verdict" in row or row.get("kind") == "instance" for row in rows):
        return list(rows)
    size_hw = rows[0]["height"], rows[0]["width"]
    places = bottom_first(rows)
    counts = [rows[place]["rle_counts"] for place in places]
    numbers = label_map.paint_label_map(counts, [k + 1 for k in places], size_hw, np.uint32)
    if np.count_nonzero(numbers) == sum(row["area_px"] for row in rows):
        return list(rows)
    seen, visible = encode_rle(numbers, size_hw), []
    for number, row in enumerate(rows, start=1):
        rle = seen.get(number)
        if rle is None:
            losses.count_lost("masks that lie wholly under others")
        elif rle.area_px == row["area_px"]:
            visible.append(row)
        else:
            losses.count_lost("masks that lie in part under others: hidden pixels are lost")
            mask = {"rle_counts": rle.counts, "area_px": rle.area_px}
            visible.append({**row, **mask, "bbox_xywh": list(rle.bbox_xywh)})
    return visible


def z_orders(rows: Sequence[Row]) -> list[int]:
    """Return how high each of one image's masks lies, from 0, for tools in which people edit them.

    Smaller instances lie over larger ones, so that all can be seen and picked.
    """
    places = range(len(rows))
    if not any(row.get("kind") == "instance" for row in rows):
        return list(places)
    order = sorted(places, key=lambda place: -rows[place]["area_px"])
    heights = {place: height for height, place in enumerate(order)}
    return [heights[place] for place in places]


@dataclass(frozen=True)
class Crop:
    """One mask in its bounding box, whose corner is at `left`, `top` of the image."""

    left: int
    top: int
    mask: NDArray[np.uint8]
    """(h, w) of 0 and 1, contiguous."""


def crops(rows: Sequence[Row]) -> Iterator[Crop]:
    """Yield the mask of each of one image's rows; all are decoded in one pass."""
    if not rows:
        return
    size_hw = rows[0]["height"], rows[0]["width"]
    counts = [row["rle_counts"] for row in rows]
    numbers = label_map.paint_label_map(counts, range(1, len(rows) + 1), size_hw, np.uint32)
    for number, row in enumerate(rows, start=1):
        left, top, width, height = (int(value) for value in row["bbox_xywh"])
        box = slice(top, top + height), slice(left, left + width)
        mask = (numbers[box] == number).view(np.uint8)
        if np.count_nonzero(mask) != row["area_px"]:  # another mask lies over it
            mask = np.ascontiguousarray(decode_rle(row["rle_counts"], size_hw)[box])
        yield Crop(left, top, mask)
