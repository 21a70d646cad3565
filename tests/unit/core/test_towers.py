"""Networks read by hand equal the libraries' own forward passes."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from ovseg_core.attention import identity
from ovseg_core.backbones import Backbones
from ovseg_core.last_block import dense_features, last_block
from ovseg_core.positional import PositionTable
from ovseg_core.vision import Vision
from ovseg_core.vision_loading import LoadedVision
from schemas.config import ClipConfig
from tests.factories import TINY_CLIP, random_image, tiny_backbones, write_clip

CPU = torch.device("cpu")


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
def test_trunk_and_last_block_equal_the_tower(tmp_path: Path, vision: dict) -> None:
    clip = _clip(tmp_path, **vision).clip
    side = clip.input_px
    pixels = torch.stack([random_image(seed, side, side) for seed in range(3)])
    state = clip.trunk(pixels, "size")
    z = clip.project(last_block(clip, state.tokens_BLC, _attention, residual=True))
    pooled = z[:, 1:].mean(1) if vision.get("pool_type") == "avg" else z[:, 0]
    torch.testing.assert_close(pooled, clip.embed(pixels), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.embed(pixels, per_forward=2), clip.embed(pixels))
    expected = clip.model.encode_image(clip.normalise(pixels))
    torch.testing.assert_close(clip.embed(pixels), expected)


@torch.inference_mode()
def test_taps_do_not_change_the_trunk() -> None:
    clip = tiny_backbones().clip
    pixels = random_image(0, 40, 70)[None].expand(2, -1, -1, -1)
    plain, tapped = clip.trunk(pixels, "size"), clip.trunk(pixels, "size", taps=(0, -2))
    torch.testing.assert_close(plain.tokens_BLC, tapped.tokens_BLC)
    assert plain.taps == {}
    assert tapped.taps.keys() == {0, -2}
    rows, columns = tapped.grid_hw
    assert (rows, columns) == (3, 5)
    assert tapped.taps[-2].shape == (2, 1 + rows * columns, clip.visual.transformer.width)


@torch.inference_mode()
def test_dense_features_without_residual_leave_the_block_out() -> None:
    clip = tiny_backbones().clip
    state = clip.trunk(random_image(0, 40, 70)[None], "size")
    kept = dense_features(clip, state, identity)
    bare = dense_features(clip, state, identity, residual=False)
    assert kept.shape == bare.shape == (1, clip.dim, 3, 5)
    attention = clip.visual.transformer.resblocks[-1].attn
    values = torch.nn.functional.linear(
        clip.visual.transformer.resblocks[-1].ln_1(state.tokens_BLC),
        attention.in_proj_weight,
        attention.in_proj_bias,
    ).chunk(3, -1)[2]
    expected = clip.project(attention.out_proj(values))[:, 1:].transpose(1, 2).reshape(1, -1, 3, 5)
    torch.testing.assert_close(bare, expected, atol=1e-5, rtol=0)


def _timm(**arguments: object) -> Vision:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes, **arguments).eval()
    for parameter in (model.cls_token, model.reg_token, model.pos_embed):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.5)
    return Vision(LoadedVision(model, "tiny", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), ""), CPU)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"reg_tokens": 4, "no_embed_class": True},
        {"reg_tokens": 2},
        {"init_values": 0.3, "qk_norm": True},
        {"pre_norm": True},
    ],
    ids=str,
)
@torch.inference_mode()
def test_vision_tokens_equal_timms(arguments: dict) -> None:
    vision = _timm(**arguments)
    pixels = torch.stack([random_image(seed, 32, 32) for seed in range(2)])
    state = vision.run(pixels)
    tokens = vision.feature_map(state, "tokens")
    mean = torch.tensor((0.5, 0.4, 0.3)).view(3, 1, 1)
    std = torch.tensor((0.2, 0.3, 0.4)).view(3, 1, 1)
    expected = vision.model.forward_features((pixels / 255 - mean) / std)
    expected = expected[:, vision.model.num_prefix_tokens :].transpose(1, 2).reshape(2, 32, 4, 4)
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=0)
    attention = vision.class_attention(state)
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(-1) < 1).all()


@torch.inference_mode()
def test_vision_reads_any_size() -> None:
    vision = _timm()
    pixels = torch.stack([random_image(seed, 20, 43) for seed in range(2)])
    state = vision.run(pixels)
    assert state.grid_hw == (3, 6)
    for feature in ("q", "k", "v", "tokens"):
        assert vision.feature_map(state, feature).shape == (2, 32, 3, 6)


@pytest.mark.parametrize(
    ("arguments", "name", "rule"),
    [
        ({}, "vit_small_patch8_224.dino", "scale01"),
        ({}, "vit_base_patch16_224.mae", "size"),
        ({"reg_tokens": 4}, "vit_small_patch14_reg4_dinov2.lvd142m", "antialias"),
    ],
)
def test_each_family_has_its_position_rule(arguments: dict, name: str, rule: str) -> None:
    model = _timm(**arguments).model
    assert Vision(LoadedVision(model, name, (0, 0, 0), (1, 1, 1), ""), CPU).rule == rule


def test_position_tables_are_cached_and_left_alone() -> None:
    table = torch.randn((1 + 12, 4))
    before = table.clone()
    positions = PositionTable(table, (3, 4))
    assert positions.at("size", (3, 4)) is table
    for rule in ("size", "scale01", "bilin", "antialias"):
        read = positions.at(rule, (5, 2))
        assert read.shape == (11, 4)
        assert torch.equal(read[0], table[0])
        assert positions.at(rule, (5, 2)) is read
    assert torch.equal(table, before)
    assert positions.at("size", (4, 3)).shape == table.shape
    assert not torch.equal(positions.at("size", (4, 3)), table)


def test_a_table_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs 13 rows, got 12"):
        PositionTable(torch.zeros((12, 4)), (3, 4))
