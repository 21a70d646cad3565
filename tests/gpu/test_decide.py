"""Decisions on the GPU equal those on the CPU, whatever the size of the canvas and the image."""

import numpy as np
import pytest
import torch

from ovseg_core.decision.decide import decide
from ovseg_core.segmenter import DecisionRule, ScoreMaps

SIZES = [(45, 60), (33, 70)]


def score_maps(device: str, canvas_hw: tuple[int, int] | None, with_rule: bool) -> ScoreMaps:
    """Return random cosines of five phrases, three classes, for two images."""
    random = torch.Generator().manual_seed(3)
    levels = tuple((torch.rand(5, 6, 8, generator=random).to(device),) for _ in SIZES)
    objectness = tuple(torch.rand(6, 8, generator=random).to(device) for _ in SIZES)
    rule = DecisionRule(torch.tensor([0, 1, 1, 2, 2], device=device), 3, 0.2)
    return ScoreMaps(
        levels=levels,
        canvas_hw=canvas_hw,
        objectness=objectness,
        fusion="foreground_gate",
        domain="cosine",
        logit_scale=20.0,
        rule=rule if with_rule else None,
    )


@pytest.mark.parametrize("canvas_hw", [None, (40, 24)])
@pytest.mark.parametrize("with_rule", [False, True])
def test_decisions_on_the_gpu_equal_those_on_the_cpu(
    canvas_hw: tuple[int, int] | None, with_rule: bool
) -> None:
    on_cpu = decide(score_maps("cpu", canvas_hw, with_rule), SIZES)
    on_gpu = decide(score_maps("cuda", canvas_hw, with_rule), SIZES)
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found.label_map.shape == expected.label_map.shape
        assert np.mean(found.label_map == expected.label_map) >= 0.999
        np.testing.assert_allclose(found.class_mean_prob, expected.class_mean_prob, atol=1e-4)
        np.testing.assert_allclose(found.class_max_prob, expected.class_max_prob, atol=1e-4)
