"""`ovseg compare`: where two runs of different methods agree, image by image and label by label.

The result lies beside the first run's other exports, not in its committed files. A mask that two
methods draw alike is more often right; `label_studio` and others order by it where it is asked for.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean
from typing import Annotated

import pyarrow as pa
from pydantic import NonNegativeInt

from pipeline.corrections.matching import overlap
from pipeline.run.folder import RunFolder
from pipeline.run.predictions import Predictions
from pipeline.run.reader import Row, RunReader, grouped
from pipeline.storage import parquet, uris
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.records import RepeatedText, Share
from schemas.tables import arrow_schema

FOLDER = "exports/compare"
_ROW_GROUP = 65536
_WORST = 10


class ComparisonRow(Frozen):
    """One label in one image, for each label that either run has there."""

    image_id: RepeatedText
    path: RepeatedText
    label: RepeatedText
    iou: Share
    area_px: Annotated[NonNegativeInt, pa.int64()]
    other_area_px: Annotated[NonNegativeInt, pa.int64()]
    image_agreement: Share
    """Mean IoU of the image's labels."""


TABLE = arrow_schema(ComparisonRow)


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
    """The least agreed on first."""
    worst: tuple[ImageAgreement, ...]
    """Images that the two agree on least."""
    mean_agreement: float | None
    """Mean over the images where either run has a mask of a common label; None: there is none."""
    num_images: int
    """In both runs."""
    num_missing: int
    """Annotated by the first run and not by the other."""
    num_without_masks: int
    """In both, and neither run found anything."""
    left_out: tuple[str, ...]
    """Labels that only one of the vocabularies has."""
    file: str
    """The table, in the first run's folder."""


def compare(first: RunFolder, other: RunFolder) -> ComparisonReport:
    """Compare two runs of the same collection and write the table into the first.

    Raises:
        UserError: the same run twice, no image or no label in common.
    """
    if first.fingerprint == other.fingerprint:
        raise UserError("these are the same run: give two of different methods or settings")
    ours, theirs = (run.info.job().vocabulary.names for run in (first, other))
    labels = frozenset(ours) & frozenset(theirs)
    if not labels:
        raise UserError(
            f"the runs have no label in common: {', '.join(ours[:5])}; {', '.join(theirs[:5])}"
        )
    comparison = _Comparison(labels)
    comparison.read(first, other)
    if not comparison.num_images:
        raise UserError(
            f"the runs have no annotated image in common: of {comparison.num_missing} in the first "
            "none is in the other (images are matched by their path in the collection, and must "
            "have the same size)"
        )
    file = f"{FOLDER}/{other.info.job().method.name}-{other.fingerprint[:12]}.parquet"
    first.folder.atomic_write(file, parquet.encode(comparison.table(), _ROW_GROUP))
    by_doubt = sorted(comparison.agreement.items(), key=lambda item: (item[1], item[0]))
    return ComparisonReport(
        first=first.info.job().method.name,
        other=other.info.job().method.name,
        labels=tuple(sorted(comparison.labels(), key=lambda label: (label.mean_iou, label.name))),
        worst=tuple(ImageAgreement(path=p, agreement=a) for p, a in by_doubt[:_WORST]),
        mean_agreement=fmean(comparison.agreement.values()) if comparison.agreement else None,
        num_images=comparison.num_images,
        num_missing=comparison.num_missing,
        num_without_masks=comparison.num_without_masks,
        left_out=tuple(sorted(set(ours) ^ set(theirs))),
        file=file,
    )


def files(run: RunFolder) -> dict[str, int]:
    """Return the comparisons that a run holds, with their sizes in bytes."""
    found = run.folder.sizes(FOLDER)
    return {name: size for name, size in sorted(found.items()) if name.endswith(".parquet")}


def read_columns(run: RunFolder, file: str, columns: list[str]) -> pa.Table:
    """Return columns of a comparison's `TABLE`.

    Args:
        run: the run that was compared.
        file: its path in the run folder, or the whole place as `ovseg compare` prints it.
        columns: their names.

    Raises:
        UserError: the file is none.
    """
    folder, place = f"{run.folder.uri}/", uris.normalise(file)
    inside = place.removeprefix(folder) if place.startswith(folder) else file
    try:
        return parquet.decode(run.folder.read_bytes(inside), columns).select(columns)
    except (FileNotFoundError, ValueError, pa.ArrowException, KeyError) as error:
        raise UserError(
            f"{file} is no comparison of the run; it has {', '.join(files(run)) or 'none'} "
            "(`ovseg compare` makes them)"
        ) from error


def read(run: RunFolder, file: str) -> dict[str, dict[str, float]]:
    """Return a comparison's IoU by image id, then label."""
    table = read_columns(run, file, ["image_id", "label", "iou"])
    found: dict[str, dict[str, float]] = {}
    # Batch by batch: as Python's own objects all rows at once take many times the table's memory.
    for batch in table.to_batches(max_chunksize=_ROW_GROUP):
        for image_id, label, iou in zip(*(c.to_pylist() for c in batch.columns), strict=True):
            found.setdefault(image_id, {})[label] = iou
    return found


@dataclass
class _Sums:
    ious: float = 0.0
    shared: int = 0
    union: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class _Comparison:
    """A comparison on its way."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._sums: dict[str, _Sums] = {}
        self._tables = [TABLE.empty_table()]
        self.agreement: dict[str, float] = {}
        self.num_images = 0
        self.num_missing = 0
        self.num_without_masks = 0

    def read(self, first: RunFolder, other: RunFolder) -> None:
        """Go through the first run's images."""
        predictions = Predictions(other)
        predictions.in_order(first.manifest().column("image_id").to_pylist())  # all found at once
        for shard in RunReader(first).shards(("path", "height", "width")):
            columns = ["image_id", "label", "rle_counts", "area_px"]
            ours = shard.segments_by_image(columns)
            rows: list[Row] = []
            for image_id, image in shard.images.items():
                theirs = predictions.image(image_id)
                size_hw = image["height"], image["width"]
                if theirs is None or (theirs["height"], theirs["width"]) != size_hw:
                    self.num_missing += 1
                    continue
                self.num_images += 1
                rows += self._add(image, ours.get(image_id, []), predictions.segments(image_id))
            self._tables.append(pa.Table.from_pylist(rows, schema=TABLE))

    def _add(self, image: Row, ours: list[Row], theirs: list[Row]) -> list[Row]:
        """Count an image and return its rows."""
        self.num_without_masks += not ours and not theirs
        rows = list(self._labels_of(image, grouped(ours, "label"), grouped(theirs, "label")))
        if not rows:
            return []
        mean = self.agreement[image["path"]] = fmean(row["iou"] for row in rows)
        return [{**row, "image_agreement": mean} for row in rows]

    def table(self) -> pa.Table:
        """Return all rows."""
        return pa.concat_tables(self._tables).unify_dictionaries()

    def _labels_of(
        self, image: Row, ours: dict[str, list[Row]], theirs: dict[str, list[Row]]
    ) -> Iterator[Row]:
        size_hw = image["height"], image["width"]
        for label in sorted((ours.keys() | theirs.keys()) & self._names):
            sides = ours.get(label, []), theirs.get(label, [])
            one, other = ([row["rle_counts"] for row in side] for side in sides)
            shared, union = overlap(one, other, size_hw)
            sums = self._sums.setdefault(label, _Sums())
            sums.ious += shared / union
            sums.shared += shared
            sums.union += union
            sums.counts.update(all=1, first=not sides[1], other=not sides[0])
            yield {
                "image_id": image["image_id"],
                "path": image["path"],
                "label": label,
                "iou": shared / union,
                "area_px": sum(row["area_px"] for row in sides[0]),
                "other_area_px": sum(row["area_px"] for row in sides[1]),
            }

    def labels(self) -> Iterator[LabelAgreement]:
        """Yield the sums by label."""
        for name, sums in self._sums.items():
            yield LabelAgreement(
                name=name,
                mean_iou=sums.ious / sums.counts["all"],
                iou=sums.shared / sums.union,
                num_images=sums.counts["all"],
                num_only_first=sums.counts["first"],
                num_only_other=sums.counts["other"],
            )
