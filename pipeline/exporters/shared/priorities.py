"""Review priorities as exporters write them: the run's own, or with a comparison's agreement."""

from ovseg_core.decision.review_priority import combined, mask_priority
from pipeline.evaluation.compare import read_comparison
from pipeline.exporters.shared.segments import DIGITS
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row


class Priorities:
    """Review priorities of the masks and images of a run.

    Args:
        run: the run.
        comparison: a file that `ovseg compare` wrote into the run; empty: none.

    Raises:
        UserError: the run has no such file.
    """

    def __init__(self, run: RunFolder, comparison: str) -> None:
        self._ious = read_comparison(run, comparison) if comparison else None

    def of_mask(self, row: Row) -> float:
        """Return the priority of a mask, 0 to 1."""
        return round(self._mask_priority(row), DIGITS)

    def of_image(self, image: Row, rows: list[Row]) -> float:
        """Return the priority of an image, 0 to 1: the run's own, or that of its compared masks."""
        if self._ious is None or not rows:
            return round(image["review_priority"], DIGITS)
        return round(combined(map(self._mask_priority, rows)), DIGITS)

    def _mask_priority(self, row: Row) -> float:
        if "verdict" in row:  # a person has decided on it
            return 0.0
        ious = (self._ious or {}).get(row["image_id"], {})
        return mask_priority(row, ious.get(row["label"], 1.0))
