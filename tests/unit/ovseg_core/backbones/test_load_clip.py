"""Loading CLIP: the ways that work, and a one-line message for each that does not."""

import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ovseg_core.backbones.clip_architecture import check_readable
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
        (
            "ViT-B-32",
            "no/file.pt",
            r"no weights file at no/file\.pt: give a path .*, laion2b_s34b_b79k",
        ),
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
    with pytest.raises(WeightsError, match="is not a weights file: its header") as caught:
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


VIT = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return open_clip.create_model(VIT).state_dict()


OPENAI = {
    "input_resolution": torch.tensor(224),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


@pytest.mark.parametrize(
    ("more", "setting", "activation", "said"),
    [
        ({}, None, "GELU", r"weights\.pt does not say with which activation .*quick_gelu=true"),
        ({}, True, "QuickGELU", ""),
        ({}, False, "GELU", ""),
        (OPENAI, None, "QuickGELU", r"weights\.pt is OpenAI's own file: taken with QuickGELU"),
        (OPENAI, False, "GELU", ""),
    ],
)
def test_activation_of_a_weights_file(
    more: dict, setting: bool | None, activation: str, said: str, tensors, tmp_path, caplog
) -> None:
    torch.save({**tensors, **more}, tmp_path / "weights.pt")
    config = ClipConfig(model=VIT, pretrained=str(tmp_path / "weights.pt"), quick_gelu=setting)
    backbones = Backbones(config, "")
    assert {type(it.mlp.gelu).__name__ for it in backbones.clip.visual.transformer.resblocks} == {
        activation
    }
    assert backbones.settings() == {"clip.activation": activation}
    assert len(caplog.messages) == bool(said)
    assert re.search(said, "".join(caplog.messages))


@pytest.mark.parametrize(("quick", "expected"), [(True, "QuickGELU"), (False, "GELU")])
def test_activation_is_that_of_the_tag(
    quick: bool, expected: str, tensors, tmp_path, monkeypatch, caplog
) -> None:
    """OpenAI's weights need QuickGELU, and the plain architecture's name does not say so."""
    save_file(tensors, tmp_path / "weights.safetensors")
    tag = {"file": str(tmp_path / "weights.safetensors"), "quick_gelu": quick}
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: tag)
    backbones = Backbones(ClipConfig(model=VIT, pretrained="openai"), "")
    assert backbones.clip.visual.pool_type == "tok"
    assert backbones.settings()["clip.activation"] == expected
    assert not caplog.messages


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("setting", [None, True, False])
def test_setting_of_the_activation_counts_for_a_folder(
    named: bool, setting: bool | None, tmp_path: Path
) -> None:
    folder = write_clip(tmp_path, {**TINY_CLIP, "quick_gelu": named})
    backbones = Backbones(ClipConfig(model=f"local-dir:{folder}", quick_gelu=setting), "")
    used = backbones.clip.visual.transformer.resblocks[0].mlp.gelu
    expected = "QuickGELU" if (named if setting is None else setting) else "GELU"
    assert type(used).__name__ == expected
    assert backbones.settings()["clip.activation"] == expected


def test_setting_of_the_activation_counts_for_a_quickgelu_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tensors
) -> None:
    save_file(tensors, tmp_path / "weights.safetensors")
    quick = {**open_clip.get_model_config(VIT), "quick_gelu": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, f"{VIT}-quickgelu", quick)
    for setting, expected in ((None, "QuickGELU"), (False, "GELU")):
        config = ClipConfig(
            model=f"{VIT}-quickgelu",
            pretrained=str(tmp_path / "weights.safetensors"),
            quick_gelu=setting,
        )
        backbones = Backbones(config, "")
        assert backbones.clip.width
        assert backbones.settings()["clip.activation"] == expected


def test_file_that_is_loaded_is_the_one_that_is_noted(tmp_path: Path) -> None:
    """transformers' weights may lie beside open_clip's; both orders of names and ages."""
    folder = write_clip(tmp_path, TINY_CLIP, seed=1)
    pixels = random_image(0, 48, 48)[None]
    for name in ("model.safetensors", "a.safetensors", "pytorch_model.bin"):
        (folder / name).write_bytes(b"other weights")
    backbones = Backbones(ClipConfig(model=f"local-dir:{folder}"), "")
    first = backbones.clip.encode_images(pixels)
    assert backbones.files() == {"clip": str(folder / "open_clip_model.safetensors")}
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    backbones = Backbones(ClipConfig(model=f"local-dir:{folder}"), "")
    assert torch.equal(backbones.clip.encode_images(pixels), first)
    assert backbones.files() == {"clip": str(folder / "open_clip_pytorch_model.bin")}


def test_half_precision_file_of_another_size_gives_both_shapes(tensors, tmp_path: Path) -> None:
    save_file({k: v.half() for k, v in tensors.items()}, tmp_path / "weights.safetensors")
    message = (
        r"does not fit ViT-B-32: \d+ tensors .*(visual\.class_embedding has the shape \(384,\), "
        r"expected \(768,\)|missing)"
    )
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip_of_job("ViT-B-32", str(tmp_path / "weights.safetensors"))
    assert "\n" not in str(caught.value)


def test_architectures_that_cannot_be_read_are_refused_before_a_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each of open_clip's: what is not refused is a plain ViT, and the other way round."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    kinds: dict[str, set[str]] = {}
    for name in open_clip.list_models():
        try:
            check_readable(open_clip.get_model_config(name), name)
            kind = "plain"
        except WeightsError as error:
            words = {"ovseg[hf]": "tokenizer", "text encoder": "text"}
            kind = next((it for word, it in words.items() if word in str(error)), "image")
        kinds.setdefault(kind, set()).add(name)
    plain = kinds["plain"] | kinds["text"] | kinds["tokenizer"]
    assert {"ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14-336", "ViT-bigG-14"} <= kinds["plain"]
    others = {"RN50", "ViT-B-16-SigLIP", "convnext_base", "coca_ViT-B-32", "EVA02-B-16"}
    assert others <= kinds["image"]
    assert {"ViT-H-14-CLIPA", "ViT-L-14-worldwide", "ViT-bigG-14-worldwide"} <= kinds["tokenizer"]
    assert {"roberta-ViT-B-32", "nllb-clip-base"} <= kinds["text"]
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        other = {"timm_model_name", "attentional_pool"} & config["vision_cfg"].keys()
        is_plain = not other and not name.startswith(("RN", "coca"))
        assert (name in plain) == is_plain, name


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
