"""A UNet's decoder features: what diffusers itself feeds its second-to-last up-sampling stage."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovseg_core.backbones.vision.unet import UnetDecoder
from ovseg_core.methods import proxyclip
from ovseg_core.segmenter import encode_images
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

SMALL = {"block_out_channels": (8, 16, 24), "layers_per_block": 1, "norm_num_groups": 4}
PLAIN = {
    **SMALL,
    "sample_size": 16,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CONDITIONED = {
    **SMALL,
    "sample_size": 16,
    "attention_head_dim": 8,
    "cross_attention_dim": 20,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
AUTOENCODER = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture(scope="module")
def diffusers() -> Any:
    return pytest.importorskip("diffusers", reason="the extra `unet` is not installed")


def save(network: Any, folder: Path) -> Path:
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def written(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random UNets as a user would have them."""
    torch.manual_seed(0)
    tmp_path = tmp_path_factory.mktemp("unets")
    pipeline = tmp_path / "pipeline"
    save(diffusers.UNet2DConditionModel(**CONDITIONED), pipeline / "unet")
    save(diffusers.AutoencoderKL(**AUTOENCODER), pipeline / "vae")
    conditioned = diffusers.UNet2DConditionModel(**{**CONDITIONED, "in_channels": 3})
    save(diffusers.UNet2DModel(**PLAIN), tmp_path / "plain")
    save(conditioned, tmp_path / "conditioned")
    return tmp_path


@pytest.fixture
def folders(written: Path, tmp_path: Path) -> dict[str, Path]:
    """Copies of them, which a test may change."""
    kinds = ("plain", "conditioned", "pipeline")
    return {kind: shutil.copytree(written / kind, tmp_path / kind) for kind in kinds}


def load_unet(folder: Path) -> UnetDecoder:
    source = tiny_backbones().network(f"diffusers:{folder}", "proxy")
    assert isinstance(source, UnetDecoder)
    return source


def decoder_input_by_diffusers(unet: Any, sample: Tensor) -> Tensor:
    """The input of `up_blocks[-2]` and its first skip, in the library's own forward pass."""
    seen: list[dict[str, Any]] = []
    names = ("hidden_states", "res_hidden_states_tuple")

    def look(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append({**dict(zip(names, arguments, strict=False)), **named})

    handle = unet.up_blocks[-2].register_forward_pre_hook(look, with_kwargs=True)
    width = unet.config.get("cross_attention_dim")
    words = {"encoder_hidden_states": torch.zeros(len(sample), 77, width)} if width else {}
    unet(sample, 0, **words)
    handle.remove()
    return torch.cat([seen[0]["hidden_states"], seen[0]["res_hidden_states_tuple"][-1]], dim=1)


@pytest.mark.parametrize("kind", ["plain", "conditioned"])
@torch.inference_mode()
def test_features_equal_diffusers_own(kind: str, folders: dict[str, Path]) -> None:
    source = load_unet(folders[kind])
    pixels = torch.stack([random_image(seed, 24, 40) for seed in range(2)])
    expected = decoder_input_by_diffusers(source.unet, pixels / 127.5 - 1)
    found = source.features(pixels, "tokens")
    assert found.shape[2:] == (12, 20)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_latent_unet_takes_latents_of_its_autoencoder(folders: dict[str, Path]) -> None:
    """Twice the size, then the latents' mode, scaled as the pipeline does."""
    source = load_unet(folders["pipeline"])
    pixels = torch.stack([random_image(seed, 24, 40) for seed in range(2)])
    twice = F.interpolate(pixels.float(), (48, 80), mode="bilinear") / 127.5 - 1
    latents = source.autoencoder.encode(twice).latent_dist.mean
    expected = decoder_input_by_diffusers(source.unet, latents * 0.18215)
    torch.testing.assert_close(source.features(pixels, "tokens"), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_large_maps_are_pooled_and_odd_sizes_resized(folders: dict[str, Path]) -> None:
    source = load_unet(folders["plain"])
    assert source.features(torch.zeros(1, 3, 50, 130), "tokens").shape[2:] == (24, 42)
    assert source.features(torch.zeros(2, 3, 1, 9), "tokens").shape[2:] == (2, 4)


@pytest.mark.parametrize("kind", ["plain", "conditioned", "pipeline"])
def test_proxyclip_with_a_unet(kind: str, folders: dict[str, Path]) -> None:
    backbones = tiny_backbones()
    options = proxyclip.Options(proxy=f"diffusers:{folders[kind]}", window_px=48)
    method = proxyclip.build(options, backbones)
    words = Vocabulary.model_validate(["cat", "dog"])
    images = [random_image(seed, 40, 60) for seed in range(2)]
    maps = method.score(encode_images(method, images), method.text_matrix(words))
    first, second = (maps.levels[index][0] for index in range(2))
    assert first.isfinite().all()
    assert (first - second).abs().max() > 1e-4
    roles = {"clip", "proxy", "proxy_vae"} if kind == "pipeline" else {"clip", "proxy"}
    assert set(backbones.files()) == roles


def test_missing_package_gives_the_install_command(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # its import fails
    with pytest.raises(WeightsError, match=r"not installed: pip install 'ovseg\[unet\]'"):
        load_unet(folders["plain"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 4}, r"takes 4 channels, not 3; a latent UNet needs its pipeline's folder"),
        ({"time_embedding_type": "fourier"}, r"time embedding is 'fourier', not 'positional'"),
        ({"class_embed_type": "timestep"}, r"more than an image, a time and a text"),
        (
            {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",)}
            | {"up_block_types": ("UpBlock2D",)},
            r"fewer than two up-sampling stages",
        ),
    ],
)
def test_unsupported_unet_gives_one_line_message(
    diffusers: Any, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save(diffusers.UNet2DModel(**{**PLAIN, **change}), tmp_path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_unet(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_of_another_network_gives_a_message(
    diffusers: Any, tmp_path: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(
        WeightsError, match=r"nowhere is not a folder of diffusers: expected config"
    ):
        load_unet(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds AutoencoderKL; expected UNet2DModel or"):
        load_unet(folders["pipeline"] / "vae")
    (folders["plain"] / "diffusion_pytorch_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="is not a weights file: its header"):
        load_unet(folders["plain"])


def other_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"other.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: {"conv_in.weight": it["conv_in.weight"]}, r"\d+ tensors are missing: "),
        (
            lambda it: it | {"conv_in.bias": torch.zeros(9)},
            r"conv_in\.bias has the shape \(9,\)",
        ),
        (lambda it: it | {"more": torch.zeros(9)}, r"1 tensors are unknown: more"),
        (other_tensors, r"tensors are missing: "),
    ],
)
def test_weights_of_another_unet_are_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    folders: dict[str, Path],
) -> None:
    """diffusers itself goes on with random numbers where the file lacks a tensor."""
    file = folders["plain"] / "diffusion_pytorch_model.safetensors"
    save_file(change(load_file(file)), file)
    with pytest.raises(WeightsError, match=message) as caught:
        load_unet(folders["plain"])
    assert "\n" not in str(caught.value)


@torch.inference_mode()
def test_former_names_and_half_precision_are_read(folders: dict[str, Path]) -> None:
    pixels = torch.stack([random_image(seed, 24, 40) for seed in range(2)])
    expected = load_unet(folders["plain"]).features(pixels, "tokens")
    file = folders["plain"] / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for name, old in former.items():
        tensors = {key.replace(f".{name}.", f".{old}."): it for key, it in tensors.items()}
    assert tensors.keys() != load_file(file).keys()
    save_file(tensors, file)
    assert torch.equal(load_unet(folders["plain"]).features(pixels, "tokens"), expected)
    save_file({key: it.half() for key, it in tensors.items()}, file)
    found = load_unet(folders["plain"]).features(pixels, "tokens")
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_out_channels": [8] * 9}, r"block_out_channels has 9 values, expected at most 8"),
        ({"layers_per_block": 10**9}, r"layers_per_block is 1000000000, expected at most 8"),
        ({"block_out_channels": [8, 16, 10**7]}, r"is 10000000, expected at most 65536"),
        ({"block_out_channels": [8, 16, 65536]}, r"have another shape|are missing"),
        ({"block_out_channels": "large"}, r"cannot be loaded: "),
        ({"norm_num_groups": 0}, r"cannot be loaded: "),
        ({"down_block_types": ["Harm"] * 3}, r"cannot be loaded: "),
    ],
)
def test_impossible_configuration_gives_one_line(
    change: dict[str, Any], message: str, folders: dict[str, Path]
) -> None:
    file = folders["plain"] / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(WeightsError, match=message) as caught:
        load_unet(folders["plain"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_damaged_configuration_gives_one_line(content: bytes, folders: dict[str, Path]) -> None:
    (folders["plain"] / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"cannot be loaded|holds no class") as caught:
        load_unet(folders["plain"])
    assert "\n" not in str(caught.value)
