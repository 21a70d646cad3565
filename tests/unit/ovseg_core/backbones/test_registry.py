"""A job's networks are loaded once, on demand, and their files recorded."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vision.vit import DenseBackbone
from schemas.config import EMBEDDED, ClipConfig, HeadConfig, JobConfig
from schemas.errors import WeightsError
from tests.helpers.tiny_models import (
    load_clip_of_job,
    load_vision_of_job,
    tiny_backbones,
    write_family,
)


def test_networks_are_loaded_once_and_on_demand() -> None:
    backbones = tiny_backbones()
    assert backbones.files() == {}
    assert backbones.clip is backbones.clip
    assert backbones.vision is backbones.vision
    assert set(backbones.files()) == {"clip", "vision"}
    assert all(Path(file).is_file() for file in backbones.files().values())


def test_second_network_by_name_is_loaded_once(tmp_path: Path) -> None:
    backbones = tiny_backbones()
    own = backbones.network(backbones.vision_model, "proxy")
    assert own is backbones.vision
    assert backbones.files().keys() == {"vision"}
    other = write_family(tmp_path, "dino S/16")
    first: DenseBackbone = backbones.network(other, "proxy")
    assert backbones.network(other, "proxy") is first
    assert first is not own
    files = backbones.files()
    assert files.keys() == {"vision", "proxy"}
    assert files["proxy"] == str(tmp_path / "model.safetensors")


def test_sam_as_second_network_is_refused(tmp_path: Path) -> None:
    backbones = tiny_backbones(vision_model=write_family(tmp_path, "sam"))
    with pytest.raises(WeightsError, match=r"no class token.*vit_small_patch8_224\.dino"):
        _ = backbones.vision


@pytest.mark.parametrize(
    ("clip", "vision", "expected"),
    [
        ("ViT-B-16", "vit_small_patch8_224.dino", "published"),
        (EMBEDDED, EMBEDDED, EMBEDDED),
        ("ViT-B-16", EMBEDDED, EMBEDDED),
        (EMBEDDED, "vit_small_patch8_224.dino", EMBEDDED),
        (EMBEDDED, "local-dir:mine", "local-dir:mine"),
    ],
)
def test_network_or_by_job(clip: str, vision: str, expected: str) -> None:
    assert Backbones(ClipConfig(model=clip), vision).network_or("published") == expected


@pytest.mark.parametrize("load", [load_clip_of_job, load_vision_of_job])
def test_home_folder_is_expanded(
    load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=f"^{tmp_path}/models is not a"):
        load("local-dir:~/models")


@pytest.mark.parametrize("model", ["auto", EMBEDDED, "local-dir:mine"])
def test_from_config_resolves_the_second_network(model: str) -> None:
    networks = {"clip": {"model": EMBEDDED}, "vision": {"model": model, "weights": "dino.pth"}}
    job = JobConfig.model_validate({"images": "i", "out": "o", "labels": ["cat"], **networks})
    training = HeadConfig.model_validate(
        {"images": "i", "out": "head.safetensors", "head": "found", **networks}
    )
    for config in (job, training):
        backbones = Backbones.from_config(config, "cpu", str)
        assert backbones.vision_model == config.vision_model
        assert backbones.vision_weights == "dino.pth"
        assert backbones.clip_config == config.clip
        assert backbones.files() == {}
