"""The images of a run in review order: some columns of its tables in memory, nothing else.

A row is an image of a committed shard, counted in manifest order. A hundred thousand images take
some 20 MB; their masks are read when they are looked at (`masks`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pipeline.run.folder import RunFolder, TableName
from pipeline.run.markers import READERS
from pipeline.run.reader import RunReader
from schemas.records import ShardDone
from schemas.tables import IMAGES

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

Rows = NDArray[np.int32]
"""Row numbers, in the order in which they are shown."""

_IMAGE_COLUMNS = (
    "image_id", "path", "uri", "status", "error_code", "error_message", "height", "width",
    "num_segments", "review_priority",
)  # fmt: skip
_SEGMENT_COLUMNS = ("image_id", "category_id", "mean_prob")
_MORE_SCORES = ("margin_mean", "entropy_mean", "area_frac")


class ReviewIndex:
    """The shards that were finished when it was made."""

    def __init__(self, run: RunFolder) -> None:
        """Read the images tables; the segments' columns are read when first asked for."""
        finished = RunReader(run)
        self.run = run
        self.errors = finished.errors
        self.num_left = finished.num_left
        self.labels = run.info.job().vocabulary.names
        self._markers = finished.markers
        tables = self._read("images", _IMAGE_COLUMNS)
        self._starts = np.array([0, *accumulate(table.num_rows for table in tables)], np.int64)
        empty = IMAGES.empty_table().select(list(_IMAGE_COLUMNS))
        self._table = pa.concat_tables([*tables, empty]).unify_dictionaries().combine_chunks()

    def __len__(self) -> int:
        """Return the number of images, failed ones included."""
        return self._table.num_rows

    def _read(self, name: TableName, columns: Sequence[str]) -> list[pa.Table]:
        read = partial(_read_table, self.run, name, list(columns))
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read, self._markers))

    def row(self, image_id: str) -> int | None:
        """Return the row of an image; None if it is not of this run."""
        found = compute.index(self._table["image_id"], pa.scalar(image_id, pa.string())).as_py()
        return None if found < 0 else found

    def rows(self, image_ids: Sequence[str]) -> list[int | None]:
        """Return the rows of many images at once."""
        wanted = pa.array(image_ids, pa.string())
        return compute.index_in(wanted, value_set=self._table["image_id"]).to_pylist()

    def image(self, row: int) -> dict[str, Any]:
        """Return the columns of one image."""
        return self._table.slice(row, 1).to_pylist()[0]

    def marker(self, row: int) -> ShardDone:
        """Return the shard that holds a row."""
        return self._markers[int(np.searchsorted(self._starts, row, side="right")) - 1]

    @cached_property
    def failed(self) -> NDArray[np.bool_]:
        """Which images have no masks because something went wrong with them."""
        return _numpy(compute.equal(self._table["status"], "error"))

    @cached_property
    def order(self) -> Rows:
        """All rows: the most doubtful images first, in manifest order where equal, failed last."""
        return np.lexsort((-self.doubt, self.failed)).astype(np.int32)

    @property
    def doubt(self) -> NDArray[np.float32]:
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
        """Label and score of every segment."""
        tables = self._read("annotations", _SEGMENT_COLUMNS)
        ids = self._table["image_id"].combine_chunks()
        rows = [
            _rows_of(table, ids.slice(start, stop - start)) + start
            for table, start, stop in zip(tables, self._starts[:-1], self._starts[1:], strict=True)
        ]
        return SegmentIndex(
            np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int32),
            _joined(tables, "category_id", np.int32),
            _joined(tables, "mean_prob", np.float32),
            len(self),
        )

    def more_scores(self) -> dict[str, NDArray[np.float64]]:
        """Read the other columns that a mask's priority follows from, in the segments' order."""
        tables = self._read("annotations", _MORE_SCORES)
        order = self.segments.order
        return {name: _joined(tables, name, np.float64)[order] for name in _MORE_SCORES}

    def with_error(self, code: str) -> NDArray[np.bool_]:
        """Return which images failed with a code."""
        return _numpy(compute.fill_null(compute.equal(self._table["error_code"], code), False))

    def named(self, text: str) -> NDArray[np.bool_]:
        """Return which images have a text in their path, any case."""
        return _numpy(compute.match_substring(self._table["path"], text, ignore_case=True))


class SegmentIndex:
    """Columns of all segments, in the rows' order.

    Attributes:
        row: (N,) the image's row.
        order: (N,) the segment's place in the tables.
        label: (N,) category id.
        score: (N,) mean probability under the mask.
    """

    def __init__(
        self,
        row: NDArray[np.int32],
        label: NDArray[np.int32],
        score: NDArray[np.float32],
        num_images: int,
    ) -> None:
        """Find where the segments of each image begin."""
        self.order = np.argsort(row, kind="stable").astype(np.int32)
        self.row, self.label = row[self.order], label[self.order]
        self.score = score[self.order]
        self._starts = np.searchsorted(self.row, np.arange(num_images + 1))

    def of(self, row: int) -> slice:
        """Return where the segments of an image stand."""
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


def _read_table(run: RunFolder, name: TableName, columns: list[str], marker: ShardDone) -> pa.Table:
    return run.shard_table(marker, name, columns)


def _rows_of(table: pa.Table, ids: pa.Array) -> NDArray[np.int64]:
    """Return the place of each segment's image among a shard's images."""
    if not table.num_rows:
        return np.empty(0, np.int64)
    words: Any = table["image_id"].unify_dictionaries().combine_chunks()
    places = compute.index_in(words.dictionary, value_set=ids).to_numpy(zero_copy_only=False)
    return places[words.indices.to_numpy(zero_copy_only=False)].astype(np.int64)


def _joined(tables: Sequence[pa.Table], column: str, kind: Any) -> NDArray[Any]:
    columns = (_numpy(table[column]).astype(kind, copy=False) for table in tables)
    return np.concatenate([*columns, np.empty(0, kind)])


def _numpy(column: Any) -> NDArray[Any]:
    if isinstance(column, pa.ChunkedArray):
        return column.to_numpy()
    return column.to_numpy(zero_copy_only=False)
