"""Vision transformers equal timm's own forward passes, family by family."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.vision.load_vit import LoadedVit
from ovseg_core.backbones.vision.vit import TimmViT
from tests.helpers.tiny_models import (
    VIT_FAMILIES,
    random_images,
    tiny_backbones,
    write_family,
)

CPU = torch.device("cpu")


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normal(pixels_B3HW: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels_B3HW / 255 - mean) / std


def plain_vit(tag: str = "", **arguments: object) -> TimmViT:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, **{**sizes, **arguments}
    ).eval()
    for parameter in (model.cls_token, model.reg_token, model.pos_embed):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.5)
    return TimmViT(LoadedVit(model, "tiny", MEAN, STD, "", tag), Compute(CPU))


def timms_patches(vision: TimmViT, pixels_B3HW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    tokens = vision.model.forward_features(normal(pixels_B3HW))
    return tokens[:, vision.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, grid_hw)


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
def test_tokens_equal_timms_at_the_native_size(arguments: dict) -> None:
    vision = plain_vit(**arguments)
    pixels = random_images(32, 32)
    expected = timms_patches(vision, pixels, (4, 4))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)
    attention = vision.class_attention(vision.forward_trunk(pixels))
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(-1) < 1).all()


@torch.inference_mode()
def test_any_size_is_padded_with_the_mean_colour() -> None:
    vision = plain_vit()
    pixels = random_images(20, 43)
    padded = (torch.tensor(MEAN) * 255).view(3, 1, 1).expand(2, 3, 24, 48).clone()
    padded[:, :, :20, :43] = pixels
    for feature in vision.feature_kinds:
        found = vision.features(pixels, feature)
        assert found.shape == (2, 32, 3, 6)
        torch.testing.assert_close(found, vision.features(padded, feature), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_many_images_are_processed_in_batches() -> None:
    """Each image on a grid of 40 x 60 patches, of which one fits a pass on a CPU."""
    vision = plain_vit()
    pixels = random_images(320, 480, count=3)
    alone = torch.cat([vision.features(one[None], "v") for one in pixels])
    torch.testing.assert_close(vision.features(pixels, "v"), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "tag", "rule"),
    [
        ({}, "dino", "scale01"),
        ({}, "lvd142m", "scale01"),
        ({}, "mae", "size"),
        ({"reg_tokens": 4}, "lvd142m", "antialias"),
    ],
)
def test_interpolation_is_that_of_the_family(arguments: dict, tag: str, rule: str) -> None:
    assert plain_vit(tag, **arguments).interpolation == rule


@torch.inference_mode()
def test_dinov2_with_registers_equals_timms_at_any_size() -> None:
    """Antialiased bicubic to the size, which is what timm's dynamic size does."""
    registers = {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.3, "patch_size": 14}
    vision = plain_vit("lvd142m", img_size=56, dynamic_img_size=True, **registers)
    pixels = random_images(84, 42)
    expected = timms_patches(vision, pixels, (6, 3))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_mae_equals_timms_with_resized_position_embeddings() -> None:
    """Bicubic without antialias; the reference is a timm model built for the larger size."""
    vision = plain_vit("mae")
    larger = plain_vit("mae", img_size=(48, 40)).model
    table = vision.model.pos_embed
    grid = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (6, 5), mode="bicubic").flatten(2).transpose(1, 2)
    weights = vision.model.state_dict()
    larger.load_state_dict({**weights, "pos_embed": torch.cat([table[:, :1], grid], dim=1)})
    pixels = random_images(48, 40)
    expected = larger.forward_features(normal(pixels))[:, 1:].transpose(1, 2).unflatten(2, (6, 5))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", VIT_FAMILIES)
@torch.inference_mode()
def test_family_of_a_folder_is_recognised(tmp_path: Path, kind: str) -> None:
    """timm's own architectures, made small."""
    _, _, patch_px, rule = VIT_FAMILIES[kind]
    source = tiny_backbones().network(write_family(tmp_path, kind))
    assert isinstance(source, TimmViT)
    assert (source.interpolation, source.multiple_px) == (rule, patch_px)
    side = 112 // patch_px
    pixels = random_images(112, 112)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    expected = source.model.forward_features((pixels / 255 - mean) / std)
    expected = expected[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(source.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)
