"""The annotated images of a run as columns, and the labels found in them."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pipeline.run.folder import RunFolder
from pipeline.run.markers import READERS
from pipeline.run.tables.rows import Row
from pipeline.storage.waiting import StorageThreads
from schemas.errors import UserError
from schemas.records import ShardDone, TableName
from schemas.tables import ANNOTATIONS, IMAGES

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_COLUMNS = ["image_id", "path", "height", "width", "review_priority"]


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of a run that were annotated when they were read; an image's place is its row.

    Attributes:
        run: where they are from.
        table: `image_id`, `path`, `height`, `width`, `review_priority`, and the index of the
            `shard`, in manifest order.
    """

    run: RunFolder
    table: pa.Table

    def __len__(self) -> int:
        """Return the number of images."""
        return self.table.num_rows

    @property
    def paths(self) -> pa.ChunkedArray:
        """Path of each image in the collection."""
        return self.table["path"]

    @property
    def priority(self) -> NDArray[np.float32]:
        """Review priority of each image."""
        return self.table["review_priority"].to_numpy()

    @property
    def size_px(self) -> NDArray[np.int64]:
        """Pixels of each image."""
        height, width = self._sides
        return height * width

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Height by width of each image."""
        height, width = self._sides
        return height / width

    @property
    def _sides(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        height, width = (self.table[name].to_numpy() for name in ("height", "width"))
        return height.astype(np.int64), width.astype(np.int64)

    def row(self, place: int) -> Row:
        """Return an image's columns, as `RunImages` takes them."""
        return self.table.slice(place, 1).to_pylist()[0]

    def places(self, image_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Return the places of images; -1: not annotated."""
        known = self.table["image_id"].combine_chunks()
        found = compute.index_in(image_ids.cast(pa.string()), value_set=known)
        return compute.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def annotated_images(run: RunFolder) -> AnnotatedImages:
    """Read the images of a run, in manifest order.

    Raises:
        UserError: none is annotated yet.
    """
    markers = list(run.done().values())
    tables = _read(run, markers, "images", [*_COLUMNS, "status"])
    empty = IMAGES.empty_table().select([*_COLUMNS, "status"])
    parts = [
        table.append_column("shard", pa.array([marker.shard] * len(table), pa.int64()))
        for table, marker in zip(tables, markers, strict=True)
    ]
    parts.append(empty.append_column("shard", pa.array([], pa.int64())))
    joined = pa.concat_tables(parts).unify_dictionaries()
    is_ok = compute.equal(joined["status"].cast(pa.string()), "ok")
    images = AnnotatedImages(run, joined.filter(is_ok).drop_columns("status").combine_chunks())
    if not len(images):
        raise UserError(f"{run.folder.uri}: no image is annotated yet")
    return images


def labels_found(images: AnnotatedImages) -> NDArray[np.bool_]:
    """Return (N, K) which labels the run found in each image; column k is label k + 1."""
    run = images.run
    found = np.zeros((len(images), len(run.info.job().vocabulary.names)), bool)
    markers = list(run.done().values())
    tables = _read(run, markers, "annotations", ["image_id", "category_id"])
    joined = pa.concat_tables([*tables, ANNOTATIONS.empty_table().select(tables[0].column_names)])
    segments = joined.unify_dictionaries().combine_chunks()
    places = images.places(segments["image_id"])
    labels = segments["category_id"].to_numpy() - 1
    is_known = (places >= 0) & (labels < found.shape[1])
    found[places[is_known], labels[is_known]] = True
    return found


def _read(
    run: RunFolder, markers: list[ShardDone], name: TableName, columns: list[str]
) -> list[pa.Table]:
    with StorageThreads(READERS) as pool:
        return list(pool.map(partial(run.shard_table, name=name, columns=columns), markers))
