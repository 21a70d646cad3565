"""A trained head's file says which network it belongs to, and is refused beside another."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg_core.backbones.file_formats.head_file import (
    check_trained_for,
    file_sha256,
    head_bytes,
    read_record,
)
from ovseg_core.methods import clip_dinoiser
from ovseg_core.objectness import found
from schemas.errors import WeightsError
from tests.helpers.tiny_models import TINY_VISION, tiny_backbones, tiny_folder, write_vision


@pytest.fixture
def network(tmp_path: Path) -> str:
    (tmp_path / "network.bin").write_bytes(b"weights")
    return str(tmp_path / "network.bin")


def _write(file: Path, network: str, kind: str = "found") -> Path:
    tensors = {"decoder.weight": torch.rand(1, 32, 1, 1), "decoder.bias": torch.zeros(1)}
    file.write_bytes(head_bytes(tensors, kind, file_sha256(network), {"identity": "{}"}))
    return file


def test_head_bytes_is_an_ordinary_safetensors_file(tmp_path: Path, network: str) -> None:
    file = _write(tmp_path / "head.safetensors", network)
    assert load_file(file)["decoder.weight"].shape == (1, 32, 1, 1)
    record = read_record(file)
    assert record.keys() == {"kind", "network", "identity", "fingerprint"}
    assert len(record["fingerprint"]) == 64
    check_trained_for(file, "found", network)


def test_head_of_another_network_or_kind_is_refused(tmp_path: Path, network: str) -> None:
    file = _write(tmp_path / "head.safetensors", network)
    other = tmp_path / "other.bin"
    other.write_bytes(b"other weights")
    with pytest.raises(WeightsError, match=r"trained for a network .*train a head for this one"):
        check_trained_for(file, "found", str(other))
    with pytest.raises(WeightsError, match="of the kind 'found', expected 'dinoiser'"):
        check_trained_for(file, "dinoiser", network)


def test_file_without_a_record_passes(tmp_path: Path, network: str) -> None:
    save_file({"decoder.bias": torch.zeros(1)}, tmp_path / "plain.safetensors")
    check_trained_for(tmp_path / "plain.safetensors", "found", network)
    torch.save({"decoder": {}}, tmp_path / "authors.pt")
    check_trained_for(tmp_path / "authors.pt", "found", network)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40])
def test_damaged_file_is_named_in_the_message(tmp_path: Path, network: str, content: bytes) -> None:
    file = tmp_path / "head.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"head\.safetensors is not a weights file"):
        check_trained_for(file, "found", network)


def test_found_refuses_a_head_of_another_network(tmp_path: Path) -> None:
    other = write_vision(tmp_path / "other", TINY_VISION, seed=1) / "model.safetensors"
    right = tiny_folder() / "vision" / "model.safetensors"
    for network, refused in ((right, False), (other, True)):
        head = _write(tmp_path / f"{refused}.safetensors", str(network))
        options = found.Options(head=str(head))
        if refused:
            with pytest.raises(WeightsError, match="train a head for this one"):
                found.build(options, tiny_backbones())
        else:
            found.build(options, tiny_backbones())


def test_clip_dinoiser_refuses_the_head_of_found(tmp_path: Path, network: str) -> None:
    head = _write(tmp_path / "head.safetensors", network)
    with pytest.raises(
        WeightsError, match=r"not a head of the kind .dinoiser.: it has no obj_proj\.weight"
    ):
        clip_dinoiser.build(clip_dinoiser.Options(heads=str(head)), tiny_backbones())


@pytest.mark.parametrize(
    "record", ["[1]", '"text"', "5", "null", '{"kind": {}}', '{"a": "b"}', "["]
)
def test_record_of_another_shape_gives_one_line(record: str, tmp_path: Path, network: str) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"decoder.bias": torch.zeros(1)}, file, {"ovseg": record})
    with pytest.raises(WeightsError, match=r"head\.safetensors is not a (weights file|head)"):
        check_trained_for(file, "found", network)


def test_a_header_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    with file.open("wb") as content:
        content.write((99_000_000).to_bytes(8, "little"))
        content.truncate(100_000_000)
    with pytest.raises(WeightsError, match=r"header is to have 99,000,000 bytes, the limit is 8"):
        read_record(file)
