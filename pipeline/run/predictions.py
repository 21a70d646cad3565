"""Predicted segments of single images, found by way of the manifest."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, grouped
from schemas.records import ShardDone

_SHARDS_IN_MEMORY = 4
_IMAGE_COLUMNS = ("image_id", "path", "height", "width", "exif_orientation")
_SEGMENT_COLUMNS = (
    "image_id", "label", "category_id", "segment_index", "height", "width", "rle_counts",
    "area_px", "bbox_xywh", "mean_prob",
)  # fmt: skip


class Predictions:
    """The segments of a run as they were finished when this was first asked."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._done: dict[int, ShardDone] = {}
        self._place: dict[str, int] = {}
        self._read = lru_cache(_SHARDS_IN_MEMORY)(self._read_shard)

    def in_order(self, image_ids: Iterable[str]) -> list[str]:
        """Return those that the run has, in manifest order: so each shard is read once."""
        wanted = list(image_ids)
        self._find([image_id for image_id in wanted if image_id not in self._place])
        return sorted(
            (image_id for image_id in wanted if self._place[image_id] >= 0),
            key=lambda image_id: self._place[image_id],
        )

    def _find(self, new: list[str]) -> None:
        if not new:
            return
        self._done = self._done or self._run.done()
        known = self._run.manifest().column("image_id").combine_chunks()
        compute: Any = pyarrow.compute  # made at run time: unknown to type checkers
        places = compute.index_in(pa.array(new, known.type), value_set=known).to_pylist()
        found = (-1 if place is None else place for place in places)
        self._place |= dict(zip(new, found, strict=True))

    def image(self, image_id: str) -> Row | None:
        """Return an annotated image's `path`, `height` and `width`; None where it is not one."""
        return self._shard(image_id)[0].get(image_id)

    def segments(self, image_id: str) -> list[Row]:
        """Return an image's annotation rows (some of their columns) in order."""
        return self._shard(image_id)[1].get(image_id, [])

    def _shard(self, image_id: str) -> tuple[dict[str, Row], dict[str, list[Row]]]:
        if not self.in_order([image_id]):
            return {}, {}
        info = self._run.info
        return self._read(self._place[image_id] // info.job().images_per_shard(info.num_images))

    def _read_shard(self, shard: int) -> tuple[dict[str, Row], dict[str, list[Row]]]:
        marker = self._done.get(shard)
        if marker is None:
            return {}, {}
        table = self._run.shard_table(marker, "images", (*_IMAGE_COLUMNS, "status"))
        images = {row["image_id"]: row for row in table.to_pylist() if row["status"] == "ok"}
        segments = self._run.shard_table(marker, "annotations", _SEGMENT_COLUMNS)
        return images, grouped(segments.to_pylist(), "image_id")
