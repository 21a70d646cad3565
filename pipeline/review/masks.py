"""The segments of the images that are looked at, read shard by shard as they are asked for."""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.review.cache import BoundedCache
from pipeline.review.index import ReviewIndex
from schemas.records import ShardDone

Segment = dict[str, Any]
"""A row of the annotations table, without the image's columns."""

_COLUMNS = (
    "image_id", "label", "category_id", "segment_index", "height", "width", "rle_counts",
    "area_px", "bbox_xywh", "mean_prob", "margin_mean", "boundary_uncertainty", "area_frac",
)  # fmt: skip
_TABLES_BYTES = 256 << 20


class Masks:
    """Reads the annotations of a run; keeps those of some shards.

    Args:
        index: which shard holds an image.
    """

    def __init__(self, index: ReviewIndex) -> None:
        """Keep the index."""
        self._index = index
        self._tables: BoundedCache[pa.Table] = BoundedCache(_TABLES_BYTES, _num_bytes)

    def of(self, row: int) -> list[Segment]:
        """Return an image's segments in their order."""
        marker = self._index.marker(row)
        table = self._tables.get(marker.shard, lambda: self._read(marker))
        image_id = self._index.image(row)["image_id"]
        words: Any = table["image_id"].combine_chunks()
        if not len(words):
            return []
        code = words.dictionary.index(image_id).as_py()
        places = np.flatnonzero(words.indices.to_numpy() == code)
        return table.take(pa.array(places)).drop_columns(["image_id"]).to_pylist()

    def _read(self, marker: ShardDone) -> pa.Table:
        table = self._index.run.shard_table(marker, "annotations", _COLUMNS)
        return table.unify_dictionaries().combine_chunks()


def _num_bytes(table: pa.Table) -> int:
    return table.nbytes
