"""Weights files of both formats, and the hub without a network."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ovseg_core.backbones.checkpoint import check_reachable, read_tensors
from schemas.errors import WeightsError
from tests.helpers.tiny_models import load_clip_of_job, load_vision_of_job


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
