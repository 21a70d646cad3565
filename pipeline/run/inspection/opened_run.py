"""A run in Python: its tables as Arrow, pandas or Polars, its masks as arrays.

from pipeline import open_run

run = open_run("pets")
run.annotations(to="pandas")
run.label_map("cats/1.jpg")
"""

import os
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ovseg_core.rle.encode import decode_rle
from pipeline.exporters.shared.corrected_run import CorrectedRun, CorrectedShard, MaskSource
from pipeline.exporters.shared.segments import CUT_COLUMNS, ResolvedKind, as_run, resolve_kind
from pipeline.run.folder import RunFolder
from pipeline.run.reader import FinishedShard, Row, paint_segments
from pipeline.run.tables.damaged import Damage
from schemas.errors import UserError
from schemas.records import REPEATED_TEXT
from schemas.tables import ANNOTATIONS, IMAGES, SCORES, TABLES

TableLibrary = Literal["arrow", "pandas", "polars"]

_ONLY_IF_ASKED = ("uri",)
"""Columns of the images table that are left out of all: where an image is read from, the manifest
alone says."""
_VERDICT = "verdict"
_VERDICT_FIELD = pa.field(_VERDICT, REPEATED_TEXT)


def open_run(run: str | os.PathLike[str], masks: MaskSource | None = None) -> "OpenedRun":
    """Open a run as far as it is finished.

    Args:
        run: the run folder, a path or any fsspec URL.
        masks: `predicted`, `reviewed` or `merged`, as `ovseg export --masks`; None: merged once
            people said anything of the run, else predicted.

    Raises:
        RunFolderError: it is not a run folder, or is damaged.
        UserError: only reviewed masks are wanted, and there are none.
    """
    if masks not in (None, "predicted", "reviewed", "merged"):
        raise UserError(f"masks: expected predicted, reviewed or merged, got {masks!r}")
    return OpenedRun(CorrectedRun(RunFolder.open(os.fspath(run)), masks))


class OpenedRun:
    """A run that `open_run` has opened; it shows the shards that were finished then.

    Tables are read whole: of a run of millions of images ask for the columns that you need, or go
    image by image with `label_maps`.

    Args:
        reader: of the run.
    """

    def __init__(self, reader: CorrectedRun) -> None:
        self._reader = reader
        self._last: tuple[FinishedShard, dict[str, list[Row]]] | None = None

    def __repr__(self) -> str:
        reader = self._reader
        return f"OpenedRun({reader.run.folder.uri!r}, {reader.num_images} images, {reader.masks})"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names in vocabulary order; label k has the number k + 1 (`category_id`)."""
        return self._reader.run.info.job().vocabulary.names

    @property
    def left_out(self) -> dict[str, Damage]:
        """Damaged rows that were left out of all that was read so far, by what they are."""
        return self._reader.left_out()

    def images(self, columns: list[str] | None = None, to: TableLibrary = "arrow") -> Any:
        """Return one row per image, failed ones too: size, status, error code, priority, seconds.

        Args:
            columns: those to read; None: all but `uri`. Their meaning:
                `schemas.records.ImageResult`.
            to: the library whose table is returned.
        """
        wanted = columns or [name for name in IMAGES.names if name not in _ONLY_IF_ASKED]
        return _table(self._stored("images", _wanted(wanted, IMAGES.names)), to)

    def scores(self, columns: list[str] | None = None, to: TableLibrary = "arrow") -> Any:
        """Return one row per image and label, found or not: its highest and mean probability.

        They are the model's, whatever people said of the masks.

        Args:
            columns: those to read; None: all. Their meaning: `schemas.records.ScoreRow`.
            to: the library whose table is returned.
        """
        return _table(self._stored("scores", _wanted(columns, SCORES.names)), to)

    def annotations(self, columns: list[str] | None = None, to: TableLibrary = "arrow") -> Any:
        """Return one row per segment: label, RLE, area, box and scores.

        With people's corrections the table has a further column `verdict`, the last one if it is
        not asked for by name; masks that people drew have no scores but `mean_prob`, which is 1.
        Masks are joined and cut as by an export, see `pipeline.exporters.shared.segments.as_run`.

        Args:
            columns: those to read; None: all. Their meaning: `schemas.records.Annotation`.
            to: the library whose table is returned.

        Raises:
            UserError: no such column; or `verdict` is asked for, and nobody has reviewed the run.
        """
        has_review = self._reader.masks != "predicted"
        if _VERDICT in (columns or ()) and not has_review:
            raise UserError(
                f"no column {_VERDICT}: nobody has reviewed {self._reader.run.folder.uri}, or it "
                'was opened with masks="predicted"; leave the column out'
            )
        known = [*ANNOTATIONS.names, _VERDICT] if has_review else ANNOTATIONS.names
        wanted = _wanted(columns, known)
        if has_review and _VERDICT not in wanted:
            wanted = [*wanted, _VERDICT]
        tables = [self._segment_table(shard, wanted) for shard in self._reader.shards()]
        return _table(pa.concat_tables(tables or [_segment_schema(wanted).empty_table()]), to)

    def segments(self, path: str) -> list[Row]:
        """Return the annotation rows of one image, as `annotations` has them.

        Args:
            path: of the image, as the column `path` of the images table has it.

        Raises:
            UserError: the run has no such image, or it failed.
        """
        return as_run(self._found(path)[1], self._kind)

    def label_map(self, path: str) -> NDArray[np.uint16]:
        """Return (H, W) of one image: 0 is background, k the label `labels[k - 1]`.

        Args:
            path: of the image, as in `segments`.
        """
        image, rows = self._found(path)
        return paint_segments(rows, (image["height"], image["width"]))

    def masks(self, path: str) -> NDArray[np.bool_]:
        """Return (N, H, W) of one image, in the order of `segments`.

        Args:
            path: of the image, as in `segments`.
        """
        image, _ = self._found(path)
        size_hw = image["height"], image["width"]
        rows = self.segments(path)
        masks = [decode_rle(row["rle_counts"], size_hw).astype(bool) for row in rows]
        return np.stack(masks) if masks else np.zeros((0, *size_hw), bool)

    def label_maps(self) -> Iterator[tuple[str, NDArray[np.uint16]]]:
        """Yield the path and label map of every image that has masks or none, in order."""
        for shard in self._reader.shards():
            for image, label_map in shard.label_maps():
                yield image["path"], label_map

    def _stored(self, name: Literal["images", "scores"], columns: list[str]) -> pa.Table:
        run, (schema, _) = self._reader.run, TABLES[name]
        tables = [run.shard_table(marker, name, columns) for marker in self._reader.markers]
        empty = pa.schema([schema.field(column) for column in columns]).empty_table()
        return pa.concat_tables(tables or [empty], promote_options="permissive")

    def _segment_table(self, shard: FinishedShard, columns: list[str]) -> pa.Table:
        needed = dict.fromkeys((*(name for name in columns if name != _VERDICT), "image_id"))
        if not isinstance(shard, CorrectedShard):
            return shard.predicted_table(list(needed)).select(columns)
        if shard.touched:
            needed |= dict.fromkeys(CUT_COLUMNS)
        images = groupby(shard.segments(list(needed)), lambda row: row["image_id"])
        rows = (row for _, found in images for row in as_run(list(found), self._kind))
        picked = [{name: row.get(name) for name in columns} for row in rows]
        return pa.Table.from_pylist(picked, _segment_schema(columns))

    @cached_property
    def _kind(self) -> ResolvedKind:
        return resolve_kind(self._reader, "as_run")

    def _found(self, path: str) -> tuple[Row, list[Row]]:
        shard_index = self._shard_of.get(path)
        if shard_index is None:
            raise UserError(
                f"{path}: not among the finished images of the run; paths are those of the column "
                "`path` of `images()`"
            )
        if self._last is None or self._last[0].marker.shard != shard_index:
            [shard] = self._reader.shards({shard_index})
            self._last = shard, shard.segments_by_image()
        shard, rows = self._last
        for image in shard.images.values():
            if image["path"] == path:
                return image, rows.get(image["image_id"], [])
        raise UserError(f"{path}: failed in the run, was rejected or is not reviewed: no masks")

    @cached_property
    def _shard_of(self) -> dict[str, int]:
        """Index of the shard of each image by path."""
        run = self._reader.run
        return {
            path: marker.shard
            for marker in self._reader.markers
            for path in run.shard_table(marker, "images", ["path"])["path"].to_pylist()
        }


def _wanted(columns: list[str] | None, known: list[str]) -> list[str]:
    unknown = sorted(set(columns or ()) - set(known))
    if unknown:
        raise UserError(f"no column {', '.join(unknown)}; there are {', '.join(known)}")
    return columns or known


def _segment_schema(columns: list[str]) -> pa.Schema:
    """Return the schema of segments; with a verdict any value may be missing."""
    if _VERDICT not in columns:
        return pa.schema([ANNOTATIONS.field(name) for name in columns])
    fields = {name: ANNOTATIONS.field(name).with_nullable(True) for name in ANNOTATIONS.names}
    return pa.schema([fields.get(name, _VERDICT_FIELD) for name in columns])


def _table(table: pa.Table, to: TableLibrary) -> Any:
    """Return an Arrow table in another library's form."""
    if to == "arrow":
        return table
    if to not in ("pandas", "polars"):
        raise UserError(f"to: expected arrow, pandas or polars, got {to!r}")
    try:
        library = import_module(to)
    except ImportError:  # its traceback says nothing more
        raise UserError(f"{to} is not installed: pip install {to}, or take Arrow") from None
    return table.to_pandas() if to == "pandas" else library.from_arrow(table)
