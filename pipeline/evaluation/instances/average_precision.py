"""COCO's average precision and average recall of masks, image by image.

Which segment is which object is pycocotools' answer (`COCOeval.evaluate`), one image at a time.
`COCOeval.accumulate` would need the answers of all images as Python objects, so the curves are
drawn here, by its rules, from 33 bytes a segment: a hundred million segments are 3.3 GB.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from ovseg_core.rle.encode import coco_rle
from pipeline.evaluation.instances.image_pair import ImagePair

_PARAMS: Any = Params(iouType="segm")
IOU_THRESHOLDS: NDArray[np.float64] = _PARAMS.iouThrs
"""COCO's ten: 0.5, 0.55, ... 0.95."""
_NUM_AREAS = len(_PARAMS.areaRng)
_BITS = (1 << np.arange(len(IOU_THRESHOLDS), dtype=np.uint16))[:, None]
_MATCHES = np.dtype(
    [
        ("image", np.int32),
        ("label", np.int32),
        ("rank", np.uint8),  # within the image and label; at most `maxDets`
        ("score", np.float64),
        ("hits", np.uint16, _NUM_AREAS),  # a bit for each IoU threshold
        ("ignored", np.uint16, _NUM_AREAS),
    ]
)


class CocoFigures(NamedTuple):
    """COCO's twelve figures but AR by area, each 0 to 1; NaN: the truth has no such object."""

    ap: float
    """Mean over the IoU thresholds 0.5, 0.55, ... 0.95 of the precision at 101 recalls."""
    ap50: float
    """The same at IoU 0.5."""
    ap75: float
    ap_small: float
    """AP of objects of at most 32 x 32 pixels."""
    ap_medium: float
    ap_large: float
    """AP of objects of at least 96 x 96 pixels."""
    ar1: float
    """Recall, mean over the IoU thresholds, of the best segment of the label in each image."""
    ar10: float
    ar100: float


class AveragePrecision:
    """COCO's figures of labels 1 to `num_labels`."""

    def __init__(self, num_labels: int) -> None:
        self._matches: list[NDArray[np.void]] = []
        self._num_true = np.zeros((num_labels + 1, _NUM_AREAS), np.int64)

    def add(self, pair: ImagePair) -> None:
        """Match the segments of one image; its number is that of no other image."""
        for label, of_areas in _matched(pair):
            scores = of_areas[0]["dtScores"]
            rows = np.zeros(len(scores), _MATCHES)
            rows["image"], rows["label"], rows["score"] = pair.number, label, scores
            rows["rank"] = np.arange(len(scores))
            for area, match in enumerate(of_areas):
                self._num_true[label, area] += np.count_nonzero(match["gtIgnore"] == 0)
                ignored = match["dtIgnore"]
                rows["hits"][:, area] = _packed((match["dtMatches"] > 0) & ~ignored)
                rows["ignored"][:, area] = _packed(ignored)
            self._matches.append(rows)

    def figures(self) -> list[CocoFigures]:
        """Return the figures of each label, in order."""
        rows = np.concatenate(self._matches) if self._matches else np.zeros(0, _MATCHES)
        rows = rows[np.lexsort((rows["image"], rows["label"]))]
        bounds = np.searchsorted(rows["label"], np.arange(len(self._num_true) + 1))
        return [
            _figures(rows[bounds[label] : bounds[label + 1]], self._num_true[label])
            for label in range(1, len(self._num_true))
        ]


def mean_figures(figures: Sequence[CocoFigures]) -> CocoFigures:
    """Return the mean of each figure over the labels that have it, as COCOeval; NaN: none has."""
    values = np.array(figures, np.float64).reshape(-1, len(CocoFigures._fields))
    has = ~np.isnan(values)
    sums, counts = np.where(has, values, 0).sum(axis=0), has.sum(axis=0)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return CocoFigures(*means.tolist())


def _matched(pair: ImagePair) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each label of one image with COCOeval's matches, one for each range of areas.

    Ids count from 1: COCOeval takes a match with the object 0 for none.
    """
    if not pair.truth and not pair.found:
        return
    truth = [
        {
            "id": number,
            "image_id": 1,
            "category_id": one.label,
            "segmentation": coco_rle(one.rle_counts, pair.size_hw),
            "area": one.area_px,
            "iscrowd": int(one.is_crowd),
        }
        for number, one in enumerate(pair.truth, start=1)
    ]
    found = [
        {
            "id": number,
            "image_id": 1,
            "category_id": one.label,
            "segmentation": coco_rle(one.rle_counts, pair.size_hw),
            "area": one.area_px,
            "score": one.score,
        }
        for number, one in enumerate(pair.found, start=1)
    ]
    labels = sorted({one.label for one in (*pair.truth, *pair.found)})
    with redirect_stdout(io.StringIO()):  # pycocotools tells of each call
        evaluation: Any = COCOeval(
            _dataset(truth, labels, pair), _dataset(found, labels, pair), "segm"
        )
        evaluation.evaluate()
    for place, label in enumerate(labels):
        yield label, evaluation.evalImgs[place * _NUM_AREAS :][:_NUM_AREAS]


def _dataset(annotations: list[dict[str, Any]], labels: list[int], pair: ImagePair) -> COCO:
    height, width = pair.size_hw
    dataset: Any = COCO()
    dataset.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": annotations,
        "categories": [{"id": label} for label in labels],
    }
    dataset.createIndex()
    return dataset


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Return (N,) numbers, whose bit t is row t of (T, N)."""
    return (bits * _BITS).sum(axis=0, dtype=np.uint16)


def _figures(rows: NDArray[np.void], num_true: NDArray[np.int64]) -> CocoFigures:
    """Return the figures of one label, of its segments in the order of the images."""
    rows = rows[np.argsort(-rows["score"], kind="stable")]
    by_area = [_precisions(rows, area, int(num_true[area])) for area in range(_NUM_AREAS)]
    precisions = by_area[0]
    at = np.searchsorted(IOU_THRESHOLDS, [0.5 - 1e-9, 0.75 - 1e-9])
    recalls = [_recall(rows[rows["rank"] < most], int(num_true[0])) for most in _PARAMS.maxDets]
    ap50, ap75 = precisions[at].tolist()
    ap, *of_areas = (float(values.mean()) for values in by_area)
    return CocoFigures(ap, ap50, ap75, *of_areas, *recalls)


def _precisions(rows: NDArray[np.void], area: int, num_true: int) -> NDArray[np.float64]:
    """Return (T,) the mean precision at COCO's 101 recalls; NaN: no true object."""
    if not num_true:
        return np.full(len(IOU_THRESHOLDS), np.nan)
    found = np.zeros(len(IOU_THRESHOLDS))
    for number, bit in enumerate(_BITS[:, 0]):
        hits = np.cumsum(rows["hits"][:, area] & bit > 0).astype(np.float64)
        misses = np.cumsum((rows["hits"] | rows["ignored"])[:, area] & bit == 0)
        precision = hits / (misses + hits + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits / num_true, _PARAMS.recThrs, side="left")
        reached = places < len(rows)
        found[number] = best_from_here[places[reached]].sum() / len(places)
    return found


def _recall(rows: NDArray[np.void], num_true: int) -> float:
    """Return the recall of all areas, mean over the IoU thresholds; NaN: no true object."""
    if not num_true:
        return float("nan")
    hits = [np.count_nonzero(rows["hits"][:, 0] & bit) for bit in _BITS[:, 0]]
    return float(np.mean(hits) / num_true)
