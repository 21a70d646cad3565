"""SC-CLIP's choice of blocks, its numerical edge cases and its outlier repair."""

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.methods.sc_clip import Options, SelfCalibratedEncoder, build
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return tiny_backbones()


@pytest.mark.parametrize(
    "blocks", [{"middle_block": 2}, {"early_block": 9}, {"summed_blocks": (0, 3)}]
)
def test_blocks_that_the_clip_lacks_are_refused(blocks: dict, backbones: Backbones) -> None:
    with pytest.raises(ConfigError, match="reads blocks 0 to 1 of this CLIP's 3, got"):
        build(Options(**blocks), backbones)


@pytest.mark.parametrize("size", [(48, 32), (16, 16)])
def test_equal_patches_have_finite_features(size: tuple[int, int], backbones: Backbones) -> None:
    encoder = SelfCalibratedEncoder(backbones.clip, Options(position_rule="size"))
    features = encoder.encode_dense(encoder.encode_trunk(torch.zeros(2, 3, *size)))
    assert torch.isfinite(features.patches_BDhw).all()


def test_outlier_repair_changes_the_features(backbones: Backbones) -> None:
    pixels = torch.stack([random_image(0, 48, 80), random_image(1, 48, 80)]).float()
    kept, repaired = (
        encoder.encode_dense(encoder.encode_trunk(pixels / 99)).patches_BDhw
        for encoder in (
            SelfCalibratedEncoder(backbones.clip, Options(outlier_neighbours=k)) for k in (30, 5)
        )
    )
    assert (kept - repaired).abs().max() > 1e-3
