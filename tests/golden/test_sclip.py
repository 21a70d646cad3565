"""SCLIP against the authors' repository."""

from collections.abc import Callable
from typing import Any

import pytest

from ovseg_core.dense.last_block import SoftmaxSum
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods import sclip
from tests.golden import reference
from tests.golden.window_methods import Stages, assert_equal

CSA = SoftmaxSum(("qq", "kk"))


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    stages = Stages.of("sclip", tmp_path_factory.mktemp("golden"))

    def method(scale: str, thd: str | None, area: str | None) -> WindowSegmenter:
        options = sclip.Options(
            logit_scale=float(scale),
            probability_threshold=float(thd or 0),
            area_threshold=float(area or 0),
            **stages.sizes(),
        )
        return sclip.build(options, stages.backbones)

    slide = (
        r"(?P<key>slide_scale(?P<scale>\d+)(_thd(?P<thd>[\d.]+))?(_area(?P<area>[\d.]+))?"
        r"\.(?P<image>[^.]+))"
    )
    return [
        (
            r"csa\.(?P<image>.+)\.features",
            lambda image: stages.features(image, lambda _: CSA, True),
        ),
        (
            r"csa\.(?P<image>.+)\.logits_up",
            lambda image: stages.logits_up(image, lambda _: CSA, True),
        ),
        (
            slide + r"\.class_prob",
            lambda key, image, **given: stages.class_prob(method(**given), key, image),
        ),
        (
            slide + r"\.labels",
            lambda key, image, **given: stages.labels(method(**given), key, image),
        ),
    ]


@pytest.mark.parametrize("key", reference.keys("sclip"))
def test_sclip_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    assert_equal("sclip", key, checks)
