"""Loading vision networks: the ways that work, and a one-line message for each that does not."""

import functools
import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.sam.encoder import SamEncoder
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import (
    TINY_SAM,
    TINY_VISION,
    load_vision_of_job,
    tiny_backbones,
    tiny_folder,
    write_timm,
    write_vision,
)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("vit_smal_patch8_224", "", r"timm has no model .*Did you mean 'vit_small_patch8_224'"),
        ("embeded", "", r"timm has no model 'embeded'\. Did you mean 'embedded'"),
        ("vit_small_patch8_224.dinoo", "", r"Did you mean 'vit_small_patch8_224\.dino'"),
        (
            "test_vit",
            "nowhere.pth",
            r"no weights file at nowhere\.pth: give a path or URL",
        ),
        ("local-dir:nowhere", "", r"nowhere is not a timm folder: expected config\.json"),
        ("embedded", "dino.pth", r"'embedded', which has its own: leave vision\.weights out"),
    ],
)
def test_wrong_vision_network_gives_one_line_message(
    model: str, weights: str, message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_vision_of_job(model, weights)
    assert "\n" not in str(caught.value)


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
def test_wrong_network_of_a_method_gives_one_line_message(model: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        tiny_backbones().network(model)
    assert "\n" not in str(caught.value)


def test_folder_of_a_resnet_is_refused(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 0, "model_args": {"num_classes": 0}}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {}}))
    with pytest.raises(WeightsError, match=r"ResNet that ovseg cannot read.*vit_small_patch8_224"):
        load_vision_of_job(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("architecture", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_network_of_another_kind_is_refused(tmp_path: Path, architecture: str) -> None:
    small = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 1), "img_size": 32}
    arguments = {"window_size": 4, **small} if architecture.startswith("swin") else {}
    folder = write_timm(tmp_path, architecture, arguments)
    with pytest.raises(WeightsError, match=r"that ovseg cannot read.*vit_small_patch8_224\.dino"):
        tiny_backbones().network(f"local-dir:{folder}")


def test_named_network_loads_a_weights_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    backbones = Backbones(ClipConfig(), "test_vit", str(tmp_path / "dino.pth"))
    assert torch.equal(backbones.vision.model.pos_embed, model.pos_embed)
    assert backbones.files() == {"vision": str(tmp_path / "dino.pth")}
    del (weights := model.state_dict())["blocks.0.attn.qkv.weight"]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"does not fit test_vit.*blocks\.0\.attn\.qkv\.weight"):
        load_vision_of_job("test_vit", str(tmp_path / "part.pth"))


@torch.inference_mode()
def test_sam_weights_of_the_authors_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' names, with the two other parts of SAM beside the encoder."""
    small = functools.partial(timm.create_model, **TINY_SAM)
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


def test_weights_are_downloaded_by_timms_file_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is fetched by us, so that the run can record its hash."""
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tiny_folder() / "nothing.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # so that the hub is not looked up
    with pytest.raises(WeightsError, match=r"no weights file at .*nothing\.safetensors"):
        load_vision_of_job("vit_small_patch8_224.dino")
    assert asked == [("timm/vit_small_patch8_224.dino", "model.safetensors")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 10**9}, r"model_args: depth is 1000000000, expected at most 128"),
        ({"img_size": [10**6, 10**6]}, r"model_args: img_size is 1000000, expected at most"),
        ({"embed_dim": 16384, "depth": 128, "num_heads": 16}, r"describes \d[\d,]+ weights, model"),
        ({"depth": "three"}, r"cannot be loaded: "),
        ({"num_heads": 0}, r"cannot be loaded: "),
        ({"harm": 1}, r"cannot be loaded: "),
    ],
)
def test_impossible_sizes_of_a_folder_are_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    """The third would take 1.6 TB."""
    folder = write_vision(tmp_path, TINY_VISION)
    config = json.loads((folder / "config.json").read_text())
    config["model_args"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message) as caught:
        load_vision_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_damaged_configuration_gives_one_line(content: bytes, tmp_path: Path) -> None:
    folder = write_vision(tmp_path, TINY_VISION)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be loaded: ") as caught:
        load_vision_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)
