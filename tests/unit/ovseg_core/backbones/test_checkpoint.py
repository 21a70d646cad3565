"""Weights files of both formats, and the hub without a network."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg_core.backbones.checkpoint import check_reachable, read_tensors
from ovseg_core.backbones.head_file import load_head
from ovseg_core.backbones.text_encoder import TextEncoder
from ovseg_core.objectness.found import HEAD as FOUND
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import (
    TINY_CLIP,
    TINY_VISION,
    load_clip_of_job,
    load_vision_of_job,
    tiny_backbones,
    write_clip,
    write_head,
    write_vision,
)


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


@pytest.mark.usefixtures("offline")
def test_missing_network_gives_advice_at_once() -> None:
    advice = (
        r"cannot be downloaded \(huggingface\.co cannot be reached.*`embedded`.*`local-dir:FOLDER`"
    )
    with pytest.raises(WeightsError, match=advice):
        load_clip_of_job("ViT-B-32", "laion2b_s34b_b79k")
    with pytest.raises(WeightsError, match=advice):
        load_vision_of_job("vit_small_patch8_224.dino")


@pytest.mark.usefixtures("offline")
def test_cached_repository_needs_no_network(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be reached"):
        check_reachable("some/model")
    (tmp_path / "models--some--model").mkdir()
    check_reachable("some/model")


def test_read_tensors_of_both_formats(tmp_path: Path) -> None:
    weight = torch.randn((2, 3))
    torch.save({"decoder": {"weight": weight, "epoch": 3}}, tmp_path / "head.pt")
    save_file({"decoder.weight": weight}, tmp_path / "head.safetensors")
    for name in ("head.pt", "head.safetensors"):
        tensors = read_tensors(tmp_path / name)
        assert tensors.keys() == {"decoder.weight"}
        assert torch.equal(tensors["decoder.weight"], weight)


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors"])
def test_read_tensors_refuses_other_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not weights at all")
    with pytest.raises(WeightsError, match="is not a weights file") as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_read_tensors_never_executes_a_pickle(tmp_path: Path) -> None:
    torch.save({"weight": SimpleNamespace(harm=1)}, tmp_path / "head.pt")
    with pytest.raises(WeightsError, match="is not a weights file"):
        read_tensors(tmp_path / "head.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named_before_the_first_image(
    value: float, tmp_path: Path
) -> None:
    """A training that diverged, in the file of each kind of network."""
    clip = write_clip(
        tmp_path / "clip", TINY_CLIP, {"text_projection": torch.full((32, 24), value)}
    )
    vision = write_vision(tmp_path / "vision", TINY_VISION)
    tensors = load_file(vision / "model.safetensors")
    tensors["blocks.1.mlp.fc1.bias"][3] = value
    save_file(tensors, vision / "model.safetensors")
    weight = torch.zeros((1, 32, 1, 1))
    weight[0, 7] = value
    head = write_head(tmp_path / "head.safetensors", weight, torch.zeros(1))
    for name, tensor, load in (
        ("open_clip_model", "text_projection", lambda: load_clip_of_job(f"local-dir:{clip}")),
        ("model", r"blocks\.1\.mlp\.fc1\.bias", lambda: load_vision_of_job(f"local-dir:{vision}")),
        ("head", r"decoder\.weight", lambda: load_head(FOUND, str(head), tiny_backbones())),
    ):
        message = rf"/{name}\.safetensors are not finite: 1 of \d+ tensors .*\({tensor}\)"
        with pytest.raises(WeightsError, match=message):
            load()


def test_text_encoder_that_overflows_is_named(tmp_path: Path) -> None:
    huge = torch.full((515, 32), 1e38)
    folder = write_clip(tmp_path, TINY_CLIP, {"token_embedding.weight": huge})
    encoder = TextEncoder(load_clip_of_job(f"local-dir:{folder}"), ("{}",))
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors returns NaN .*'cat'"):
        encoder.matrix(Vocabulary.model_validate({"labels": ["cat", "dog"], "background": []}))
