"""Loading CLIP: the ways that work, and a one-line message for each that does not."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_core.backbones.load_clip import load_clip
from ovseg_core.backbones.registry import Backbones
from schemas.config import ClipConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import (
    TINY_CLIP,
    load_clip_of_job,
    random_image,
    write_clip,
)


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
def test_wrong_clip_gives_one_line_message(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip_of_job(model, pretrained)
    assert "\n" not in str(caught.value)


def test_damaged_folder_gives_one_line_message(tmp_path: Path) -> None:
    folder = write_clip(tmp_path, TINY_CLIP)
    (folder / "open_clip_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="cannot be loaded") as caught:
        load_clip_of_job(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_named_clip_loads_a_weights_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    direct = load_clip_of_job(f"local-dir:{folder}")
    torch.testing.assert_close(backbones.clip.encode_images(pixels), direct.encode_images(pixels))
    assert asked == ["s3://bucket/clip.safetensors"]
    assert backbones.files() == {"clip": str(file)}


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("tag", "expected"),
    [({"quick_gelu": True}, True), ({}, False)],
)
def test_activation_is_that_of_the_tag(
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
    load_clip(ClipConfig(model="ViT-B-32", pretrained="openai"), CPU, str)
    assert made == [expected]


def test_activation_and_epsilon_options(tmp_path: Path) -> None:
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
