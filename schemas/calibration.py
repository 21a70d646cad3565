"""What a review says about a run's scores: the content of a calibration file."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from schemas.base import Frozen
from schemas.records import Share


class Calibration(Frozen):
    """A monotone map of segment scores and thresholds by label, fitted by `ovseg calibrate`."""

    version: Literal[1] = 1
    """Of this format."""
    method: str
    """Whose scores these are: the calibration of one method says nothing about another's."""
    scores: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Rising mean probabilities; between two of them the map is a straight line, outside flat."""
    probabilities: tuple[Share, ...]
    """For each, how often a reviewed segment of this score was right; never falling."""
    thresholds: dict[str, Share] = {}
    """By label, on the calibrated scale: segments below are dropped."""
    default_threshold: Share = 0.0
    """For labels that were reviewed too little to have one of their own."""
    min_iou: Share = 0.5
    """What right means: the reviewed mask has the same label and this IoU with the predicted."""
    num_segments: NonNegativeInt = 0
    """Reviewed segments that it was fitted to."""
    fingerprint: str = ""
    """Of the run that was reviewed."""

    @model_validator(mode="after")
    def _monotone(self) -> "Calibration":
        if len(self.scores) != len(self.probabilities):
            raise ValueError(
                f"{len(self.scores)} scores came with {len(self.probabilities)} probabilities"
            )
        steps = zip(self.scores[:-1], self.scores[1:], strict=True)
        if any(after <= before for before, after in steps):
            raise ValueError("scores must rise")
        rises = zip(self.probabilities[:-1], self.probabilities[1:], strict=True)
        if any(after < before for before, after in rises):
            raise ValueError("probabilities must not fall")
        return self

    def threshold(self, label: str) -> float:
        """Return the calibrated score below which segments of a label are dropped."""
        return self.thresholds.get(label, self.default_threshold)
