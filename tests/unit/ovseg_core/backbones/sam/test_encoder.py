"""SAM's image encoder."""

from pathlib import Path

import torch
import torch.nn.functional as F

from ovseg_core.backbones.sam.encoder import SamEncoder
from tests.helpers.tiny_models import (
    random_images,
    tiny_backbones,
    write_family,
)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.inference_mode()
def test_sam_equals_timms_encoder_on_the_squashed_image(tmp_path: Path) -> None:
    source = tiny_backbones().network(write_family(tmp_path, "sam"))
    assert isinstance(source, SamEncoder)
    assert source.multiple_px == 1
    pixels = random_images(40, 75)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    squashed = F.interpolate((pixels / 255 - mean) / std, (64, 64), mode="bilinear")
    expected = source.model.forward_features(squashed)
    found = source.features(pixels, "tokens")
    assert found.shape == (2, 12, 4, 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
