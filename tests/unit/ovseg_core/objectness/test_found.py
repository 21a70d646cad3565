"""FOUND's head: its formats, and heads that do not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ovseg_core.backbones.registry import Backbones
from ovseg_core.objectness import build_objectness
from schemas.config import NamedOptions
from schemas.errors import WeightsError
from tests.helpers.tiny_models import random_image, tiny_backbones, tiny_folder, write_head


def source(name: str, backbones: Backbones | None = None, **options: Any) -> Any:
    part = NamedOptions(name=name, options=options)
    return build_objectness(part, backbones or tiny_backbones())


def test_head_of_another_width_is_refused(tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors", torch.zeros((1, 384, 1, 1)), torch.zeros(1))
    with pytest.raises(WeightsError, match=r"\(1, 384, 1, 1\), expected \(1, 32, 1, 1\)") as caught:
        source("found", head=str(head))
    assert "\n" not in str(caught.value)


def test_head_in_the_authors_format_is_loaded(tmp_path: Path) -> None:
    weight = torch.randn((1, 32, 1, 1), generator=torch.Generator().manual_seed(5))
    torch.save({"decoder": {"weight": weight, "bias": torch.zeros(1)}}, tmp_path / "head.pt")
    backbones = tiny_backbones()
    image = random_image(0, 30, 40)
    ours = source("found", backbones, head=str(tmp_path / "head.pt")).maps([image])[0]
    torch.testing.assert_close(ours, source("found").maps([image])[0])
    assert backbones.files()["found"] == str(tmp_path / "head.pt")


def test_head_without_a_decoder_is_refused(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "head.pt")
    with pytest.raises(WeightsError, match=r"has no decoder\.weight, only other"):
        source("found", head=str(tmp_path / "head.pt"))


def test_released_head_is_resolved_by_its_url() -> None:
    folder = tiny_folder()
    vision = f"local-dir:{folder / 'vision'}"
    with pytest.raises(
        WeightsError, match=r"no weights file at https.*FOUND.*give a path or URL that exists"
    ):
        source("found", tiny_backbones(vision_model=vision, resolve=str))
