"""Review priorities as exporters write them, with another run's word on them if there is one."""

from ovseg_core.decision.review_priority import combined, mask_priority
from pipeline.evaluation import compare
from pipeline.exporters.shared.segments import DIGITS
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row


class Priorities:
    """Priorities of the masks and images of a run.

    Args:
        run: the run.
        comparison: a file that `ovseg compare` has written into the run; empty: none.

    Raises:
        UserError: the run has no such file.
    """

    def __init__(self, run: RunFolder, comparison: str) -> None:
        self._agreement = compare.read(run, comparison) if comparison else None

    def of_mask(self, row: Row) -> float:
        """Return a mask's priority."""
        return round(self._priority(row), DIGITS)

    def of_image(self, image: Row, rows: list[Row]) -> float:
        """Return an image's priority: the run's own, or one from all of its masks and both runs."""
        if self._agreement is None or not rows:
            return round(image["review_priority"], DIGITS)
        return round(combined(map(self._priority, rows)), DIGITS)

    def _priority(self, row: Row) -> float:
        known = (self._agreement or {}).get(row["image_id"], {})
        return mask_priority(row, known.get(row["label"], 1.0))
