"""The images and segments of a run, by row: some columns of its tables are kept in memory.

A row is an image of a committed shard, counted in manifest order. 100,000 images take about 20 MB,
and each segment 20 bytes more, once the segments are asked for.
Masks are read shard by shard when an image is looked at (`ReviewIndex.segments_of`).
"""

from collections.abc import Sequence
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.decision.review_priority import share_less_doubtful
from pipeline.run.folder import RunFolder
from pipeline.run.markers import READERS
from pipeline.run.predictions import SegmentReader
from pipeline.run.reader import IMAGE_COLUMNS, MASK_COLUMNS, RunReader
from pipeline.run.tables.rows import Row, rows_of
from pipeline.run.vectors import has_vectors
from pipeline.storage.waiting import StorageThreads
from schemas.records import ShardDone, TableName
from schemas.score_columns import SCORE, SCORE_COLUMNS
from schemas.tables import IMAGES

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

Rows = NDArray[np.int32]
"""Row numbers, in the order in which they are shown."""

_SCORES_IN_MEMORY = tuple(
    column.name for column in SCORE_COLUMNS.values() if column.filterable or column.name == SCORE
)
_SCORES_SHOWN = tuple(column.name for column in SCORE_COLUMNS.values() if "viewer" in column.pages)


class ReviewIndex:
    """The images of the shards that were finished when the index was made; safe for threads.

    The images tables are read at once, the columns of the segments at first use.

    Args:
        run: at any place.
        only: `image_id` of the images that are shown; None: all.

    Attributes:
        may_overlap: whether the segments are instances; their rows have a `kind` then.
        has_vectors: whether images can be searched for by words.
    """

    def __init__(self, run: RunFolder, only: frozenset[str] | None = None) -> None:
        finished = RunReader(run)
        self.run = run
        self._only = only
        self.errors = finished.errors
        self.num_left = finished.num_left
        self.labels = run.info.job().vocabulary.names
        self.may_overlap = run.mask_kind == "instance"
        self._markers = finished.markers
        self.has_vectors = has_vectors(run, self._markers)
        self._places = {marker.shard: place for place, marker in enumerate(self._markers)}
        tables = self._read("images", IMAGE_COLUMNS)
        self._starts = np.array([0, *accumulate(table.num_rows for table in tables)], np.int64)
        empty = IMAGES.empty_table().select(list(IMAGE_COLUMNS))
        self._table = pa.concat_tables([*tables, empty]).unify_dictionaries().combine_chunks()
        kind = ("kind",) if self.may_overlap else ()
        columns = (*MASK_COLUMNS, *kind, *_SCORES_SHOWN)
        self._segment_reader = SegmentReader(run, columns, self._images_of)

    def __len__(self) -> int:
        """Return the number of images, failed ones included."""
        return self._table.num_rows

    def _read(self, name: TableName, columns: Sequence[str]) -> list[pa.Table]:
        wanted = list(columns)
        if self._only is not None and "image_id" not in wanted:
            wanted.append("image_id")
        read = partial(self.run.shard_table, name=name, columns=wanted)
        with StorageThreads(READERS) as pool:
            return [self._shown(table).select(columns) for table in pool.map(read, self._markers)]

    def _shown(self, table: pa.Table) -> pa.Table:
        """Return the rows of a table that are of images that are shown."""
        if self._only is None:
            return table
        is_shown = [image_id in self._only for image_id in table["image_id"].to_pylist()]
        return table.filter(pa.array(is_shown, pa.bool_()))

    def row(self, image_id: str) -> int | None:
        """Return the row of an image; None if it is not of this run."""
        found = compute.index(self._table["image_id"], pa.scalar(image_id, pa.string())).as_py()
        return None if found < 0 else found

    def rows(self, image_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of many images at once."""
        wanted = pa.array(image_ids, pa.string())
        return compute.index_in(wanted, value_set=self._table["image_id"]).to_pylist()

    def image(self, row: int) -> dict[str, Any]:
        """Return the columns of one image, and the index of its `shard`."""
        return {**self._table.slice(row, 1).to_pylist()[0], "shard": self.marker(row).shard}

    def _images_of(self, marker: ShardDone) -> dict[str, Row]:
        place = self._places[marker.shard]
        start, stop = self._starts[place : place + 2].tolist()
        sizes = self._table.slice(start, stop - start).select(["image_id", "height", "width"])
        return {row["image_id"]: row for row in rows_of(sizes)}

    def marker(self, row: int) -> ShardDone:
        """Return the shard that holds a row."""
        return self._markers[int(np.searchsorted(self._starts, row, side="right")) - 1]

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which images have no masks because something went wrong with them."""
        return _numpy(compute.equal(self._table["status"], "error"))

    @cached_property
    def by_priority(self) -> Rows:
        """All rows: highest review priority first, in manifest order where equal, failed last."""
        return np.lexsort((-self.priority, self.failed)).astype(np.int32)

    @cached_property
    def doubt(self) -> NDArray[np.float64]:
        """Share of the images that are less doubtful; NaN: the image failed."""
        return doubt_of(self.priority, self.failed)

    @property
    def priority(self) -> NDArray[np.float32]:
        """Review priority of each image."""
        return _numpy(self._table["review_priority"])

    @property
    def ids(self) -> pa.ChunkedArray:
        """`image_id` of each image."""
        return self._table["image_id"]

    @property
    def paths(self) -> pa.ChunkedArray:
        """Path of each image in the collection."""
        return self._table["path"]

    @cached_property
    def num_segments(self) -> NDArray[np.int32]:
        """Masks of each image."""
        return _numpy(self._table["num_segments"])

    @cached_property
    def segments(self) -> "SegmentIndex":
        """Label, index and filterable scores of every segment."""
        numbers = ("category_id", "segment_index")
        tables = self._read("annotations", ("image_id", *numbers, *_SCORES_IN_MEMORY))
        ids = self._table["image_id"].combine_chunks()
        rows = [
            _rows_of(table, ids.slice(start, stop - start)) + start
            for table, start, stop in zip(tables, self._starts[:-1], self._starts[1:], strict=True)
        ]
        return SegmentIndex(
            np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int32),
            {name: _joined(tables, name, np.int32) for name in numbers},
            {name: _joined(tables, name, np.float32) for name in _SCORES_IN_MEMORY},
            len(self),
        )

    def read_scores(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Read score columns of all segments, in the order of `segments`; they are not kept."""
        tables = self._read("annotations", names)
        order = self.segments.order
        return {name: _joined(tables, name, np.float64)[order] for name in names}

    def segments_of(self, row: int) -> list[Row]:
        """Return the annotation rows of an image in their order, with the scores of the viewer.

        Each says in `damage` what is wrong with it, and has no mask then; empty: nothing is.
        """
        image_id = self._table["image_id"][row].as_py()
        return self._segment_reader.segments(self.marker(row), image_id)

    def with_error(self, code: str) -> NDArray[np.bool_]:
        """Return which images failed with a code."""
        return _numpy(compute.fill_null(compute.equal(self._table["error_code"], code), False))

    def rows_of_paths(self, paths: Sequence[str]) -> Rows:
        """Return the rows of images by their path, in order; -1: the run does not have it."""
        found = compute.index_in(pa.array(paths, pa.string()), value_set=self.paths)
        return _numpy(compute.fill_null(found, -1)).astype(np.int32)

    def rows_of_ids(self, image_ids: pa.Array) -> Rows:
        """Return the rows of images by their `image_id`, in order; -1: the run does not have it."""
        found = compute.index_in(image_ids, value_set=self._table["image_id"])
        return _numpy(compute.fill_null(found, -1)).astype(np.int32)

    def with_path(self, text: str) -> NDArray[np.bool_]:
        """Return which images have a text in their path, upper or lower case."""
        return _numpy(compute.match_substring(self._table["path"], text, ignore_case=True))


class SegmentIndex:
    """Columns of all segments, in the order of the images' rows.

    Attributes:
        row: (N,) the image's row.
        order: (N,) the segment's place in the tables.
        label: (N,) category id.
        segment_index: (N,) of the segment in its image; small ones may have been dropped before it.
        scores: (N,) each, by name: the filterable score columns.
    """

    def __init__(
        self,
        row: NDArray[np.int32],
        numbers: dict[str, NDArray[np.int32]],
        scores: dict[str, NDArray[np.float32]],
        num_images: int,
    ) -> None:
        self.order = np.argsort(row, kind="stable").astype(np.int32)
        self.row, self.label = row[self.order], numbers["category_id"][self.order]
        self.segment_index = numbers["segment_index"][self.order]
        self.scores = {name: values[self.order] for name, values in scores.items()}
        self._starts = np.searchsorted(self.row, np.arange(num_images + 1))

    @property
    def score(self) -> NDArray[np.float32]:
        """(N,) mean probability under the mask."""
        return self.scores[SCORE]

    def of(self, row: int) -> slice:
        """Return where the segments of an image are."""
        return slice(int(self._starts[row]), int(self._starts[row + 1]))

    def images_by_label(self, num_labels: int) -> list[int]:
        """Return how many images hold each label, from label 1 on."""
        pairs = self.row.astype(np.int64) * (num_labels + 1) + self.label
        if np.any(pairs[1:] < pairs[:-1]):  # segments are written label by label
            pairs.sort()
        first = np.ones(len(pairs), bool)
        first[1:] = pairs[1:] != pairs[:-1]
        labels = pairs[first] % (num_labels + 1)
        return np.bincount(labels, minlength=num_labels + 1)[1:].tolist()


def doubt_of(priority: NDArray[Any], failed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of the images that are less doubtful; NaN for failed images."""
    shares = np.full(len(priority), np.nan)
    shares[~failed] = share_less_doubtful(priority[~failed])
    return shares


def _rows_of(table: pa.Table, ids: pa.Array) -> NDArray[np.int64]:
    """Return the place of each segment's image among the images of its shard."""
    if not table.num_rows:
        return np.empty(0, np.int64)
    column: Any = table["image_id"].unify_dictionaries().combine_chunks()
    places = compute.index_in(column.dictionary, value_set=ids).to_numpy(zero_copy_only=False)
    return places[column.indices.to_numpy(zero_copy_only=False)].astype(np.int64)


def _joined(tables: Sequence[pa.Table], column: str, kind: Any) -> NDArray[Any]:
    columns = (_numpy(table[column]).astype(kind, copy=False) for table in tables)
    values = np.concatenate([*columns, np.empty(0, kind)])
    if values.dtype.kind == "f" and not np.isfinite(values).all():  # of damaged rows
        np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
    return values


def _numpy(column: Any) -> NDArray[Any]:
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)
