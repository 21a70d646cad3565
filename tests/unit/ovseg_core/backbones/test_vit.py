"""Vision networks read by hand equal timm's own forward passes, family by family."""

import functools
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.load_vit import LoadedVit
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam import SamEncoder
from ovseg_core.backbones.vit import DenseBackbone, TimmViT
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import random_image, tiny_backbones, write_timm

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FAMILIES = {
    "dino S/8": ("vit_small_patch8_224", "dino", 8, "scale01"),
    "dino S/16": ("vit_small_patch16_224", "dino", 16, "scale01"),
    "dino B/8": ("vit_base_patch8_224", "dino", 8, "scale01"),
    "dino B/16": ("vit_base_patch16_224", "dino", 16, "scale01"),
    "dinov2 S/14": ("vit_small_patch14_reg4_dinov2", "lvd142m", 14, "antialias"),
    "dinov2 B/14": ("vit_base_patch14_reg4_dinov2", "lvd142m", 14, "antialias"),
    "mae B/16": ("vit_base_patch16_224", "mae", 16, "size"),
}
"""timm's architecture, the tag of its weights, patch, position rule."""
SMALL_SAM: dict[str, Any] = {
    "img_size": 64,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "neck_chans": 12,
    "window_size": 3,
    "global_attn_indexes": (1,),
}


def normal(pixels_B3HW: Tensor) -> Tensor:
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return (pixels_B3HW / 255 - mean) / std


def photographs(height: int, width: int, count: int = 2) -> Tensor:
    return torch.stack([random_image(seed, height, width) for seed in range(count)])


def plain_vit(tag: str = "", **arguments: object) -> TimmViT:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
    model: Any = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, **{**sizes, **arguments}
    ).eval()
    for parameter in (model.cls_token, model.reg_token, model.pos_embed):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=0.5)
    return TimmViT(LoadedVit(model, "tiny", MEAN, STD, "", tag), CPU)


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
    pixels = photographs(32, 32)
    expected = timms_patches(vision, pixels, (4, 4))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)
    attention = vision.class_attention(vision.forward_trunk(pixels))
    assert attention.shape == (2, 2, 16)
    assert (attention.sum(-1) < 1).all()


@torch.inference_mode()
def test_any_size_is_read_padded_with_the_mean_colour() -> None:
    vision = plain_vit()
    pixels = photographs(20, 43)
    padded = (torch.tensor(MEAN) * 255).view(3, 1, 1).expand(2, 3, 24, 48).clone()
    padded[:, :, :20, :43] = pixels
    for feature in vision.feature_kinds:
        found = vision.features(pixels, feature)
        assert found.shape == (2, 32, 3, 6)
        torch.testing.assert_close(found, vision.features(padded, feature), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_many_images_go_through_in_parts_of_bounded_memory() -> None:
    """Each image on a grid of 40 x 60 patches, of which one fits a pass on a CPU."""
    vision = plain_vit()
    pixels = photographs(320, 480, count=3)
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
def test_each_family_has_its_position_rule(arguments: dict, tag: str, rule: str) -> None:
    assert plain_vit(tag, **arguments).interpolation == rule


@torch.inference_mode()
def test_dinov2_with_registers_is_timms_at_any_size() -> None:
    """Antialiased bicubic to the size, which is what timm's dynamic size does."""
    registers = {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.3, "patch_size": 14}
    vision = plain_vit("lvd142m", img_size=56, dynamic_img_size=True, **registers)
    pixels = photographs(84, 42)
    expected = timms_patches(vision, pixels, (6, 3))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_mae_is_timms_with_its_table_resized_to_the_size() -> None:
    """Bicubic without antialias; the reference is a timm model built for the larger size."""
    vision = plain_vit("mae")
    larger = plain_vit("mae", img_size=(48, 40)).model
    table = vision.model.pos_embed
    grid = table[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (6, 5), mode="bicubic").flatten(2).transpose(1, 2)
    weights = vision.model.state_dict()
    larger.load_state_dict({**weights, "pos_embed": torch.cat([table[:, :1], grid], dim=1)})
    pixels = photographs(48, 40)
    expected = larger.forward_features(normal(pixels))[:, 1:].transpose(1, 2).unflatten(2, (6, 5))
    torch.testing.assert_close(vision.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


def written(folder: Path, kind: str) -> str:
    """A tiny random network of a family, as a user's folder."""
    if kind == "sam":
        return f"local-dir:{write_timm(folder, 'samvit_base_patch16', SMALL_SAM)}"
    architecture, tag, _, _ = FAMILIES[kind]
    sizes = {"img_size": 112, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return f"local-dir:{write_timm(folder, architecture, sizes, tag)}"


@pytest.mark.parametrize("kind", FAMILIES)
@torch.inference_mode()
def test_a_folder_knows_its_family(tmp_path: Path, kind: str) -> None:
    """timm's own architectures, made small."""
    _, _, patch_px, rule = FAMILIES[kind]
    source = tiny_backbones().network(written(tmp_path, kind))
    assert isinstance(source, TimmViT)
    assert (source.interpolation, source.multiple_px) == (rule, patch_px)
    side = 112 // patch_px
    pixels = photographs(112, 112)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    expected = source.model.forward_features((pixels / 255 - mean) / std)
    expected = expected[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(source.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_sam_is_timms_encoder_on_the_squashed_image(tmp_path: Path) -> None:
    source = tiny_backbones().network(written(tmp_path, "sam"))
    assert isinstance(source, SamEncoder)
    assert source.multiple_px == 1
    pixels = photographs(40, 75)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    squashed = F.interpolate((pixels / 255 - mean) / std, (64, 64), mode="bilinear")
    expected = source.model.forward_features(squashed)
    found = source.features(pixels, "tokens")
    assert found.shape == (2, 12, 4, 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_sams_own_file_fits_timms_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' names, with the two other parts of SAM beside the encoder."""
    small = functools.partial(timm.create_model, **SMALL_SAM)
    monkeypatch.setattr(timm, "create_model", small)
    torch.manual_seed(3)
    weights = small("samvit_base_patch16", num_classes=0).state_dict()
    theirs = {f"image_encoder.{k.replace('mlp.fc', 'mlp.lin')}": v for k, v in weights.items()}
    torch.save({**theirs, "prompt_encoder.weight": torch.zeros(1)}, tmp_path / "sam.pth")
    backbones = Backbones(ClipConfig(), "samvit_base_patch16", str(tmp_path / "sam.pth"))
    source = backbones.network("samvit_base_patch16")
    assert isinstance(source, SamEncoder)
    assert all(torch.equal(v, weights[k]) for k, v in source.model.state_dict().items())
    assert backbones.files() == {"vision": str(tmp_path / "sam.pth")}
    del theirs["image_encoder.neck.0.weight"]
    torch.save(theirs, tmp_path / "part.pth")
    lacking = Backbones(ClipConfig(), "samvit_base_patch16", str(tmp_path / "part.pth"))
    with pytest.raises(WeightsError, match=r"does not fit samvit_base_patch16.*neck\.0\.weight"):
        lacking.network("samvit_base_patch16")


def test_the_jobs_own_network_is_loaded_once_and_noted(tmp_path: Path) -> None:
    backbones = tiny_backbones()
    own = backbones.network(backbones.vision_model, "proxy")
    assert own is backbones.vision
    assert backbones.files().keys() == {"vision"}
    other = written(tmp_path, "dino S/16")
    first: DenseBackbone = backbones.network(other, "proxy")
    assert backbones.network(other, "proxy") is first
    assert first is not own
    files = backbones.files()
    assert files.keys() == {"vision", "proxy"}
    assert files["proxy"] == str(tmp_path / "model.safetensors")


def test_a_sam_is_no_network_for_found(tmp_path: Path) -> None:
    backbones = tiny_backbones(vision_model=written(tmp_path, "sam"))
    with pytest.raises(WeightsError, match=r"no class token.*vit_small_patch8_224\.dino"):
        _ = backbones.vision


@pytest.mark.parametrize(
    ("clip", "vision", "expected"),
    [
        ("ViT-B-16", "vit_small_patch8_224.dino", "published"),
        (EMBEDDED, EMBEDDED, EMBEDDED),
        ("ViT-B-16", EMBEDDED, EMBEDDED),
        (EMBEDDED, "vit_small_patch8_224.dino", EMBEDDED),
        (EMBEDDED, "local-dir:mine", "local-dir:mine"),
    ],
)
def test_what_is_taken_where_the_options_name_none(clip: str, vision: str, expected: str) -> None:
    assert Backbones(ClipConfig(model=clip), vision).network_or("published") == expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "vit_base_patch8_224.dinno",
            r"^network: .* is unknown\. Did you mean '\S+8_224\.dino'",
        ),
        ("samvit_bas_patch16", r"^network: timm has no model .*Did you mean 'samvit_base_patch16'"),
        ("test_resnet.r160_in1k", r"ResNet that ovseg cannot read"),
        ("local-dir:nowhere", r"nowhere is not a timm folder"),
    ],
)
def test_a_wrong_further_network_is_told_in_one_line(model: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        tiny_backbones().network(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_a_network_of_another_kind_is_refused(tmp_path: Path, architecture: str) -> None:
    small = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "img_size": 32}
    arguments = {"window_size": 4, **small} if architecture.startswith("swin") else {}
    folder = write_timm(tmp_path, architecture, arguments)
    with pytest.raises(WeightsError, match=r"that ovseg cannot read.*vit_small_patch8_224\.dino"):
        tiny_backbones().network(f"local-dir:{folder}")
