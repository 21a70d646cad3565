"""One finished shard against its marker, the manifest, the vocabulary and its own masks.

The marker comes first, then the bytes of its files, then their rows; what builds on something that
is damaged is not looked at.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from pydantic import ValidationError

from ovseg_core.rle.check import mask_facts, texts_of
from pipeline.run import markers
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.findings import MAX_NAMED, FindingKind, Findings
from pipeline.run.tables.damaged import check_masks, is_image_size
from pipeline.run.tables.row_check import checked_rows
from pipeline.run.tables.rows import Row, rows_of
from pipeline.run.tables.shard_files import FileName, read_features
from pipeline.storage.local import FileTooLargeError, NotAFileError
from schemas.base import counted, problems
from schemas.records import TABLE_NAMES, FileEntry, ShardDone, TableName
from schemas.tables import READ_VERSIONS, RESUMED_VERSIONS, TABLES
from schemas.untrusted import MAX_PIXELS

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_SHOWN = 60
"""Characters of what a file says."""
_AGAIN = "give the command that made the run again: it makes this shard anew"
_FROM_A_COPY = (
    "restore the file from a copy: it is of an older version of ovseg, which this one only reads"
)

_KEYS: dict[str, tuple[str, str]] = {
    "scores": ("category_id", "one row for each image and label"),
    "annotations": ("segment_index", "one row a segment"),
    "vectors": ("", "one row an image"),
}
"""By table: the column that tells the rows of an image apart, and that rule in words."""

Content = dict[FileName, bytes | str]
"""The bytes of a shard's files; a text: why there are none."""


class ReadShard(NamedTuple):
    """A shard as it lies in the run folder; None and no reason: it has no marker any more."""

    marker: ShardDone | None
    why_none: str
    files: Content


def read_shard(run: RunFolder, shard: int) -> ReadShard:
    """Return a shard's marker and the content of its files; safe for threads."""
    try:
        marker = markers.checked_marker(run.folder, "done", shard, ShardDone)
    except FileNotFoundError:
        return ReadShard(None, "", {})
    except ValidationError as error:
        return ReadShard(None, problems(error)[0], {})
    except (NotAFileError, FileTooLargeError, markers.WrongMarkerError) as error:
        return ReadShard(None, str(error), {})
    files: Content = {name: _content(run, marker.files[name]) for name in marker.files}
    if marker.features and run.folder.exists(marker.features.name):
        files["features"] = _content(run, marker.features)
    return ReadShard(marker, "", files)


def _content(run: RunFolder, entry: FileEntry) -> bytes | str:
    try:
        return run.folder.read_bytes(entry.name, max(entry.size_bytes, 1))
    except FileNotFoundError:
        return "no such file"
    except FileTooLargeError:
        return f"more than {entry.size_bytes:,} bytes"
    except NotAFileError as error:
        return str(error)


class ShardCheck:
    """Checks the shards of one run, one after another.

    Args:
        run: whose.
        findings: where findings go.

    Attributes:
        num_rows: of the tables that could be read.
    """

    def __init__(self, run: RunFolder, findings: Findings) -> None:
        self._run = run
        self._findings = findings
        self._labels = run.info.job().vocabulary.names
        self.num_rows: Counter[TableName] = Counter()

    def check(self, shard: int, read: ReadShard) -> None:
        """Check a shard that has a done marker."""
        where = markers.marker_path("done", shard)
        if read.marker is None:
            if read.why_none:
                self._add("marker", where, "the marker of a shard", read.why_none, _AGAIN)
            return
        if self._is_of_run(where, read.marker):
            _OneShard(self._run, self._findings, self._labels, self.num_rows, read.marker).check(
                read.files
            )

    def _is_of_run(self, where: str, marker: ShardDone) -> bool:
        run = self._run
        if marker.fingerprint != run.fingerprint:
            of_run, found = f"fingerprint {run.fingerprint}", f"{marker.fingerprint[:_SHOWN]}"
            self._add("marker", where, of_run, f"{found}: of another run", _AGAIN)
        elif marker.schema_version not in READ_VERSIONS:
            known = ", ".join(map(str, READ_VERSIONS))
            advice = "read the run with the ovseg that made it"
            self._add("marker", where, f"schema version {known}", marker.schema_version, advice)
        elif marker.tally.num_images != (number := run.rows_of_shard(marker.shard).num_rows):
            found = counted(marker.tally.num_images, "image")
            self._add("marker", where, f"{counted(number, 'image')} in the manifest", found, _AGAIN)
        else:
            return True
        return False

    def _add(
        self, kind: FindingKind, where: str, expected: str, found: object, advice: str
    ) -> None:
        self._findings.add(kind, where, expected, found, advice)


class _OneShard:
    """The check of one shard whose marker is sound."""

    def __init__(
        self,
        run: RunFolder,
        findings: Findings,
        labels: Sequence[str],
        num_rows: Counter[TableName],
        marker: ShardDone,
    ) -> None:
        self._run = run
        self._findings = findings
        self._labels = labels
        self._num_rows = num_rows
        self._marker = marker
        self._refs = run.rows_of_shard(marker.shard)
        self._paths = dict(
            zip(self._refs["image_id"].to_pylist(), self._refs["path"].to_pylist(), strict=True)
        )
        is_old = marker.schema_version not in RESUMED_VERSIONS
        self._repair = _FROM_A_COPY if is_old else _AGAIN
        path = markers.marker_path("done", marker.shard)
        self._make_anew = _FROM_A_COPY if is_old else f"delete {path} and {_AGAIN}"

    def check(self, files: Content) -> None:
        images = self._table("images", files)
        rows = self._check_images(images) if images is not None else None
        for name in TABLE_NAMES:
            table = self._table(name, files) if name in files and name != "images" else None
            if table is None:
                continue
            before = self._findings.counts.total()
            self._check_references(name, table, rows)
            if name == "annotations":
                self._check_segments(table, rows)
            if self._findings.counts.total() == before:
                self._check_values(name, table)
        self._check_features(files.get("features"))

    def _check_features(self, data: bytes | str | None) -> None:
        """Check the file of features, if it was not deleted, and that each image has one row."""
        entry = self._marker.features
        if entry is None or data is None or self._sound(entry, data, self._make_anew) is None:
            return
        ids = read_features(self._run.folder, self._marker)["image_id"].to_pylist()
        if len(set(ids)) < len(ids) or set(ids) - self._paths.keys():
            expected = "one row for each of the shard's images"
            self._add("row", entry.name, expected, "other images, or some twice", self._make_anew)

    def _sound(self, entry: FileEntry, data: bytes | str, advice: str) -> bytes | None:
        """Return the content of a file that is as the marker says; None: it is not, told."""
        expected = f"{entry.size_bytes:,} bytes with SHA-256 {entry.sha256[:12]}..."
        if isinstance(data, str):
            self._add("file", entry.name, expected, data, advice)
            return None
        sha256 = markers.bytes_sha256(data)
        if sha256 != entry.sha256:
            found = f"{len(data):,} bytes with SHA-256 {sha256[:12]}..."
            self._add("file", entry.name, expected, found, advice)
            return None
        return data

    def _table(self, name: TableName, files: Content) -> pa.Table | None:
        """Return a table whose file is as the marker says; None: there is none, which is told."""
        entry = self._marker.files[name]
        data = self._sound(entry, files[name], self._repair)
        if data is None:
            return None
        try:
            table = self._run.decoded_table(self._marker, name, data).cast(TABLES[name][0])
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            found = str(error).splitlines()[0]
            self._add("file", entry.name, f"the columns of {name}", found, self._make_anew)
            return None
        if table.num_rows != entry.num_rows:
            said = f"{counted(entry.num_rows, 'row')}, as the marker says"
            self._row(name, "", said, table.num_rows)
        self._num_rows[name] += table.num_rows
        return table

    def _check_images(self, table: pa.Table) -> list[Row] | None:
        """Return the rows of the images; None: they are not those of the manifest."""
        ids: list[str] = table["image_id"].to_pylist()
        there = Counter(ids)
        missing = [self._paths[image_id] for image_id in self._paths if image_id not in there]
        for path in missing:
            self._row("images", path, "one row, as the manifest has the image", "none")
        rows = rows_of(table)
        for row in rows:
            if row["image_id"] not in self._paths:
                self._row("images", row["path"], "images of the manifest", row["image_id"])
        for image_id, number in there.items():
            if number > 1:
                path = self._paths.get(image_id, image_id)
                self._row("images", path, "one row for each image", f"{number} rows")
        if missing or there.keys() - self._paths.keys() or len(there) < len(ids):
            return None
        self._check_values("images", table)
        self._check_tally(rows)
        for row in rows:
            if row["status"] == "ok" and not is_image_size(row):
                size = f"{row['width']} x {row['height']}"
                self._row("images", row["path"], f"1 to {MAX_PIXELS:,} pixels", size)
        return rows

    def _check_tally(self, rows: Sequence[Row]) -> None:
        """Compare the counts of the marker with the rows of the images."""
        tally = self._marker.tally
        errors = Counter(str(row["error_code"]) for row in rows if row["status"] != "ok")
        said = {code: count for code, count in tally.errors.items() if count}
        where = markers.marker_path("done", self._marker.shard)
        if errors != said:
            expected = f"failed images by code as in the table: {dict(sorted(errors.items()))}"
            self._add("row", where, expected, said, self._make_anew)
        frames = sum(row["num_frames"] > 1 for row in rows)
        if frames != tally.num_multi_frame:
            expected = f"{counted(frames, 'image')} of several frames, as in the table"
            self._add("row", where, expected, tally.num_multi_frame, self._make_anew)

    def _check_values(self, name: TableName, table: pa.Table) -> None:
        """Check the columns as every reader does, where nothing was found row by row."""
        try:
            checked_rows(name, table, self._refs, self._labels)
        except (pa.ArrowException, ValueError) as error:
            self._row(name, "", "values that ovseg writes", error)

    def _check_references(
        self, name: TableName, table: pa.Table, images: Sequence[Row] | None
    ) -> None:
        """Check that each row is of an annotated image of the shard, and each only once."""
        known = [row["image_id"] for row in images or () if row["status"] == "ok"]
        if images is None:
            known = list(self._paths)
        ids = table["image_id"].cast(pa.string())
        for place in _places(compute.invert(compute.is_in(ids, value_set=_texts(known)))):
            image_id = ids[place].as_py()
            is_failed = image_id in self._paths
            found = "an image that failed" if is_failed else "an image that is not of this shard"
            where = f"row {place + 1}, {self._paths.get(image_id, image_id[:_SHOWN])}"
            self._reference(name, where, "an annotated image of the shard", found)
        if "label" in table.column_names:
            self._check_labels(name, table["label"].cast(pa.string()), table, ids)
        index, what = _KEYS[name]
        numbers = table[index].to_numpy() if index else np.zeros(len(ids), np.int64)
        for place in _repeated(ids, numbers):
            found = f"{index} {numbers[place]} a second time" if index else "a second one"
            self._row(name, self._where(ids, place), what, found)

    def _check_labels(
        self, name: TableName, labels: pa.ChunkedArray, table: pa.Table, ids: pa.ChunkedArray
    ) -> None:
        """Check that each row is of a label of the run."""
        expected = compute.index_in(labels, value_set=_texts(self._labels))
        number = table["category_id"].to_numpy()
        wrong = expected.fill_null(-1).to_numpy() + 1 != number
        for place in np.flatnonzero(wrong).tolist():
            label, where = labels[place].as_py(), self._where(ids, place)
            if label in self._labels:
                category = f"category {self._labels.index(label) + 1}, that of {label}"
                self._reference(name, where, category, f"category {number[place]}")
            else:
                found = repr(label[:_SHOWN])
                self._reference(name, where, "a label of the vocabulary", found)

    def _check_segments(self, table: pa.Table, images: Sequence[Row] | None) -> None:
        """Check the number of segments of each image, and their masks."""
        if images is None:
            return
        counts = Counter(table["image_id"].to_pylist())
        for row in images:
            number = counts[row["image_id"]]
            if row["num_segments"] != number:
                found = f"the images table says {row['num_segments']}"
                expected = f"{counted(number, 'segment')}, as there are rows"
                self._row("annotations", row["path"], expected, found)
        by_id = {row["image_id"]: row for row in images if row["status"] == "ok"}
        table, wrong = check_masks(table, by_id)
        for place in sorted(wrong)[:MAX_NAMED]:
            row = rows_of(table.slice(place, 1))[0]
            image = by_id[row["image_id"]]
            expected, found = _wrong_mask(row, image["height"], image["width"])
            where = f"{self._file('annotations')}, {image['path']}, segment {row['segment_index']}"
            self._add("mask", where, expected, found, self._make_anew)
        self._findings.count("mask", max(0, len(wrong) - MAX_NAMED))

    def _where(self, ids: pa.ChunkedArray, place: int) -> str:
        image_id = ids[place].as_py()
        return f"row {place + 1}, {self._paths.get(image_id, image_id[:_SHOWN])}"

    def _file(self, name: TableName) -> str:
        return self._marker.files[name].name

    def _row(self, name: TableName, where: str, expected: str, found: object) -> None:
        place = ", ".join(filter(None, (self._file(name), where)))
        self._add("row", place, expected, found, self._make_anew)

    def _reference(self, name: TableName, where: str, expected: str, found: str) -> None:
        self._add("reference", f"{self._file(name)}, {where}", expected, found, self._make_anew)

    def _add(
        self, kind: FindingKind, where: str, expected: str, found: object, advice: str
    ) -> None:
        self._findings.add(kind, where, expected, found, advice)


def _wrong_mask(row: Row, height: int, width: int) -> tuple[str, str]:
    """Return what was expected of a mask that is damaged, and what is there.

    Args:
        row: of `annotations`.
        height: of its image.
        width: likewise.
    """
    size = f"{width} x {height} pixels"
    if (row["height"], row["width"]) != (height, width):
        return f"{size}, as its image", f"{row['width']} x {row['height']}"
    facts = mask_facts(texts_of([row["rle_counts"]]), np.array([[height, width]]))
    if not facts.is_sound[0]:
        return f"run lengths of a mask of {size}", repr(row["rle_counts"][:_SHOWN])
    if row["area_px"] != facts.area_px[0]:
        return f"area_px {facts.area_px[0]}, as its run lengths say", f"{row['area_px']}"
    box = facts.boxes_xywh[0].tolist()
    if list(row["bbox_xywh"]) != box:
        return f"bbox_xywh {box}, as its run lengths say", f"{list(row['bbox_xywh'])}"
    return "a segment_index from 0", f"{row['segment_index']}"


def _texts(values: Sequence[str]) -> pa.Array:
    return pa.array(values, pa.string())


def _places(flags: pa.ChunkedArray) -> list[int]:
    return np.flatnonzero(flags.to_numpy()).tolist()


def _repeated(ids: pa.ChunkedArray, numbers: NDArray[np.integer]) -> list[int]:
    """Return the places of rows of which an earlier one has the same image and number."""
    codes: Any = ids.dictionary_encode().unify_dictionaries().combine_chunks()
    pairs = np.column_stack([codes.indices.to_numpy(), numbers])
    _, first = np.unique(pairs, axis=0, return_index=True)
    return sorted(set(range(len(pairs))) - set(first.tolist())) if len(first) < len(pairs) else []
