"""Which labels an image shows: the figures of SA-Co (SAM 3, arXiv 2511.16719).

A question is an image with a label. IL_MCC is Matthews' correlation of "the run has a segment of
the label in this image" with the truth, over all questions. pmF1 looks at the questions whose
answer is yes: segments and objects are assigned one to one by the highest sum of IoUs; at an IoU
threshold the pairs that reach it are hits, F1 = 2 hits / (segments + objects), both summed over all
of these questions, and pmF1 is the mean over the thresholds 0.5, 0.55, ... 0.95. cgF1 is
100 x pmF1 x IL_MCC.

COCO's crowd regions, which SA-Co does not have, say that a label is present, and hide the segments
in them (`matching`).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.evaluation.instances.average_precision import IOU_THRESHOLDS
from pipeline.evaluation.instances.matching import LabelMatching


class PresenceFigures(NamedTuple):
    """SA-Co's figures; NaN: the truth has no such label, of IL_MCC: it has it in every image."""

    cgf1: float
    """-100 to 100."""
    pmf1: float
    """0 to 1."""
    il_mcc: float
    """-1 to 1; 0: no better than guessing."""


class PresenceCounts:
    """SA-Co's figures of labels 1 to `num_labels`."""

    def __init__(self, num_labels: int) -> None:
        self._questions = np.zeros(num_labels + 1, np.int64)
        self._both, self._only_found, self._only_true = np.zeros((3, num_labels + 1), np.int64)
        self._hits = np.zeros((num_labels + 1, len(IOU_THRESHOLDS)), np.int64)
        self._masks = np.zeros(num_labels + 1, np.int64)

    def add(self, image: Iterable[LabelMatching], asked: Collection[int]) -> None:
        """Count one image.

        Args:
            image: its labels.
            asked: the labels of which the truth says whether the image shows them.
        """
        self._questions[list(asked)] += 1
        for matching in image:
            label, ious = matching.label, matching.ious
            self._both[label] += matching.is_shown and matching.is_found
            self._only_found[label] += not matching.is_shown
            self._only_true[label] += not matching.is_found
            if ious.shape[1]:
                pairs = ious[linear_sum_assignment(ious, maximize=True)]
                self._hits[label] += (pairs[:, None] >= IOU_THRESHOLDS).sum(axis=0)
                self._masks[label] += sum(ious.shape)

    def figures(self) -> list[PresenceFigures]:
        """Return the figures of each label, in order; those of labels not asked are NaN."""
        return [self._of([label]) for label in range(1, len(self._questions))]

    def total(self) -> PresenceFigures:
        """Return the figures of all questions together."""
        return self._of(range(1, len(self._questions)))

    def _of(self, labels: Sequence[int]) -> PresenceFigures:
        hits, masks = self._hits[labels].sum(axis=0), int(self._masks[labels].sum())
        pmf1 = float((2 * hits / masks).mean()) if masks else np.nan
        both, only_found, only_true = (
            int(kind[labels].sum()) for kind in (self._both, self._only_found, self._only_true)
        )
        neither = int(self._questions[labels].sum()) - both - only_found - only_true
        il_mcc = _correlation(both, only_found, only_true, neither)
        return PresenceFigures(100 * pmf1 * il_mcc + 0.0, pmf1, il_mcc)  # never -0


def _correlation(both: int, only_found: int, only_true: int, neither: int) -> float:
    """Return Matthews' correlation; NaN where all true answers are the same."""
    yes, no = both + only_true, neither + only_found
    if not yes or not no:
        return np.nan
    said = (both + only_found) * (neither + only_true)
    if not said:  # the run says the same of every image
        return 0.0
    return (both * neither - only_found * only_true) / (yes * no * said) ** 0.5
