"""The score columns of a segment: everything that lists them reads this table.

The record (`schemas.records.Annotation`) says what a column holds and how it is stored; this
table says what becomes of it: how it is joined, where it is exported, shown and filtered. The
Arrow schema, the exporters, the review index and the pages follow. A new score column is a field
of the record, an entry here, and the code that computes it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from schemas.records import Annotation, ImageResult

Join = Literal["mean", "sum", "drop"]
Page = Literal["viewer", "try"]


@dataclass(frozen=True)
class ScoreColumn:
    """What becomes of one score column.

    Attributes:
        name: of the column and of the record's field.
        title: short name on the pages.
        join: value of a mask that is put together from components. `mean`: mean of theirs,
            weighted by area; `sum`: their sum; `drop`: it does not follow from theirs, so the
            column is left out. A component that an exporter cuts out of a mask keeps the scores of
            the whole mask, apart from `area_frac` and `num_components`.
        attribute: written as an attribute of annotations in COCO files.
        of_instances: says something of instances only; exports leave it out of other segments.
        pages: the pages that show it beside a mask, in this order of columns.
        percent: shown as a percentage instead of two decimals.
        filterable: the review page offers it as a filter, and the review index keeps it in memory.
        low: smallest value.
        high: largest value.
    """

    name: str
    title: str
    join: Join
    attribute: bool = True
    of_instances: bool = False
    pages: tuple[Page, ...] = ()
    percent: bool = False
    filterable: bool = False
    low: float = 0.0
    high: float | None = 1.0

    @property
    def help(self) -> str:
        """What the column holds, as the record documents it."""
        return " ".join((Annotation.model_fields[self.name].description or "").split())


_PRIORITY = ImageResult.model_fields["review_priority"].description or ""
DOUBT_HELP = "Doubt: the share of the run's images that have a lower review priority. " + " ".join(
    _PRIORITY.split()
)
"""What the pages say of an image's doubt."""

SCORE = "mean_prob"
"""The score column that exporters write as a segment's score and that `min_score` limits."""
MEANS = (SCORE, "margin_mean", "entropy_mean", "objectness_mean")
"""The columns of means: of the probability, the margin, the entropy and the objectness."""
LOW_MARGIN = "margin_p10"
RIM_ENTROPY = "boundary_uncertainty"
PROPOSAL_SCORE = "proposal_score"
"""The score column that says how good the outline of an instance is."""

SCORE_COLUMNS: dict[str, ScoreColumn] = {
    column.name: column
    for column in (
        ScoreColumn(
            name=SCORE,
            title="score",
            join="mean",
            attribute=False,  # it is `score` there
            pages=("viewer", "try"),
            filterable=True,
        ),
        ScoreColumn(name="margin_mean", title="margin", join="mean", pages=("try",)),
        ScoreColumn(name="margin_p10", title="lowest margins", join="drop"),
        ScoreColumn(name="entropy_mean", title="entropy", join="mean"),
        ScoreColumn(name="objectness_mean", title="objectness", join="mean"),
        ScoreColumn(name="boundary_uncertainty", title="uncertainty of the rim", join="drop"),
        ScoreColumn(name=PROPOSAL_SCORE, title="outline", join="mean", of_instances=True),
        ScoreColumn(
            name="area_frac", title="area", join="sum", pages=("viewer", "try"), percent=True
        ),
        ScoreColumn(name="num_components", title="components", join="sum", low=1, high=None),
    )
}
"""By name, in the order of the table's columns."""


def page_columns() -> list[dict[str, Any]]:
    """Return the table as JSON values for the pages: each column's attributes and its help."""
    return [asdict(column) | {"help": column.help} for column in SCORE_COLUMNS.values()]


def ranking_score(row: Mapping[str, Any]) -> float:
    """Return by what a segment is ranked among others: its score times that of its proposal.

    Args:
        row: of the annotations table; without a proposal its proposal score is 1.
    """
    return row[SCORE] * row[PROPOSAL_SCORE]
