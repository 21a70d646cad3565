"""In which precision networks run, and what a machine that cannot do it is told."""

from pathlib import Path

import pytest
import torch

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.registry import Backbones
from schemas.config import ComputeConfig
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

CPU = torch.device("cpu")
BF16 = ComputeConfig(precision="bf16")


def pixels() -> torch.Tensor:
    return torch.stack([random_image(seed, 48, 64) for seed in range(2)])


def test_products_alone_are_cast_and_results_are_float32() -> None:
    compute = Compute.from_config(BF16, CPU)
    left, right = torch.randn(3, 5), torch.randn(5, 4)
    with compute.forward():
        assert (left @ right).dtype is torch.bfloat16
        assert left.softmax(0).dtype is torch.float32
    assert (left @ right).dtype is torch.float32
    assert compute.run(torch.matmul, left, right).dtype is torch.float32


def test_fp32_casts_nothing() -> None:
    left, right = torch.randn(3, 5), torch.randn(5, 4)
    torch.testing.assert_close(Compute(CPU).run(torch.matmul, left, right), left @ right)


@torch.inference_mode()
def test_networks_return_float32_that_was_rounded_inside() -> None:
    """CLIP's trunk and embeddings, and every kind of feature of the second network."""
    exact, rounded = tiny_backbones(), tiny_backbones(compute=BF16)

    def outputs(backbones: Backbones) -> list[torch.Tensor]:
        clip = backbones.clip
        trunk = clip.forward_trunk(clip.normalise(pixels()), "size", (-2,), (0,))
        square = pixels()[:, :, :48, :48]
        kinds = [backbones.vision.features(pixels(), k) for k in backbones.vision.feature_kinds]
        taken = [trunk.tokens_BLC, *trunk.ln2.values(), *trunk.blocks.values()]
        return [*taken, clip.encode_images(square), *kinds]

    for before, after in zip(outputs(exact), outputs(rounded), strict=True):
        assert after.dtype is torch.float32
        assert 0 < (after - before).abs().max() < 0.05 * before.abs().max()


@torch.inference_mode()
def test_text_is_embedded_in_float32_under_every_precision() -> None:
    rows = [
        tiny_backbones(compute=config).clip.encode_text(["a cat", "the dog"])
        for config in (ComputeConfig(), BF16)
    ]
    assert torch.equal(*rows)


def test_fp16_on_a_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^compute\.precision: fp16 needs a GPU.*bf16 or fp32$"):
        _ = tiny_backbones(compute=ComputeConfig(precision="fp16")).clip


def test_compiler_that_fails_is_found_before_any_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A C++ compiler that is not there."""
    from torch._inductor import config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ConfigError, match=r"^compute\.compile: torch cannot compile") as caught,
    ):
        Compute.from_config(ComputeConfig(compile=True), CPU)
    assert "\n" not in str(caught.value)
