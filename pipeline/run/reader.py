"""The finished part of a run as its readers see it: numbered images and their segments.

Images count from 1 in the order of their places; failed ones have no number, superseded ones keep
theirs. The numbers depend on the committed rows alone, so every reader of a finished run gives an
image the same one, also when the run has grown.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle import label_map
from pipeline.collection.manifest import coco_ids_of
from pipeline.run.folder import RunFolder
from pipeline.run.tables.answers import (
    ANSWER_COLUMNS,
    UNSURE_FROM,
    Answers,
    answers_by_image,
)
from pipeline.run.tables.damaged import (
    DAMAGED_IMAGES,
    DAMAGED_MASKS,
    Damage,
    DamagedRows,
    check_masks,
    is_image_size,
    size_problem,
    without_damaged,
)
from pipeline.run.tables.rows import Row, rows_of
from schemas.records import ImageResult, MaskRow, ShardDone
from schemas.score_columns import SCORE
from schemas.untrusted import MAX_PIXELS

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

IMAGE_COLUMNS = tuple(
    name for name in ImageResult.model_fields if name != "uri" and not name.endswith("_s")
)
"""Columns of the images table that readers get: all but the seconds by stage, and the URI: only the
manifest says where an image lies, see `pipeline.run.images`."""
MASK_COLUMNS = tuple(MaskRow.model_fields)
"""Columns of the annotations table that readers get, beside the score columns that they need."""


@dataclass(frozen=True)
class FinishedShard:
    """One committed shard."""

    run: RunFolder
    marker: ShardDone
    images: dict[str, Row]
    """Rows (`IMAGE_COLUMNS`) of the annotated images by `image_id`, in manifest order, each with
    its `number` and the index of its `shard`."""
    damaged: DamagedRows
    """Counts the rows that are left out."""
    left_out: frozenset[str]
    """Images whose row is damaged or that are not wanted, by `image_id`; they are not in `images`,
    and their segments are not read."""

    def segments(self, columns: list[str] | None = None) -> Iterator[Row]:
        """Yield the shard's annotation rows, images in order; damaged ones are left out.

        Args:
            columns: those to read; None: all. Without `rle_counts` masks are not checked.
        """
        for batch in self.predicted_table(columns).to_batches(max_chunksize=1024):
            yield from rows_of(batch)

    def predicted_table(self, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of the run's own segments; damaged ones are left out."""
        table, problems = read_segments(self.run, self.marker, self.images, columns)
        table, names = without_damaged(table, problems, self.images)
        self.damaged.add(DAMAGED_MASKS, names)
        if self.left_out:
            ids = pa.array(sorted(self.left_out), pa.string())
            is_left_out = compute.is_in(table["image_id"].cast(pa.string()), value_set=ids)
            table = table.filter(compute.invert(is_left_out))
        return table

    def segments_by_image(self, columns: list[str] | None = None) -> dict[str, list[Row]]:
        """Return the shard's annotation rows by `image_id`; images without any are absent."""
        return grouped(self.segments(columns), "image_id")

    def answers(self, unsure_from: float = UNSURE_FROM) -> Answers:
        """Return (images, labels) whether each image shows each label, see `tables.answers`.

        Args:
            unsure_from: see `UNSURE_FROM`.
        """
        scores = self.run.shard_table(self.marker, "scores", ANSWER_COLUMNS)
        num_labels = len(self.run.info.job().vocabulary.names)
        return answers_by_image(scores, list(self.images), num_labels, unsure_from)

    def label_maps(self) -> Iterator[tuple[Row, NDArray[np.uint16]]]:
        """Yield every image with its label map (H, W), see `paint_segments`."""
        for image, rows in self.images_to_paint():
            yield image, paint_segments(rows, (image["height"], image["width"]))

    def images_to_paint(self) -> Iterator[tuple[Row, list[Row]]]:
        """Yield every image with its annotation rows, of the columns that painting them needs."""
        columns = ["image_id", "category_id", "segment_index", "rle_counts"]
        if self.run.mask_kind == "instance":
            columns += ["kind", "area_px", SCORE]  # what `bottom_first` needs
        masks = self.segments_by_image(columns)
        for image_id, image in self.images.items():
            yield image, masks.get(image_id, [])


class RunReader:
    """The shards that were finished when it was made; a run that goes on does not disturb it.

    Args:
        run: at any place.
        only: `image_id` of the images that are wanted; None: all.

    Attributes:
        damaged: rows that were left out of the shards, as far as they were read.
        num_images: annotated images that are wanted.
        num_unwanted: annotated images that are not wanted.
        errors: failed images that are wanted, by code.
        num_left: wanted images of shards that are not finished.
    """

    def __init__(self, run: RunFolder, only: frozenset[str] | None = None) -> None:
        """Read the done markers."""
        self.run = run
        self.damaged = DamagedRows()
        self.markers = tuple(run.done().values())
        errors: Counter[str] = Counter()
        for marker in self.markers:
            errors.update(marker.tally.errors)
        num_done = sum(marker.tally.num_images for marker in self.markers)
        num_annotated = num_done - errors.total()
        self.errors = dict(sorted(errors.items()))
        self.num_left = run.num_images - num_done
        self.num_images = num_annotated
        self._only: frozenset[str] | None = None
        if only is not None:
            self._narrow(only)
        self.num_unwanted = num_annotated - self.num_images

    def _narrow(self, wanted: frozenset[str]) -> None:
        """Count those of some images alone."""
        annotated: set[str] = set()
        errors: Counter[str] = Counter()
        ids = pa.array(sorted(wanted), pa.string())
        for marker in self.markers:
            table = self.run.shard_table(marker, "images", ["image_id", "status", "error_code"])
            is_wanted = compute.is_in(table["image_id"].cast(pa.string()), value_set=ids)
            for row in table.filter(is_wanted).to_pylist():
                if row["status"] == "ok":
                    annotated.add(row["image_id"])
                else:
                    errors[str(row["error_code"])] += 1
        self.errors = dict(sorted(errors.items()))
        self.num_left = max(0, len(wanted) - len(annotated) - errors.total())
        self.num_images = len(annotated)
        self._only = frozenset(annotated)

    def largest_px(self) -> int:
        """Return the pixels of the largest annotated image; 0: there is none."""
        largest = 0
        for marker in self.markers:
            table = self.run.shard_table(marker, "images", ["status", "height", "width"])
            annotated = table.filter(compute.equal(table["status"].cast(pa.string()), "ok"))
            height, width = (annotated[side].cast(pa.int64()) for side in ("height", "width"))
            sizes = compute.multiply(height, width)
            possible = sizes.filter(compute.less_equal(sizes, MAX_PIXELS))
            largest = max(largest, compute.max(possible).as_py() or 0)
        return largest

    def left_out(self) -> dict[str, Damage]:
        """Return what was left out of all that was read so far, by what it is, in the plural."""
        return self.damaged.report()

    def shards(self, only: Container[int] | None = None) -> Iterator[FinishedShard]:
        """Yield the shards in order.

        Args:
            only: their indices; None: all.
        """
        number, coco_ids = 0, coco_ids_of(self.run.manifest())
        for marker in self.markers:
            if only is not None and marker.shard not in only:
                number += self.run.num_annotated(marker)
                continue
            images: dict[str, Row] = {}
            unusable: dict[str, list[str]] = {}
            unwanted: set[str] = set()
            superseded = self.run.superseded_in(marker.shard)
            rows = rows_of(self.run.stored_table(marker, "images", IMAGE_COLUMNS))
            for place, row in enumerate(rows):
                if row["status"] != "ok":
                    continue
                number += 1
                if superseded is not None and superseded[place]:
                    continue
                if self._only is not None and row["image_id"] not in self._only:
                    unwanted.add(row["image_id"])
                elif is_image_size(row):
                    row["number"], row["shard"] = number, marker.shard
                    row["coco_id"] = coco_ids.get(row["image_id"], number)
                    images[row["image_id"]] = row
                else:
                    unusable[row["image_id"]] = [size_problem(row)]
            self.damaged.add(DAMAGED_IMAGES, unusable)
            left_out = frozenset((*unusable, *unwanted))
            yield FinishedShard(self.run, marker, images, self.damaged, left_out)


def read_segments(
    run: RunFolder,
    marker: ShardDone,
    images: Mapping[str, Row],
    columns: Sequence[str] | None = None,
) -> tuple[pa.Table, dict[int, str]]:
    """Return a shard's table of annotations as it was read and checked, all masks at once.

    Args:
        run: at any place.
        marker: of the finished shard.
        images: rows of its images by `image_id`; masks of other images are not checked.
        columns: those to read; None: all. Without `rle_counts` masks are not checked.

    Returns:
        The table, and in words what is wrong with its damaged rows, by their place.
    """
    table = run.shard_table(marker, "annotations", columns)
    return check_masks(table, images) if "rle_counts" in table.column_names else (table, {})


def grouped(rows: Iterable[Row], column: str) -> dict[Any, list[Row]]:
    """Return rows by what stands in a column, in order."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return found


def bottom_first(rows: Sequence[Row]) -> list[int]:
    """Return the places of one image's annotation rows in the order in which they are painted.

    What people decided on lies over predicted masks, instances of a higher score over those of a
    lower one, smaller masks over larger ones.

    Args:
        rows: with `area_px`, and instances with `kind` and their score.
    """

    def rank(row: Row) -> tuple[bool, float, int]:
        score = row[SCORE] if row.get("kind") == "instance" else 0.0
        return "verdict" in row, score, -row["area_px"]

    return sorted(range(len(rows)), key=lambda place: rank(rows[place]))


def paint_segments(segments: Iterable[Row], size_hw: SizeHW) -> NDArray[np.uint16]:
    """Return the label map (H, W) of one image's annotation rows; the order is `paint_places`'s.

    Returns:
        0 is background, k the vocabulary's label k.
    """
    rows = list(segments)
    labels = [row["category_id"] for row in rows]
    if any(row.get("kind") == "instance" for row in rows):
        return np.array([0, *labels], np.uint16)[paint_places(rows, size_hw)]
    return label_map.paint_label_map([row["rle_counts"] for row in rows], labels, size_hw)


def paint_places(rows: Sequence[Row], size_hw: SizeHW) -> NDArray[np.uint32]:
    """Return the place, from 1, of the annotation row that each pixel of an image belongs to.

    Instances lie over each other as `bottom_first` says; of other masks later rows are on top.

    Returns:
        (H, W); 0 where there is no mask.
    """
    is_of_instances = any(row.get("kind") == "instance" for row in rows)
    order = bottom_first(rows) if is_of_instances else range(len(rows))
    counts = [rows[place]["rle_counts"] for place in order]
    return label_map.paint_label_map(counts, [k + 1 for k in order], size_hw, np.uint32)
