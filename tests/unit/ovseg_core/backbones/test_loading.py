"""Loading backbones: the ways that work, and one clear line for each that does not."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg_core.backbones import load_clip
from ovseg_core.backbones.checkpoint import check_reachable, read_tensors
from ovseg_core.backbones.registry import Backbones
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import (
    TINY_CLIP,
    random_image,
    tiny_backbones,
    tiny_folder,
    write_clip,
)

CPU = torch.device("cpu")


def loaded_clip(model: str, pretrained: str = "") -> object:
    return Backbones(ClipConfig(model=model, pretrained=pretrained), "").clip


def load_vision(model: str, weights: str = "") -> object:
    return Backbones(ClipConfig(), model, weights).vision


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without network and with an empty cache."""

    def no_name(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B32", "", r"clip\.model: open_clip has no model 'ViT-B32'\. Did you mean 'ViT-B-32'"),
        ("embeded", "", r"open_clip has no model 'embeded'\. Did you mean 'embedded'"),
        ("ViT-B-32", "", r"clip\.pretrained: give the weights of ViT-B-32: openai, .*, or a file"),
        ("ViT-B-32", "laion2b", r"no weights 'laion2b'\. Did you mean 'laion2b_e16'"),
        ("ViT-B-32", "no/file.pt", r"no weights file at no/file\.pt.*`embedded`.*`local-dir:"),
        ("local-dir:nowhere", "", r"nowhere is not a CLIP folder: expected open_clip_config\.json"),
    ],
)
def test_a_wrong_clip_is_told_in_one_line(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        loaded_clip(model, pretrained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("vit_smal_patch8_224", "", r"timm has no model .*Did you mean 'vit_small_patch8_224'"),
        ("embeded", "", r"timm has no model 'embeded'\. Did you mean 'embedded'"),
        ("vit_small_patch8_224.dinoo", "", r"Did you mean 'vit_small_patch8_224\.dino'"),
        ("test_vit", "nowhere.pth", r"no weights file at nowhere\.pth.*`embedded`"),
        ("local-dir:nowhere", "", r"nowhere is not a timm folder: expected config\.json"),
        ("embedded", "dino.pth", r"'embedded', which has its own: leave vision\.weights out"),
    ],
)
def test_a_wrong_network_is_told_in_one_line(model: str, weights: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_vision(model, weights)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_advice_comes_at_once() -> None:
    advice = (
        r"cannot be downloaded \(huggingface\.co cannot be reached.*`embedded`.*`local-dir:FOLDER`"
    )
    with pytest.raises(WeightsError, match=advice):
        loaded_clip("ViT-B-32", "laion2b_s34b_b79k")
    with pytest.raises(WeightsError, match=advice):
        load_vision("vit_small_patch8_224.dino")


@pytest.mark.usefixtures("offline")
def test_what_is_cached_needs_no_network(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be reached"):
        check_reachable("some/model")
    (tmp_path / "models--some--model").mkdir()
    check_reachable("some/model")


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, "ModifiedResNet.*plain Vision"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "attention pool"),
        ({"qk_norm": True}, "custom blocks"),
        ({"image_size": [48, 32]}, "square CLIP input"),
    ],
)
def test_a_clip_that_cannot_be_read_by_hand(tmp_path: Path, vision: dict, message: str) -> None:
    config = {**TINY_CLIP, "vision_cfg": {**TINY_CLIP["vision_cfg"], **vision}}
    with pytest.raises(WeightsError, match=message):
        loaded_clip(f"local-dir:{write_clip(tmp_path, config)}")


def test_a_network_that_cannot_be_read_by_hand(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 0, "model_args": {"num_classes": 0}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    with pytest.raises(WeightsError, match=r"ResNet that ovseg cannot read.*vit_small_patch8_224"):
        load_vision(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("load", [loaded_clip, load_vision])
def test_a_folder_in_the_home_folder(
    load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=f"^{tmp_path}/models is not a"):
        load("local-dir:~/models")


def test_a_damaged_folder_is_told_in_one_line(tmp_path: Path) -> None:
    folder = write_clip(tmp_path, TINY_CLIP)
    (folder / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        loaded_clip(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_a_named_clip_takes_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user of a downloaded file would; the architecture is added to open_clip's own list."""
    config = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], "vocab_size": 49408}}
    folder = write_clip(tmp_path / "weights", config)
    (tmp_path / "ViT-tiny-test.json").write_text(json.dumps(config))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [tmp_path])
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {})
    open_clip.add_model_config(tmp_path / "ViT-tiny-test.json")
    file = folder / "open_clip_model.safetensors"
    asked: list[str] = []

    def resolve(name: str) -> str:
        asked.append(name)
        return str(file)

    clip_config = ClipConfig(model="ViT-tiny-test", pretrained="s3://bucket/clip.safetensors")
    backbones = Backbones(clip_config, "", resolve=resolve)
    pixels = random_image(0, 48, 48)[None]
    direct = loaded_clip(f"local-dir:{folder}")
    torch.testing.assert_close(backbones.clip.encode_images(pixels), direct.encode_images(pixels))
    assert asked == ["s3://bucket/clip.safetensors"]
    assert backbones.files() == {"clip": str(file)}


def test_a_named_network_takes_a_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    backbones = Backbones(ClipConfig(), "test_vit", str(tmp_path / "dino.pth"))
    assert torch.equal(backbones.vision.model.pos_embed, model.pos_embed)
    assert backbones.files() == {"vision": str(tmp_path / "dino.pth")}
    del (weights := model.state_dict())["blocks.0.attn.qkv.weight"]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"does not fit test_vit.*blocks\.0\.attn\.qkv\.weight"):
        load_vision("test_vit", str(tmp_path / "part.pth"))


def test_backbones_load_once_and_on_demand() -> None:
    backbones = tiny_backbones()
    assert backbones.files() == {}
    assert backbones.clip is backbones.clip
    assert backbones.vision is backbones.vision
    assert set(backbones.files()) == {"clip", "vision"}
    assert all(Path(file).is_file() for file in backbones.files().values())


@pytest.mark.parametrize(
    ("tag", "expected"),
    [({"quick_gelu": True}, True), ({}, False)],
)
def test_a_tag_decides_the_activation(
    tag: dict, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenAI's weights need QuickGELU, and the plain architecture's name does not say so."""
    made: list[bool] = []

    def create_model(name: str, *, force_quick_gelu: bool, **_: object) -> torch.nn.Module:
        made.append(force_quick_gelu)
        return torch.nn.Identity()

    monkeypatch.setattr(open_clip, "create_model", create_model)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: None)
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: {"file": "x", **tag})
    load_clip.load(ClipConfig(model="ViT-B-32", pretrained="openai"), CPU, str)
    assert made == [expected]


def test_the_activation_and_the_epsilon_can_be_given(tmp_path: Path) -> None:
    """The original MaskCLIP ran OpenAI's weights with plain GELU and an epsilon of its own."""
    model = open_clip.create_model("ViT-S-32-alt")
    file = tmp_path / "clip.safetensors"
    save_file(model.state_dict(), file)
    named = ClipConfig(
        model="ViT-S-32-alt", pretrained=str(file), quick_gelu=True, layer_norm_eps=1e-6
    )
    clip = Backbones(named, "").clip
    blocks = clip.visual.transformer.resblocks
    assert {type(block.mlp.gelu).__name__ for block in blocks} == {"QuickGELU"}
    assert {block.ln_1.eps for block in blocks} | {clip.visual.ln_post.eps} == {1e-6}
    assert clip.model.ln_final.eps == 1e-5


def test_weights_files_of_both_kinds(tmp_path: Path) -> None:
    weight = torch.randn((2, 3))
    torch.save({"decoder": {"weight": weight, "epoch": 3}}, tmp_path / "head.pt")
    save_file({"decoder.weight": weight}, tmp_path / "head.safetensors")
    for name in ("head.pt", "head.safetensors"):
        tensors = read_tensors(tmp_path / name)
        assert tensors.keys() == {"decoder.weight"}
        assert torch.equal(tensors["decoder.weight"], weight)


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors"])
def test_a_file_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not weights at all")
    with pytest.raises(WeightsError, match="is not a weights file") as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"weight": SimpleNamespace(harm=1)}, tmp_path / "head.pt")
    with pytest.raises(WeightsError, match="is not a weights file"):
        read_tensors(tmp_path / "head.pt")


def test_timms_own_name_of_the_weights_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is fetched by us, so that the run can record its hash."""
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tiny_folder() / "nothing.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--timm--vit_small_patch8_224.dino").mkdir()
    with pytest.raises(WeightsError, match=r"no weights file at .*nothing\.safetensors"):
        load_vision("vit_small_patch8_224.dino")
    assert asked == [("timm/vit_small_patch8_224.dino", "model.safetensors")]
