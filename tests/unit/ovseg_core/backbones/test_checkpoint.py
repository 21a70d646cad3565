"""Weights files of both formats, and the hub without a network."""

import argparse
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovseg_core.backbones.checkpoint import (
    WithoutRandomWeights,
    hub_file,
    read_checkpoint,
    read_tensors,
    state_dict_in,
    take_fitting,
)
from ovseg_core.backbones.file_formats.head_file import load_head
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder
from ovseg_core.objectness.found import HEAD as FOUND
from schemas.config import ClipConfig
from schemas.errors import OutageError, WeightsError
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
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_proxy: None) -> None:
    """A machine without network and with an empty cache."""

    def no_name(*_: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_missing_network_gives_advice_at_once() -> None:
    clip_files = "open_clip_config.json open_clip_model.safetensors"
    networks: dict[str, Callable[[], object]] = {
        f"laion/CLIP-ViT-B-32-laion2B-s34B-b79K {clip_files}": lambda: load_clip_of_job(
            "ViT-B-32", "laion2b_s34b_b79k"
        ),
        f"some/model {clip_files}": lambda: load_clip_of_job("hf-hub:some/model", ""),
        "timm/vit_small_patch8_224.dino config.json model.safetensors": lambda: load_vision_of_job(
            "vit_small_patch8_224.dino"
        ),
    }
    # An outage for the exit code, and still an error of weights.
    for kind in (OutageError, WeightsError):
        for files, load in networks.items():
            advice = (
                r"cannot be downloaded \(huggingface\.co cannot be reached from here: [^)]+\); "
                rf"on a computer with a network: `hf download {re.escape(files)} --local-dir "
                r"FOLDER`, copy FOLDER here and --set (clip|vision)\.model=local-dir:FOLDER "
                r"\(see docs/weights.md#without-a-network\)$"
            )
            with pytest.raises(kind, match=advice) as caught:
                load()
            assert caught.value.__suppress_context__  # one traceback in Python, not three


@pytest.mark.usefixtures("offline")
def test_cached_repository_needs_no_network(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be reached"):
        hub_file("some/model", "model.safetensors")
    repository = tmp_path / "models--some--model"
    cached = repository / "snapshots" / ("0" * 40) / "model.safetensors"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert hub_file("some/model", "another.bin", "model.safetensors") == str(cached)


@pytest.mark.usefixtures("offline")
def test_hub_that_is_switched_off_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set") as caught:
        load_clip_of_job("ViT-B-32", "laion2b_s34b_b79k")
    assert not isinstance(caught.value, OutageError)


def test_refused_port_of_the_hub_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://{address}")
    began = time.monotonic()
    with pytest.raises(WeightsError, match=rf"{address} cannot be reached .*refused") as caught:
        load_clip_of_job("ViT-B-32", "laion2b_s34b_b79k")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (401, "this machine has no valid token: .* `hf auth login` here or set HF_TOKEN"),
        (403, "the licence is not accepted, or the request is pending or was refused"),
    ],
)
@pytest.mark.usefixtures("no_proxy")
def test_gated_weights_say_what_is_missing(
    status: int, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the hub answers for a repository whose owners choose who may download it."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        try:
            with pytest.raises(WeightsError, match=why) as caught:
                Backbones(ClipConfig(), "").sam3("hf-hub:facebook/sam3", "method.options.weights")
        finally:
            server.shutdown()
    message = str(caught.value)
    assert not isinstance(caught.value, OutageError)
    assert "https://huggingface.co/facebook/sam3" in message
    assert "`hf download facebook/sam3 --local-dir FOLDER`" in message
    assert "--set method.options.weights=local-dir:FOLDER" in message
    assert "\n" not in message


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


WEIGHTS = {
    "visual.proj": torch.arange(12.0).view(3, 4).half(),
    "ln.bias": torch.arange(3.0),
    "text.mask": torch.arange(6.0).view(2, 3).t(),
}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in WEIGHTS.items()}


class Weights(torch.nn.Module):
    """A module of the weights, as OpenAI's TorchScript files hold them."""

    def __init__(self) -> None:
        super().__init__()
        for path, tensor in WEIGHTS.items():
            part, _, name = path.partition(".")
            setattr(self, part, torch.nn.Module())
            getattr(self, part).register_buffer(name, tensor)
        self.register_buffer("input_resolution", torch.tensor(224))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


CHECKPOINTS = {
    "plain": WEIGHTS,
    "several GPUs": {"epoch": 5, "state_dict": prefixed("module."), "optimizer": {}},
    "lightning": {"state_dict": prefixed("model."), "hyper_parameters": argparse.Namespace(a=1)},
    "model": {"model": WEIGHTS, "args": argparse.Namespace(lr=0.1)},
    "compiled": {"model": prefixed("_orig_mod.module.")},
    "dino": {
        "student": prefixed("module.backbone.") | {"module.head.w": torch.zeros(1)},
        "teacher": prefixed("backbone.") | {"head.w": torch.zeros(1)},
        "args": argparse.Namespace(arch="vit_small"),
        "loss": object(),
    },
    "module": Weights(),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", [*CHECKPOINTS, "torchscript", "old format"])
def test_weights_of_a_training_are_had_without_running_code(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    if kind == "old format":
        of_old_format(file)
    elif kind == "torchscript":
        torch.jit.save(torch.jit.script(Weights()), file)
    else:
        torch.save(CHECKPOINTS[kind], file)
    tensors = state_dict_in(read_checkpoint(file))
    tensors.pop("input_resolution", None)
    assert tensors.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(tensors[name], tensor), name
        assert tensors[name].dtype == tensor.dtype


class Harm:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.file,)


def test_code_beside_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "more": Harm(tmp_path / "harm")}, tmp_path / "file.pt")
    assert state_dict_in(read_checkpoint(tmp_path / "file.pt")).keys() == WEIGHTS.keys()
    assert not (tmp_path / "harm").exists()


def of_old_format(path: Path) -> bytes:
    content = {"state_dict": WEIGHTS, "args": argparse.Namespace()}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path.read_bytes()


def of_new_format(path: Path) -> bytes:
    torch.save(WEIGHTS, path)
    return path.read_bytes()


def of_safetensors(path: Path) -> bytes:
    save_file({"proj": WEIGHTS["visual.proj"]}, path)
    return path.read_bytes()


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda _: b"", r"it is empty \(0 bytes\)"),
        (lambda _: b"\x93random bytes \x00\x01" * 90, "not a weights file"),
        (lambda _: b"<!DOCTYPE html><html>no such file</html>", "not a weights file"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (lambda path: of_safetensors(path)[:-4], "cut off: fetch it again"),
        (lambda path: of_safetensors(path)[:30], "cut off: fetch it again"),
    ],
)
def test_damaged_weights_are_one_line(
    content: Callable[[Path], bytes], message: str, ending: str, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{ending}"
    file.write_bytes(content(tmp_path / "whole"))
    with pytest.raises(WeightsError, match=message) as caught:
        read_checkpoint(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_damaged_checkpoints_of_pytorch_never_show_its_advice(tmp_path: Path) -> None:
    """It is to set `weights_only=False`, which runs whatever code a file holds."""
    file = tmp_path / "weights.pt"
    for content, message in (
        (of_new_format(tmp_path / "new")[:-40], "cut off: fetch it again"),
        (of_new_format(tmp_path / "new")[:20], "cut off: fetch it again"),
        (of_old_format(tmp_path / "old")[:-40], "it is damaged: the storage"),
        (of_old_format(tmp_path / "old")[:90], "not enough data"),
    ):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=message) as caught:
            read_checkpoint(file)
        assert "Weights only load failed" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_are_taken_without_a_copy_in_the_networks_own_type() -> None:
    with WithoutRandomWeights():
        network = torch.nn.Linear(3, 2)
    weight, bias = torch.rand(2, 3), torch.rand(2).half()
    take_fitting(network, {"weight": weight, "bias": bias})
    assert network.weight.data_ptr() == weight.data_ptr()
    assert torch.equal(network.bias, bias.float())
    with pytest.raises(ValueError, match="2 tensors have another shape"):
        take_fitting(network, {"weight": torch.rand(3, 2), "bias": torch.rand(3)})


def test_tables_that_a_network_computes_are_right_without_random_weights() -> None:
    with WithoutRandomWeights():
        mask = torch.empty(3, 4).fill_(-1.0).triu_(1)
        scaled = 0.5 * torch.ones(2, 3)
    assert torch.equal(mask, torch.full((3, 4), -1.0).triu(1))
    assert torch.equal(scaled, torch.full((2, 3), 0.5))
