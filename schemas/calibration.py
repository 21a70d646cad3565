"""The content of a calibration file: scores and thresholds learned from a review."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from schemas.base import Frozen
from schemas.records import Share


class Calibration(Frozen):
    """A monotone map of segment scores and thresholds by label, fitted by `ovseg calibrate`."""

    version: Literal[1] = 1
    """Version of the file format."""
    method: str
    """The method whose scores are calibrated; the file cannot be used with another one."""
    scores: Annotated[tuple[Share, ...], Field(min_length=1)]
    """Mean probabilities, rising; the map is linear between two of them, constant outside."""
    probabilities: tuple[Share, ...]
    """By score, the share of reviewed segments of this score that were right; never falling."""
    thresholds: dict[str, Share] = {}
    """By label, on the calibrated scale: segments below are dropped."""
    default_threshold: Share = 0.0
    """Threshold of labels with too few reviewed segments for one of their own."""
    min_iou: Share = 0.5
    """A segment is right if a reviewed mask of the same label has at least this IoU with it."""
    num_segments: NonNegativeInt = 0
    """Number of reviewed segments that the calibration was fitted to."""
    fingerprint: str = ""
    """Fingerprint of the run that was reviewed."""

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
