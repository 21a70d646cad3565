"""Write docs/columns.md from the records: `python -m docs.columns`.

The records' docstrings are the only text on a column: they also lie in the Parquet files, as
metadata of each field, and in the tooltips of the pages.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pyarrow as pa

from ovseg_core.decision.review_priority import PRIORITY_COLUMNS
from pipeline.evaluation.compare import ComparisonRow
from schemas.base import Frozen
from schemas.records import Annotation, FeatureRow, ImageRef, ImageResult, ImageVector, ScoreRow
from schemas.review import ReviewDecision, ReviewedImage, ReviewedMask
from schemas.score_columns import SCORE, SCORE_COLUMNS, ScoreColumn
from schemas.tables import arrow_schema

PAGE = Path(__file__).with_suffix(".md")


class _Table(NamedTuple):
    """One table of a run folder: its title, record, files, and who reads it."""

    title: str
    record: type[Frozen]
    files: str
    used: str


TABLES = (
    _Table(
        "Images",
        ImageResult,
        "`images/*.parquet`, one row per image",
        "`ovseg inspect` counts statuses, codes and seconds; exports take sizes and paths; the "
        "review page sorts by `review_priority`; `open_run(...).images()` leaves out `uri` unless "
        "it is asked for by name; the same command tries images with a passing "
        "error again ([troubleshooting](troubleshooting.md#error-codes)).",
    ),
    _Table(
        "Scores",
        ScoreRow,
        "`scores/*.parquet`, one row per image and label, found or not",
        "Whether an image shows a label (`ovseg inspect`; the absent labels of COCO files, "
        "see [exports](exports.md#coco)), and your own search. A probability depends on the other "
        "labels asked.",
    ),
    _Table(
        "Annotations",
        Annotation,
        "`annotations/*.parquet`, one row per segment",
        "Exports, the review and evaluation read the masks. What reads each score is in the next "
        "table. `open_run(...).annotations()` has one more column, `verdict`, once there is a "
        "review: `accepted`, `changed` or `added` by people, empty where nobody decided. A mask "
        "that people changed or added has `mean_prob` 1 (joined with an accepted one: the mean by "
        "area) and its other scores empty: leave such rows out of means of scores.",
    ),
    _Table(
        "Vectors",
        ImageVector,
        "`vectors/*.parquet`, one row per annotated image",
        "Search by words, near-duplicates and samples (`pipeline.run.vectors.image_vectors`). The "
        "image goes through CLIP as in its own preprocessing: the short side resized to the input, "
        "the centre cut out. Methods that load no image encoder of CLIP (`student`; `owlv2_sam2` "
        "and `sam3` without a presence gate) leave the table empty; runs before schema version 5 "
        "have none.",
    ),
    _Table(
        "Features",
        FeatureRow,
        "`features/*.parquet`, one row per annotated image, if they are kept (`--keep-features`)",
        "`ovseg relabel` ([how](relabel.md)). Nothing else reads them: the folder may be deleted.",
    ),
    _Table(
        "Manifest",
        ImageRef,
        "`manifest.parquet`, one row per image of the collection",
        "Written once, at the first start of a run: workers, exports and pages find images by it.",
    ),
    _Table(
        "Reviewed masks",
        ReviewedMask,
        "`reviewed/imports/*-masks-*.parquet`, one row per mask that a tool brought back",
        "`--masks reviewed` and `merged` of exports, `ovseg evaluate`, `ovseg calibrate`.",
    ),
    _Table(
        "Reviewed images",
        ReviewedImage,
        "`reviewed/imports/*-images-*.parquet`, one row per image that a tool brought back",
        "Says which images count as reviewed; `ovseg evaluate` reports the time.",
    ),
    _Table(
        "Decisions",
        ReviewDecision,
        "`reviewed/log/`, one row (or JSON object) per decision on the review page",
        "As the reviewed masks. In packed files a column `entry` names the write that a decision "
        "came with.",
    ),
    _Table(
        "Comparison",
        ComparisonRow,
        "`exports/compare/*.parquet`, one row per image and label, by `ovseg compare`",
        "The review page's order by doubt and disagreement; `comparison=` of the exporters "
        "`label_studio` and `cvat`.",
    ),
)

HEAD = """# Columns

<!-- Written by `python -m docs.columns` from the records' docstrings: change those. -->

Every column of every table of a run: its type, its range, what it means and what a high value
means. The same text lies in the Parquet files
(`pyarrow.parquet.read_schema(FILE).field(NAME).metadata`), and that of the scores is the tooltip on
the review page. Read the tables with `pipeline.open_run` or any Parquet reader; `image_id` joins
them.

Three things to know about scores:

- **`score` is `mean_prob`.** In exports and on the pages, a segment's score is its `mean_prob`.
  Label Studio's `prediction.score` is 1 minus the review priority, because that tool sorts by it.
- **They are not calibrated.** They depend on the method and on which other labels were asked:
  compare them within one run only. `ovseg calibrate` turns `mean_prob` into the share of right
  segments ([reviews](reviews.md#calibration)).
- **The review priority of a mask is not stored**: it follows from four of its columns
  ([formula](reviews.md#review-order)).
"""


def page() -> str:
    """Return the text of docs/columns.md."""
    return "\n".join([HEAD, *_contents(), *(line for table in TABLES for line in _section(table))])


def _contents() -> Iterator[str]:
    yield "| table | files |"
    yield "|---|---|"
    for table in TABLES:
        yield f"| [{table.title}](#{table.title.lower().replace(' ', '-')}) | {table.files} |"
    yield ""


def _section(table: _Table) -> Iterator[str]:
    yield from (f"## {table.title}", "", f"{table.files}.", "")
    yield from ("| column | type | range | meaning |", "|---|---|---|---|")
    for field in arrow_schema(table.record):
        info = table.record.model_fields[field.name]
        limits = _range((info.annotation, *info.metadata))
        limits = ", ".join([limits] * bool(limits) + ["null"] * field.nullable)
        meaning = (info.description or "").replace("\n", " ")
        cells = (f"`{field.name}`", _type(field.type), limits, meaning)
        yield f"| {' | '.join(cells)} |"
    yield from ("", f"**Used.** {table.used}", "")
    if table.record is Annotation:
        yield from _score_columns()


def _score_columns() -> Iterator[str]:
    yield "What becomes of each score:"
    yield ""
    yield "| column | name on the pages | used | of a mask joined from components |"
    yield "|---|---|---|---|"
    joined = {"mean": "mean, weighted by area", "sum": "sum", "drop": "left out"}
    for column in SCORE_COLUMNS.values():
        used = ", ".join(_uses(column))
        yield f"| `{column.name}` | {column.title} | {used} | {joined[column.join]} |"
    yield ""


def _uses(column: ScoreColumn) -> Iterator[str]:
    if column.name == SCORE:
        yield "`score` and `min_score` of exports"
    if column.attribute:
        whose = " of instances" if column.of_instances else ""
        yield f"attribute{whose} in COCO files"
    if "viewer" in column.pages:
        yield "review page"
    if "try" in column.pages:
        yield "Try page"
    if column.filterable:
        yield "filter of the review page"
    if column.name in PRIORITY_COLUMNS:
        yield "review priority"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        return "text"
    if pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} × {_type(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _range(annotation: tuple[Any, ...]) -> str:
    """Return the values that a field may have, from its annotation and its parts."""
    bounds: dict[str, float] = {}
    choices = []
    parts = list(annotation)
    for part in parts:  # grows as parts of parts are found
        if get_origin(part) is Literal:
            choices += [f"`{value}`" for value in get_args(part)]
        elif isinstance(part, type) and issubclass(part, StrEnum):
            choices.append("an [error code](troubleshooting.md#error-codes)")
        elif hasattr(part, "metadata") and not isinstance(part, type):  # Field(...)
            parts += part.metadata
        elif get_args(part) and get_origin(part) is not tuple:
            parts += [inner for inner in get_args(part) if inner is not NoneType]
        for name in ("ge", "gt", "le"):
            if getattr(part, name, None) is not None:
                bounds[name] = getattr(part, name)
    if choices:
        return ", ".join(choices)
    low = bounds.get("ge", bounds.get("gt", -1) + 1) if {"ge", "gt"} & set(bounds) else None
    if low is None:
        return ""
    high = bounds.get("le")
    return f"{low:g} to {high:g}" if high is not None and high < 2**31 - 1 else f"{low:g} or more"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
