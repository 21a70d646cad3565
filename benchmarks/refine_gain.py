"""What redrawing components by SAM gains: mIoU and boundary F-score on drawn scenes.

`python -m benchmarks.refine_gain --method sclip` measures a method without and with
`refine_masks`, the vote of proposals left out of both, on the 200 scenes of a split.
"""

import argparse
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.quality import embedded_backbones, predict, text_of_world
from benchmarks.quality_rows import FOUND
from benchmarks.world import CROWDED, LabelledScene, labelled_scenes
from ovseg_core.methods import build_segmenter
from pipeline.evaluation.metrics import ConfusionMatrix
from schemas.config import NamedOptions

TOLERANCE_PX = 2
METHODS: dict[str, dict[str, Any]] = {
    "sclip": {**FOUND, "short_side_px": 0, "templates": "diy"},
    "maskclip": {**FOUND, "short_side_px": 0, "templates": "diy"},
    "clip_diy": FOUND,
}
"""Options of the methods that are measured: those of docs/quality.md, with objectness."""
REFINED = {
    "proposals": {"name": "sam", "options": {"points_per_side": 1}},
    "region_vote": False,
    "refine_masks": True,
}
"""The grid of points is not used, so it is as small as it can be."""


def boundary_f(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], tolerance_px: float = TOLERANCE_PX
) -> float:
    """Return the mean boundary F-score of the labels of an image's truth, in [0, 1].

    Csurka et al., BMVC 2013: of each label, precision is the share of the predicted boundary that
    is within the tolerance of the true one, recall the other way round; 0 for a label that is not
    predicted. Background counts by the boundaries of the labels.

    Args:
        predicted: (H, W) labels, 0 is background.
        truth: (H, W).
        tolerance_px: largest distance.
    """
    labels = np.unique(truth[truth > 0]).tolist()
    return fmean(_label_f(predicted == k, truth == k, tolerance_px) for k in labels)


def _label_f(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance_px: float) -> float:
    if not predicted.any():
        return 0.0
    edges = [mask & ~ndimage.binary_erosion(mask, border_value=1) for mask in (predicted, truth)]
    if not all(edge.any() for edge in edges):
        return float(np.array_equal(*edges))
    shares = [
        float((_distance(there)[here] <= tolerance_px).mean())
        for here, there in (edges, edges[::-1])
    ]
    return 2 * shares[0] * shares[1] / sum(shares) if all(shares) else 0.0


def _distance(edge: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance of each pixel to the next one of an edge."""
    return np.asarray(ndimage.distance_transform_edt(~edge))


def figures(
    method: NamedOptions, scenes: Mapping[str, Sequence[LabelledScene]]
) -> dict[str, float]:
    """Return means over scenes in percent: `miou`, `crowded_miou`, `boundary_f`."""
    segmenter = build_segmenter(method, embedded_backbones())
    world = text_of_world(segmenter)
    ious: dict[str, list[float]] = {}
    edges: list[float] = []
    for group, some in scenes.items():
        for scene in some:
            predicted = predict(segmenter, scene, world)
            counts = ConfusionMatrix(len(scene.labels) + 1, ignore=-1)
            counts.add(predicted, scene.truth)
            ious.setdefault(group, []).append(counts.mean_iou())
            edges.append(boundary_f(predicted, scene.truth))
    crowded = [iou for group in CROWDED for iou in ious.get(group, [])]
    return {
        "miou": 100 * fmean(iou for of_group in ious.values() for iou in of_group),
        "crowded_miou": 100 * fmean(crowded) if crowded else 0.0,
        "boundary_f": 100 * fmean(edges),
    }


def refine_gains(
    name: str, scenes: Mapping[str, Sequence[LabelledScene]]
) -> dict[str, dict[str, float]]:
    """Return the figures of a method `without` and `with` refinement, and the `gain`."""
    options = METHODS[name]
    plain = figures(NamedOptions(name=name, options=options), scenes)
    refined = figures(NamedOptions(name=name, options={**options, **REFINED}), scenes)
    gain = {figure: refined[figure] - plain[figure] for figure in plain}
    return {"without": plain, "with": refined, "gain": gain}


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=[*METHODS], action="append")
    parser.add_argument("--split", choices=["committed", "development"], default="committed")
    parser.add_argument("--scenes", type=int, default=40, help="of each group")
    given = parser.parse_args()
    torch.set_num_threads(1)
    drawn = labelled_scenes(given.split)
    scenes = {group: some[: given.scenes] for group, some in drawn.items()}
    for name in given.method or METHODS:
        for row, values in refine_gains(name, scenes).items():
            print(f"{name:10} {row:8}", {key: round(value, 1) for key, value in values.items()})


if __name__ == "__main__":
    main()
