"""ClearCLIP and the variants of its ablation, against the authors' repository."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from ovseg_core.dense.last_block import SoftmaxSum, identity
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods import clearclip
from tests.golden import reference
from tests.golden.window_methods import Stages, assert_equal

POLICIES = {
    "clearclip": SoftmaxSum(("qq",)),
    "vanilla": SoftmaxSum(("qk",)),
    "identity": identity,
    "sclip": SoftmaxSum(("qq", "kk")),
}
BARE = ("clearclip", "vanilla_noresidual", "identity_noresidual", "sclip_noresidual")
"""Variants without residual and MLP."""


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    stages = Stages.of("clearclip", tmp_path_factory.mktemp("golden"))

    def method(scale: str, threshold: str) -> WindowSegmenter:
        options = clearclip.Options(
            logit_scale=float(scale), probability_threshold=float(threshold), **stages.sizes()
        )
        return clearclip.build(options, stages.backbones)

    def variant(stage: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def compute(name: str, image: str) -> Tensor:
            policy = POLICIES[name.partition("_")[0]]
            return stage(image, lambda trunk: policy, name not in BARE)

        return compute

    slide = r"(?P<key>slide_scale(?P<scale>\d+)_thd(?P<threshold>[\d.]+)\.(?P<image>[^.]+))"

    return [
        (r"(?P<name>[^.]+)\.(?P<image>[^.]+)\.features", variant(stages.features)),
        (r"(?P<name>[^.]+)\.(?P<image>[^.]+)\.logits_up", variant(stages.logits_up)),
        (
            slide + r"\.class_prob",
            lambda key, scale, threshold, image: stages.class_prob(
                method(scale, threshold), key, image
            ),
        ),
        (
            slide + r"\.labels",
            lambda key, scale, threshold, image: stages.labels(
                method(scale, threshold), key, image
            ),
        ),
    ]


@pytest.mark.parametrize("key", reference.keys("clearclip"))
def test_clearclip_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    assert_equal("clearclip", key, checks)
