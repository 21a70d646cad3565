"""`ovseg compare`: where two runs of different methods agree, by image and label.

The result is a table beside the first run's exports, not among its committed files. A mask on which
two methods agree is more often right: the review page and some exporters can sort by it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, NamedTuple

import pyarrow as pa
from pydantic import NonNegativeInt

from ovseg_core.images.resize.nearest import SizeHW
from pipeline.corrections.matching import instance_agreement, overlap, union_px
from pipeline.run.folder import RunFolder
from pipeline.run.markers import MAX_TABLE_BYTES, bytes_sha256
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row, RunReader, grouped
from pipeline.run.tables.damaged import Damage, DamagedRows
from pipeline.storage import parquet, uris
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.records import RepeatedText, Share
from schemas.tables import arrow_schema

FOLDER = "exports/compare"
FILES = r"(?:[\w.@-]{1,80}-)?\w+-[0-9a-f]{12}\.parquet"
"""Pattern of the names in the folder: the other run's folder, which older files lack, its method
and its fingerprint."""
_WORST = 10


class ComparisonRow(Frozen):
    """One label in one image, for each label that either run has there."""

    image_id: RepeatedText
    """Key of the image in all tables."""
    path: RepeatedText
    """Relative to the collection's root, `/` between parts; COCO's `file_name`."""
    label: RepeatedText
    """Name of the label, as in the vocabulary."""
    iou: Share
    """IoU of the label's pixels in the two runs; of instances that of pairs, see `docs/reviews.md`.
    High: they agree; 0: no pixel in common."""
    area_px: Annotated[NonNegativeInt, pa.int64()]
    """Pixels of the label in the run; 0: not found."""
    other_area_px: Annotated[NonNegativeInt, pa.int64()]
    """Pixels of the label in the other run; 0: not found."""
    image_agreement: Share
    """Mean IoU of the image's labels, the same in all its rows. High: the runs agree."""


_SCHEMA = arrow_schema(ComparisonRow)


class LabelAgreement(Frozen):
    """One label."""

    name: str
    mean_iou: Share
    """Over the images where either run has it."""
    iou: Share
    """Over all their pixels."""
    num_images: int
    num_only_first: int
    """Images where only the first run has it."""
    num_only_other: int


class ImageAgreement(Frozen):
    """One image."""

    path: str
    agreement: Share
    """Mean IoU of the labels that either run has in it."""


class ComparisonReport(Frozen):
    """Agreement of two runs."""

    first: str
    """Method of the first run."""
    other: str
    labels: tuple[LabelAgreement, ...]
    """Lowest agreement first."""
    worst: tuple[ImageAgreement, ...]
    """Images with the lowest agreement."""
    mean_agreement: float | None
    """Mean over the images where either run has a mask of a common label; None: there is none."""
    num_images: int
    """In both runs."""
    num_missing: int
    """Annotated by the first run and not by the other."""
    num_without_masks: int
    """In both runs, without masks in either."""
    labels_only_first: tuple[str, ...]
    """Labels of the first run's vocabulary only, which are not compared; in its order."""
    labels_only_other: tuple[str, ...]
    damaged: dict[str, Damage]
    """What of the first run was left out, as no ovseg wrote it, by what it is."""
    other_damaged: dict[str, Damage]
    file: str
    """The table, in the first run's folder."""


def compare(first: RunFolder, other: RunFolder) -> ComparisonReport:
    """Compare two runs of one collection, or two generations of one, and write a table into it.

    Raises:
        UserError: the same run twice, no image or no label in common.
    """
    if _identity(first) == _identity(other):
        raise UserError(
            "these are the same run: give two runs with different methods or settings, or two "
            "generations of one (RUN@1 RUN@2)"
        )
    ours, theirs = (run.info.job().vocabulary.names for run in (first, other))
    labels = frozenset(ours) & frozenset(theirs)
    if not labels:
        raise UserError(
            f"the runs have no label in common: {', '.join(ours[:5])}; {', '.join(theirs[:5])}"
        )
    comparison = _Comparison(labels)
    comparison.add(first, other)
    if not comparison.num_images:
        raise UserError(
            f"the runs have no annotated image in common: of {comparison.num_missing} in the first "
            "none is in the other (images are matched by their path in the collection, and must "
            "have the same size)"
        )
    identity = f"{other.info.job().method.name}-{_identity(other)[:12]}.parquet"
    file = f"{FOLDER}/{_folder_name(other, first)}-{identity}"
    before = comparison_files(first)
    first.folder.atomic_write(file, parquet.write_table(comparison.table()))
    for old in before:  # of the same run, when its folder had another name
        if old != file and old.endswith((f"-{identity}", f"/{identity}")):
            first.folder.delete(old)
    by_agreement = sorted(comparison.agreement.items(), key=lambda item: (item[1], item[0]))
    return ComparisonReport(
        first=first.info.job().method.name,
        other=other.info.job().method.name,
        labels=tuple(sorted(comparison.by_label(), key=lambda label: (label.mean_iou, label.name))),
        worst=tuple(ImageAgreement(path=p, agreement=a) for p, a in by_agreement[:_WORST]),
        mean_agreement=fmean(comparison.agreement.values()) if comparison.agreement else None,
        num_images=comparison.num_images,
        num_missing=comparison.num_missing,
        num_without_masks=comparison.num_without_masks,
        labels_only_first=tuple(name for name in ours if name not in labels),
        labels_only_other=tuple(name for name in theirs if name not in labels),
        damaged=comparison.damaged[0].report(),
        other_damaged=comparison.damaged[1].report(),
        file=file,
    )


def _identity(run: RunFolder) -> str:
    """Return the run's fingerprint; of a later generation a hash of it and of the images."""
    if run.generations.number == 1:
        return run.fingerprint
    return bytes_sha256(f"{run.fingerprint} {run.generations.sha256}".encode())


def _folder_name(other: RunFolder, first: RunFolder) -> str:
    """Return the name of a run's folder, with its generation where the name alone is ambiguous."""
    name = uris.parent_and_name(uris.without_query(other.folder.uri))[1]
    number = other.generations.number
    is_same_folder = other.folder.uri == first.folder.uri
    generation = f"@{number}" if number > 1 or is_same_folder else ""
    return (re.sub(r"[^\w.-]+", "_", name)[:40] or "run") + generation


class ComparedRun(NamedTuple):
    """The run that a comparison is with, as the comparison's file names it."""

    folder: str
    """Name of its folder; empty in files of older versions."""
    method: str


def compared_run(file: str) -> ComparedRun:
    """Return the run that a comparison is with.

    Args:
        file: a path that `comparison_files` returns.
    """
    folder, _, method = file.rpartition("/")[2].rpartition("-")[0].rpartition("-")
    return ComparedRun(folder, method)


def comparison_files(run: RunFolder) -> dict[str, int]:
    """Return the comparisons that a run holds, with their sizes in bytes."""
    found = run.folder.sizes(FOLDER)
    return {name: size for name, size in sorted(found.items()) if name.endswith(".parquet")}


def read_comparison_columns(run: RunFolder, file: str, columns: list[str]) -> pa.Table:
    """Return columns of a comparison, see `ComparisonRow`.

    Args:
        run: the run that was compared.
        file: its path in the run folder, or its whole address as `ovseg compare` prints it.
        columns: their names.

    Raises:
        UserError: the file is not a comparison of the run.
    """
    folder, place = f"{run.folder.uri}/", uris.normalise(file)
    inside = place.removeprefix(folder) if place.startswith(folder) else file
    try:
        data = run.folder.read_bytes(inside, MAX_TABLE_BYTES)
        table = parquet.read_table(data, columns).select(columns)
        table = table.cast(pa.schema([_SCHEMA.field(name) for name in columns]))
        _check_values(table)
        return table
    except (OSError, ValueError, pa.ArrowException, KeyError) as error:
        known = ", ".join(comparison_files(run)) or "none"
        raise UserError(
            f"{file} is not a comparison of the run; it has {known} (`ovseg compare` makes them)"
        ) from error


def _check_values(table: pa.Table) -> None:
    """Check that no value is missing, and that shares are shares.

    Raises:
        ValueError: it names the column.
    """
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            raise ValueError(f"{name} has {column.null_count} empty values")
        if pa.types.is_floating(column.type):
            values = column.to_numpy()
            if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
                raise ValueError(f"{name} has values beyond 0 to 1")


def read_comparison(run: RunFolder, file: str) -> dict[str, dict[str, float]]:
    """Return a comparison's IoU by image id, then label."""
    table = read_comparison_columns(run, file, ["image_id", "label", "iou"])
    found: dict[str, dict[str, float]] = {}
    # In batches: as Python objects all rows at once would take many times the table's memory.
    for batch in table.to_batches(max_chunksize=parquet.ROW_GROUP):
        for image_id, label, iou in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            found.setdefault(image_id, {})[label] = iou
    return found


@dataclass
class _LabelSums:
    ious: float = 0.0
    shared_px: int = 0
    union_px: int = 0
    num_images: int = 0
    num_only_first: int = 0
    num_only_other: int = 0


class _Comparison:
    """Sums over the images of two runs.

    Args:
        labels: of both runs.
    """

    def __init__(self, labels: frozenset[str]) -> None:
        self._labels = labels
        self._sums: dict[str, _LabelSums] = {}
        self._tables = [_SCHEMA.empty_table()]
        self.agreement: dict[str, float] = {}
        """By the path of each image."""
        self.num_images = 0
        self.num_missing = 0
        self.num_without_masks = 0
        self._may_overlap = self._are_instances = False
        self.damaged = DamagedRows(), DamagedRows()
        """Of the first run and of the other, as far as they were read."""

    def add(self, first: RunFolder, other: RunFolder) -> None:
        """Compare every image of the first run."""
        reader, predictions = RunReader(first), Predictions(other)
        kinds = {first.mask_kind, other.mask_kind}
        self._may_overlap, self._are_instances = "instance" in kinds, kinds == {"instance"}
        self.damaged = reader.damaged, predictions.damaged
        predictions.in_order(first.manifest().column("image_id").to_pylist())  # one look-up for all
        for shard in reader.shards():
            ours = shard.segments_by_image(["image_id", "label", "rle_counts", "area_px"])
            rows: list[Row] = []
            for image_id, image in shard.images.items():
                theirs = predictions.image(image_id)
                size_hw = image["height"], image["width"]
                if theirs is None or (theirs["height"], theirs["width"]) != size_hw:
                    self.num_missing += 1
                    continue
                segments = ours.get(image_id, []), predictions.segments(image_id)
                self.num_images += 1
                self.num_without_masks += not any(segments)
                of_image = list(self._compare_image(image, *segments))
                if of_image:
                    mean = fmean(row["iou"] for row in of_image)
                    self.agreement[image["path"]] = mean
                    rows += [{**row, "image_agreement": mean} for row in of_image]
            self._tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))

    def _compare_image(self, image: Row, ours: list[Row], theirs: list[Row]) -> Iterator[Row]:
        """Yield a row for each label that either run has in an image."""
        size_hw = image["height"], image["width"]
        by_label = grouped(ours, "label"), grouped(theirs, "label")
        for label in sorted((by_label[0].keys() | by_label[1].keys()) & self._labels):
            first, other = (segments.get(label, []) for segments in by_label)
            one, two = ([row["rle_counts"] for row in rows] for rows in (first, other))
            shared_px, all_px = overlap(one, two, size_hw)
            iou = shared_px / all_px
            if self._are_instances:
                iou = instance_agreement(one, two, size_hw)
            sums = self._sums.setdefault(label, _LabelSums())
            sums.ious += iou
            sums.shared_px += shared_px
            sums.union_px += all_px
            sums.num_images += 1
            sums.num_only_first += not other
            sums.num_only_other += not first
            yield {
                "image_id": image["image_id"],
                "path": image["path"],
                "label": label,
                "iou": iou,
                "area_px": self._area_px(first, size_hw),
                "other_area_px": self._area_px(other, size_hw),
            }

    def _area_px(self, rows: list[Row], size_hw: SizeHW) -> int:
        """Return the pixels of a label: instances may share some."""
        if self._may_overlap:
            return union_px([row["rle_counts"] for row in rows], size_hw)
        return sum(row["area_px"] for row in rows)

    def table(self) -> pa.Table:
        """Return a `ComparisonRow` for each label of each image."""
        return pa.concat_tables(self._tables).unify_dictionaries()

    def by_label(self) -> Iterator[LabelAgreement]:
        """Yield the agreement over all images for each label."""
        for name, sums in self._sums.items():
            yield LabelAgreement(
                name=name,
                mean_iou=sums.ious / sums.num_images,
                iou=sums.shared_px / sums.union_px,
                num_images=sums.num_images,
                num_only_first=sums.num_only_first,
                num_only_other=sums.num_only_other,
            )
