"""A student's backbone: first weights from a file, from timm, or none."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg_core.training.students.maskclip_plus import Options
from ovseg_core.training.students.shared.pyramid import Pyramid, weights_file
from schemas.errors import ConfigError, WeightsError


@pytest.mark.parametrize("architecture", ["test_convnext", "test_resnet", "test_efficientnet"])
def test_weights_of_timms_classifier_are_those_of_the_pyramid(
    architecture: str, tmp_path: Path
) -> None:
    """Its maps are those of timm's own network, for 0..255 and timm's normalisation."""
    torch.manual_seed(3)
    whole: Any = timm.create_model(architecture, pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    pyramid = Pyramid(architecture, str(tmp_path / "whole.safetensors")).eval()
    pixels = torch.rand(2, 3, 64, 96) * 255
    config = whole.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        last = pyramid(pixels)[-1]
        expected = whole.forward_intermediates(
            (pixels / 255 - mean) / std, intermediates_only=True
        )[-1]
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
    assert last.shape[1] == pyramid.channels[-1]


def test_dilation_keeps_the_last_map_at_the_papers_stride() -> None:
    pyramid = Pyramid("test_resnet", levels=(-1,), output_stride=8).eval()
    (last,) = pyramid(torch.rand(2, 3, 64, 96) * 255)
    assert pyramid.strides == [8]
    assert tuple(last.shape[2:]) == (8, 12)


def test_files_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    other = timm.create_model("test_resnet", pretrained=False)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="does not fit test_convnext") as caught:
        Pyramid("test_convnext", str(tmp_path / "other.safetensors"))
    assert "\n" not in str(caught.value)
    whole = timm.create_model("test_convnext", pretrained=False).state_dict()
    save_file({name: one * torch.nan for name, one in whole.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(WeightsError, match="NaN"):
        Pyramid("test_convnext", str(tmp_path / "nan.safetensors"))


def test_first_weights_are_a_file_or_none(tmp_path: Path) -> None:
    def found(weights: str, backbone: str = "test_convnext") -> str:
        options = Options.model_validate({"backbone": backbone, "backbone_weights": weights})
        return weights_file(options, lambda name: f"{tmp_path}/{name}")

    assert found("random") == ""
    assert found("net.safetensors") == f"{tmp_path}/net.safetensors"
    with pytest.raises(ConfigError, match="timm has no model"):
        found("timm", "hf-hub:someone/net")
    with pytest.raises(WeightsError, match=r"timm has no weights for botnet50ts_256.*random"):
        found("timm", "botnet50ts_256")
