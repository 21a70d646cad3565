"""The image encoder by hand equals open_clip's own forward pass."""

from pathlib import Path

import pytest
import torch
from open_clip import image_transform
from PIL import Image as PillowImage
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.last_block import dense_patches, identity, run_last_block
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import (
    TINY_CLIP,
    load_clip_of_job,
    random_image,
    tiny_backbones,
    trunk_of_pixels,
    write_clip,
)


def _attention(q_BHLd: Tensor, k_BHLd: Tensor, v_BHLd: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q_BHLd, k_BHLd, v_BHLd)


def _clip(tmp_path: Path, **vision: object) -> Backbones:
    config = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}}
    return tiny_backbones(clip=ClipConfig(model=f"local-dir:{write_clip(tmp_path, config)}"))


@pytest.mark.parametrize(
    "vision",
    [{}, {"pool_type": "avg", "pos_embed_type": "sin_cos_2d"}, {"ls_init_value": 0.5}],
    ids=["class token", "mean pool", "layer scale"],
)
@torch.inference_mode()
def test_trunk_and_last_block_equal_open_clips(tmp_path: Path, vision: dict) -> None:
    clip = _clip(tmp_path, **vision).clip
    side = clip.input_px
    pixels = torch.stack([random_image(seed, side, side) for seed in range(3)])
    state = trunk_of_pixels(clip, pixels)
    z = clip.project(run_last_block(clip, state.tokens_BLC, _attention, residual=True))
    pooled = z[:, 1:].mean(1) if vision.get("pool_type") == "avg" else z[:, 0]
    torch.testing.assert_close(pooled, clip.encode_images(pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        clip.encode_images(pixels, images_per_forward=2), clip.encode_images(pixels)
    )
    expected = clip.model.encode_image(clip.normalise(pixels))
    torch.testing.assert_close(clip.encode_images(pixels), expected)


@torch.inference_mode()
def test_returned_ln2_does_not_change_the_trunk() -> None:
    clip = tiny_backbones().clip
    pixels = random_image(0, 40, 70)[None].expand(2, -1, -1, -1)
    plain, tapped = (
        trunk_of_pixels(clip, pixels),
        trunk_of_pixels(clip, pixels, return_ln2=(0, -2)),
    )
    torch.testing.assert_close(plain.tokens_BLC, tapped.tokens_BLC)
    assert plain.ln2 == {}
    assert tapped.ln2.keys() == {0, -2}
    rows, columns = tapped.grid_hw
    assert (rows, columns) == (3, 5)
    assert tapped.ln2[-2].shape == (2, 1 + rows * columns, clip.visual.transformer.width)


@torch.inference_mode()
def test_dense_patches_without_residual() -> None:
    clip = tiny_backbones().clip
    state = trunk_of_pixels(clip, random_image(0, 40, 70)[None])
    kept = dense_patches(clip, state, identity)
    bare = dense_patches(clip, state, identity, residual=False)
    assert kept.shape == bare.shape == (1, clip.dim, 3, 5)
    attention = clip.visual.transformer.resblocks[-1].attn
    values = torch.nn.functional.linear(
        clip.visual.transformer.resblocks[-1].ln_1(state.tokens_BLC),
        attention.in_proj_weight,
        attention.in_proj_bias,
    ).chunk(3, -1)[2]
    expected = clip.project(attention.out_proj(values))[:, 1:].transpose(1, 2).reshape(1, -1, 3, 5)
    torch.testing.assert_close(bare, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, "a ResNet .*plain vision"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "attention pool"),
        ({"qk_norm": True}, "custom blocks"),
        ({"image_size": [48, 32]}, "square CLIP input"),
    ],
)
def test_unsupported_image_encoder_is_refused(tmp_path: Path, vision: dict, message: str) -> None:
    config = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}}
    with pytest.raises(WeightsError, match=message):
        load_clip_of_job(f"local-dir:{write_clip(tmp_path, config)}")


@torch.inference_mode()
def test_image_vectors_are_those_of_open_clips_own_preprocessing() -> None:
    clip = tiny_backbones().clip
    images = [random_image(seed, *size) for seed, size in enumerate([(70, 41), (33, 90), (64, 64)])]
    pictures = [PillowImage.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    transform = image_transform(clip.input_px, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = 255 * torch.stack([transform(picture) for picture in pictures])
    expected = clip.model.encode_image(clip.normalise(pixels))
    found = clip.image_vectors(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=-1))
