"""Which weights files a job needs, before anything is loaded."""

from pathlib import Path
from typing import Any

import pytest

from ovseg_core.backbones.file_formats.needed_files import WeightsFile
from ovseg_core.methods import needed_files
from schemas.config import SegmenterConfig
from schemas.errors import WeightsError

LAION_B32 = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def files_of(method: str | dict[str, Any], **fields: Any) -> list[WeightsFile]:
    def on_this_machine(place: str) -> str:
        return place if Path(place).is_file() else ""

    config = SegmenterConfig.model_validate({"method": method, **fields})
    return needed_files(config, on_this_machine)


def put(cache: Path, repository: str, name: str, content: bytes) -> None:
    """Put a file into the hub's cache as huggingface_hub does."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "snapshots/abc" / name).write_bytes(content)


def test_default_method_needs_clip_a_vit_and_its_head(hub_cache: Path) -> None:
    put(hub_cache, "timm/vit_small_patch8_224.dino", "model.safetensors", b"0" * 2_000_000)
    clip, vit, head = (file.describe() for file in files_of("clip_diy"))
    assert clip == (
        f"CLIP ViT-B-32 laion2b_s34b_b79k: {LAION_B32} open_clip_model.safetensors, about 605 MB, "
        "to be downloaded, MIT"
    )
    assert vit == (
        "ViT vit_small_patch8_224.dino: timm/vit_small_patch8_224.dino model.safetensors, 2 MB, "
        "here, Apache-2.0"
    )
    assert head.startswith("FOUND's head: https://raw.githubusercontent.com/valeoai/FOUND/")
    assert head.endswith("decoder_weights.pt, to be downloaded, Apache-2.0")


def test_options_decide_what_is_needed() -> None:
    dino = {"affinity": "dino", "background": "found", "proposals": "sam"}
    sources = [it.source for it in files_of({"name": "clip_dinoiser", "options": dino})]
    assert sources[:3] == [
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "timm/vit_base_patch16_224.dino",
        "timm/vit_small_patch8_224.dino",
    ]
    assert sources[4:] == ["facebook/sam2.1-hiera-tiny"]
    without = {"objectness": "none"}
    assert len(files_of({"name": "clip_diy", "options": without})) == 1
    same_network = {"objectness": "found_bkg", "proposals": {"name": "none"}}
    assert len(files_of({"name": "naclip", "options": same_network})) == 2


def test_a_gate_that_is_off_needs_no_clip() -> None:
    gated = [it.source for it in files_of("owlv2_sam2")]
    assert gated == [LAION_B32, "google/owlv2-base-patch16-ensemble", "facebook/sam2.1-hiera-tiny"]
    off = files_of({"name": "owlv2_sam2", "options": {"gate_min_presence": 0}})
    assert [it.source for it in off] == gated[1:]


def test_unknown_repository_says_where_its_licence_stands() -> None:
    method = {"name": "owlv2_sam2", "options": {"detector": "hf-hub:my/owl", "sam": "embedded"}}
    _, detector, sam = (file.describe() for file in files_of(method))
    assert detector == (
        "owl: my/owl model.safetensors, to be downloaded, licence: https://huggingface.co/my/owl"
    )
    assert sam == "embedded: part of ovseg, here"


def test_embedded_models_are_here() -> None:
    files = files_of("clip_diy", clip={"model": "embedded"})
    assert len(files) == 3
    assert all(file.is_here for file in files)


def test_own_files_are_named_by_their_settings(tmp_path: Path) -> None:
    weights = tmp_path / "dino.pth"
    weights.write_bytes(b"0" * 1500)
    head = {"objectness": {"name": "found", "options": {"head": "no/such/head.pt"}}}
    _, vit, own = files_of({"name": "clip_diy", "options": head}, vision={"weights": str(weights)})
    assert (vit.option, vit.source, vit.size_bytes) == ("vision.weights", str(weights), 1500)
    assert vit.is_here
    assert own.option == "method.options.objectness.options.head"
    assert not own.is_here
    assert own.licence == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clip": {"model": "embeded"}}, "clip.model: open_clip has no model 'embeded'.*embedded"),
        ({"clip": {"model": "ViT-B-32", "pretrained": "opnai"}}, "has no weights 'opnai'.*openai"),
        ({"clip": {"model": "ViT-B-32"}}, "give the weights of ViT-B-32: openai"),
        ({"vision": {"model": "vit_smal"}}, "vision.model: timm has no model 'vit_smal'"),
        (
            {"method": {"name": "owlv2_sam2", "options": {"sam": "sam2"}}},
            "method.options.sam: expected hf-hub:ORG/REPO or local-dir:FOLDER, got 'sam2'",
        ),
        ({"method": "clip_dinoiser"}, "give the authors' `last.pt` as `method.options.heads`"),
    ],
)
def test_names_that_do_not_exist_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        files_of(**{"method": "clip_diy", **fields})
