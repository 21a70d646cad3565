"""What redrawing components by SAM gains."""

import numpy as np
import pytest

from benchmarks.refine_gain import boundary_f, refine_gains
from benchmarks.world import GROUPS, labelled_scene


def test_boundary_f_of_a_shifted_square_falls_with_the_shift() -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[10:30, 15:45] = 1
    values = [boundary_f(np.roll(truth, shift, axis=1), truth) for shift in (0, 2, 6)]
    assert values[:2] == [1.0, 1.0]
    assert 0.4 < values[2] < 0.8
    assert boundary_f(truth * 2, truth) == 0.0


def test_boundary_f_is_the_mean_over_the_labels_of_the_truth() -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[5:15, 5:25], truth[20:35, 30:55] = 1, 2
    predicted = np.where(truth == 1, 1, 0).astype(np.uint8)
    predicted[:3, 50:] = 3
    assert boundary_f(predicted, truth) == 0.5
    assert boundary_f(np.full_like(truth, 1), np.ones_like(truth)) == 1.0


@pytest.mark.parametrize("method", ["sclip", "maskclip", "clip_diy"])
def test_edges_and_masks_gain_with_the_embedded_sam(method: str) -> None:
    scenes = {name: [labelled_scene(name, 4, "development")] for name in GROUPS}
    gain = refine_gains(method, scenes)["gain"]
    assert gain["boundary_f"] > 5
    assert gain["miou"] > 2
