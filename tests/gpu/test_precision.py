"""Every method in bf16 and fp16, and compiled, gives the labels of float32 on the GPU."""

import numpy as np
import pytest
import torch

from jobs.demo.scenes import draw_scene
from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import encode_images
from schemas import plugins
from schemas.config import EMBEDDED, ClipConfig, ComputeConfig, NamedOptions
from schemas.vocabulary import Vocabulary

NAMES = [name for name in plugins.names(methods.PACKAGE) if methods.runs_by_name(name)]
SCENES = [draw_scene(70_000 + seed) for seed in range(6)]
WORDS = Vocabulary.model_validate(sorted({word for scene in SCENES for word in scene.labels}))


def labels(name: str, device: str, **compute: object) -> np.ndarray:
    networks = Backbones(
        ClipConfig(model=EMBEDDED),
        EMBEDDED,
        device=device,
        compute=ComputeConfig.model_validate(compute),
    )
    segmenter = build_segmenter(NamedOptions(name=name), networks)
    images = [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in SCENES]
    maps = segmenter.score(encode_images(segmenter, images), segmenter.text_matrix(WORDS))
    assert all(level.dtype is torch.float32 for image in maps.levels for level in image)
    decisions = decide(maps, [scene.label_map.shape for scene in SCENES])
    return np.concatenate([decision.label_map.ravel() for decision in decisions])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_labels_on_the_gpu_are_those_of_float32_on_the_cpu(name: str, precision: str) -> None:
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        pytest.skip("this GPU has no bf16")
    agreement = np.mean(labels(name, "cuda", precision=precision) == labels(name, "cpu"))
    assert agreement >= 0.995


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_compiled_labels_are_those_of_plain_ones(precision: str) -> None:
    plain = labels("clip_diy", "cuda", precision=precision)
    fast = labels("clip_diy", "cuda", precision=precision, compile=True)
    assert np.mean(fast == plain) >= 0.995


def test_tf32_is_a_setting_of_the_networks_alone() -> None:
    before = torch.get_float32_matmul_precision()
    networks = Backbones(ClipConfig(model=EMBEDDED), EMBEDDED, device="cuda")
    with networks.compute.forward():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
