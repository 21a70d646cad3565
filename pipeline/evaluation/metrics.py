"""A confusion matrix that grows image by image, with the IoU as mmsegmentation computes it.

Intersections and unions are summed over the whole data set; a class that does not occur has no IoU.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""Truth value of pixels that are not counted."""


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs over any number of images.

    Args:
        num_classes: K; predictions go from 0 to K - 1, truth too, or it is `ignore`.
        ignore: truth value that is not counted.
    """

    def __init__(self, num_classes: int, ignore: int = IGNORE) -> None:
        if num_classes < 1:
            raise ValueError(f"expected at least one class, got {num_classes}")
        if 0 <= ignore < num_classes:
            raise ValueError(
                f"`ignore` is {ignore}, which is also one of the {num_classes} classes; "
                "use a value outside, such as -1 (in signed maps) or 65535"
            )
        self.num_classes = num_classes
        self.ignore = ignore
        self.counts = np.zeros((num_classes, num_classes), np.int64)
        """(K, K) pixels; row: truth, column: prediction."""

    def add(self, pred: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Count one image; both maps (H, W).

        Raises:
            ValueError: different sizes, or a value that is not a class.
        """
        if pred.shape != truth.shape:
            raise ValueError(
                f"expected maps of one size, got {pred.shape} (prediction) and {truth.shape} "
                "(truth)"
            )
        counted = truth != self.ignore
        pairs = truth[counted].astype(np.int64), pred[counted].astype(np.int64)
        for name, values in zip(("truth", "prediction"), pairs, strict=True):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise ValueError(
                    f"expected {name} in 0..{self.num_classes - 1}, "
                    f"got {values.min()}..{values.max()}"
                )
        cells = np.bincount(pairs[0] * self.num_classes + pairs[1], minlength=self.num_classes**2)
        self.counts += cells.reshape(self.num_classes, self.num_classes)

    def __iadd__(self, other: "ConfusionMatrix") -> "ConfusionMatrix":
        self.counts += other.counts
        return self

    def iou(self) -> NDArray[np.float64]:
        """Return (K,) intersection over union; NaN for a class in neither truth nor prediction."""
        hit = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hit
        return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Return the mean over the classes (default: all) that occur; NaN if none does."""
        values = self.iou() if classes is None else self.iou()[list(classes)]
        return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")

    def pixel_accuracy(self) -> float:
        """Return the share of counted pixels that are right; NaN if none is counted."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")

    def foreground_iou(self) -> float:
        """Return the IoU of all labels taken as one class; NaN if none occurs."""
        inside = self.counts[1:, 1:].sum()
        union = self.counts.sum() - self.counts[0, 0]
        return float(inside / union) if union else float("nan")
