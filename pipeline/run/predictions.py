"""Segments of single images of a finished run; `pipeline.run.reader` reads whole runs in order."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from threading import Condition
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from cachetools import LRUCache, cached
from numpy.typing import NDArray

from pipeline.run.folder import RunFolder
from pipeline.run.reader import IMAGE_COLUMNS, MASK_COLUMNS, read_segments
from pipeline.run.tables.damaged import (
    DAMAGED_IMAGES,
    DAMAGED_MASKS,
    DamagedRows,
    is_image_size,
    size_problem,
)
from pipeline.run.tables.rows import Row, rows_of
from schemas.records import ShardDone
from schemas.score_columns import SCORE

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_SHARDS_OF_IMAGES = 16
_MAX_BYTES = 256 << 20


class _ShardTable(NamedTuple):
    table: pa.Table
    places: dict[str, NDArray[np.int64]]
    """Row numbers of the segments of each image."""
    problems: dict[int, str]
    """What is wrong with the rows that are damaged, by number."""


class SegmentReader:
    """Reads the segments of single images, checked; keeps the shards that were read last.

    Safe for threads: each shard is read by one thread, and others that need it wait.

    Args:
        run: at any place.
        columns: of the annotations table, beside `image_id`; `rle_counts` is one of them.
        images: returns rows of a shard's images by `image_id`, with `height` and `width`: what its
            masks must be of.
        max_bytes: size of the tables that are kept.
    """

    def __init__(
        self,
        run: RunFolder,
        columns: Sequence[str],
        images: Callable[[ShardDone], Mapping[str, Row]],
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._run = run
        self._images = images
        self._columns = list(dict.fromkeys(("image_id", *columns)))
        cache: LRUCache[int, _ShardTable] = LRUCache(max_bytes, lambda shard: shard.table.nbytes)
        self._shard_table = cached(cache, key=lambda marker: marker.shard, condition=Condition())(
            self._read
        )

    def segments(self, marker: ShardDone, image_id: str) -> list[Row]:
        """Return the rows of an image in their order; those that are damaged have no `rle_counts`.

        Args:
            marker: of the finished shard that holds the image.
            image_id: one of its images; an image without segments has none.

        Returns:
            Rows with a further column `damage`: what is wrong with the row, in words, or empty.
        """
        shard = self._shard_table(marker)
        places = shard.places.get(image_id)
        if places is None:
            return []
        first, count = int(places[0]), len(places)
        if places[-1] - first + 1 == count:  # as ovseg writes them; a slice copies nothing
            table = shard.table.slice(first, count)
        else:
            table = shard.table.take(pa.array(places))
        rows = rows_of(table)
        for place, row in zip(places.tolist(), rows, strict=True):
            row["damage"] = shard.problems.get(place, "")
        return rows

    def _read(self, marker: ShardDone) -> _ShardTable:
        table, problems = read_segments(self._run, marker, self._images(marker), self._columns)
        if problems:  # what is no text could not be turned into one
            number = table.schema.get_field_index("rle_counts")
            is_sound = pa.array([place not in problems for place in range(table.num_rows)])
            texts = compute.if_else(is_sound, table["rle_counts"], "")
            table = table.set_column(number, "rle_counts", texts)
        table = table.unify_dictionaries().combine_chunks()
        ids: Any = table["image_id"].combine_chunks()
        codes = ids.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(ids.dictionary) + 1))
        names = ids.dictionary.to_pylist()
        places = zip(names, np.split(order, bounds[1:-1]), strict=True) if names else ()
        return _ShardTable(table, dict(places), problems)


class Predictions:
    """The predicted segments of a run by `image_id`, as they are finished at first use.

    Args:
        run: at any place.
        damaged: counts the segments and images that are left out; None: a new one.

    Attributes:
        damaged: as far as images were read.
    """

    def __init__(self, run: RunFolder, damaged: DamagedRows | None = None) -> None:
        self._run = run
        self.damaged = damaged or DamagedRows()
        self._done: dict[int, ShardDone] | None = None
        self._place: dict[str, int] = {}
        self._images = lru_cache(_SHARDS_OF_IMAGES)(self._read_images)
        kind = ("kind",) if run.mask_kind == "instance" else ()
        columns = (*MASK_COLUMNS, *kind, SCORE)
        self._segments = SegmentReader(run, columns, lambda marker: self._images(marker.shard))

    def in_order(self, image_ids: Iterable[str]) -> list[str]:
        """Return the images that the run has, in manifest order: so each shard is read once."""
        wanted = list(image_ids)
        self._find([image_id for image_id in wanted if image_id not in self._place])
        return sorted(
            (image_id for image_id in wanted if self._place[image_id] >= 0),
            key=lambda image_id: self._place[image_id],
        )

    def _find(self, new: list[str]) -> None:
        """Look up the places of images; -1 is none."""
        if new:
            self._place |= dict(zip(new, self._run.places(new), strict=True))

    def image(self, image_id: str) -> Row | None:
        """Return an annotated image's row (`IMAGE_COLUMNS`); None where it is not one."""
        marker = self._marker(image_id)
        return None if marker is None else self._images(marker.shard).get(image_id)

    def segments(self, image_id: str) -> list[Row]:
        """Return an image's segments (`MASK_COLUMNS` and the score) in order, none damaged."""
        marker, image = self._marker(image_id), self.image(image_id)
        if marker is None or image is None:
            return []
        rows = self._segments.segments(marker, image_id)
        names = [
            f"{image['path']}, segment {row['segment_index']}: {row['damage']}"
            for row in rows
            if row["damage"]
        ]
        if names:
            self.damaged.add(DAMAGED_MASKS, {image_id: names})
        return [row for row in rows if not row.pop("damage")]

    def _marker(self, image_id: str) -> ShardDone | None:
        if not self.in_order([image_id]):
            return None
        if self._done is None:
            self._done = self._run.done()
        return self._done.get(self._run.shard_of(self._place[image_id]))

    def _read_images(self, shard: int) -> dict[str, Row]:
        assert self._done is not None
        table = self._run.shard_table(self._done[shard], "images", IMAGE_COLUMNS)
        rows = [row for row in rows_of(table) if row["status"] == "ok"]
        unusable = {row["image_id"]: [size_problem(row)] for row in rows if not is_image_size(row)}
        self.damaged.add(DAMAGED_IMAGES, unusable)
        return {row["image_id"]: row for row in rows if row["image_id"] not in unusable}
