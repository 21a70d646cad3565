"""ProxyCLIP over windows, against the authors' repository (fp16 switched off)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.decision.canvas import score_map
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.dense.scoring import cosines
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.dense.windows import axis_spans
from ovseg_core.images.resize.bilinear import MeanMap
from ovseg_core.methods import proxyclip
from tests.golden import reference
from tests.golden.window_methods import Stages

FILE = "proxyclip"
SLIDE_ACTIVATION = "quickgelu"


@dataclass(frozen=True)
class Proxy:
    """Every stage of the reference file, with one of the two activations."""

    stages: Stages

    @property
    def constants(self) -> dict[str, Any]:
        return reference.constants(FILE)

    def method(self, **options: Any) -> WindowSegmenter:
        fixed = {"pad_px": self.constants["pad"], "logit_scale": self.constants["logit_scale"]}
        backbones = self.stages.backbones
        return proxyclip.build(
            proxyclip.Options(**self.stages.sizes(), **fixed, **options), backbones
        )

    def encoder(self, **options: Any) -> proxyclip.ProxyEncoder:
        backbones = self.stages.backbones
        source = backbones.network(backbones.network_or(""), "proxy")
        return proxyclip.ProxyEncoder(backbones.clip, proxyclip.Options(**options), source)

    def windows(self, image: str, *corners: tuple[int, int]) -> Tensor:
        side, pixels = self.constants["crop"], reference.image(image)
        crops = [pixels[:, y : y + side, x : x + side] for y, x in corners]
        return self.stages.backbones.clip.normalise(torch.stack(crops))

    def raw(self, **options: Any) -> Tensor:
        """(1, D, I, J) of the window at the top left of img1, in a batch with its mirror image."""
        encoder = self.encoder(**options)
        window = self.windows("img1", (0, 0))
        trunk = encoder.encode_trunk(torch.cat([window, window.flip(3)]))
        return encoder.encode_dense(trunk).patches_BDhw[:1]

    def logits(self, **options: Any) -> Tensor:
        unit = F.normalize(self.raw(**options), dim=1)
        return cosines(DenseFeatures(unit), self.stages.text)

    def logits_up(self, **options: Any) -> Tensor:
        side = self.constants["crop"]
        return enlarged(self.logits(**options)[0], (side, side))[None, :, :: self.sub, :: self.sub]

    def proxy_map(self) -> Tensor:
        trunk = self.encoder().encode_trunk(self.windows("img1", (0, 0)))
        return trunk.extra_maps[proxyclip.PROXY]

    def margin(self) -> Tensor:
        """How near the similarity comes to the threshold."""
        unit = F.normalize(self.proxy_map()[0].flatten(1), dim=0)
        similarity = unit.T @ unit
        beta, gamma = self.constants["beta"], self.constants["gamma"]
        return gamma * (similarity - beta * similarity.mean()).abs().min()

    @property
    def sub(self) -> int:
        return self.stages.step.step

    def size(self, image: str) -> tuple[int, int]:
        stored = reference.tensors(FILE).get(f"slide.{image}.ori_shape")
        height, width = reference.image(image).shape[1:] if stored is None else stored.tolist()
        return height, width

    def cosine(self, image: str) -> Tensor:
        maps, size = self.stages.maps(self.method(), image), self.size(image)
        return score_map(maps, 0, size).rows(slice(0, size[0]))[None, :, :: self.sub, :: self.sub]

    def window_logits(self, image: str, sub: str) -> Tensor:
        """Cosines of each window, enlarged to it, in scan order."""
        crop, stride = self.constants["crop"], self.constants["stride"]
        sides = reference.image(image).shape[1:]
        rows, columns = (axis_spans(side, crop, stride) for side in sides)
        encoder = self.encoder()
        corners = [(y, x) for y, _ in rows for x, _ in columns]
        features = encoder.encode_dense(encoder.encode_trunk(self.windows(image, *corners)))
        levels = cosines(features.unit(), self.stages.text)
        step = int(sub)
        return torch.stack([enlarged(one, (crop, crop))[:, ::step, ::step] for one in levels])


def enlarged(level: Tensor, size: tuple[int, int]) -> Tensor:
    return MeanMap([level], size).rows(slice(0, size[0]))


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Callable[..., Any]]]:
    networks = {
        name: Proxy(Stages(FILE, reference.backbones(tmp_path_factory.mktemp(name), name)))
        for name in ("quickgelu", "gelu")
    }
    slide = networks[SLIDE_ACTIVATION]

    def labels(image: str, threshold: str) -> Any:
        method = slide.method(probability_threshold=float(threshold))
        return slide.stages.labels(method, f"slide.{image}", image)

    def tokens(maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2)

    return [
        (r"window\.vfm_features", slide.proxy_map),
        (r"window\.similarity_margin", slide.margin),
        (r"window\.(?P<name>\w+)\.dense_features_raw", lambda name: tokens(networks[name].raw())),
        (
            r"window\.(?P<name>\w+)\.dense_features",
            lambda name: F.normalize(tokens(networks[name].raw()), dim=2),
        ),
        (r"window\.(?P<name>\w+)\.logits_patch", lambda name: networks[name].logits()),
        (
            r"window\.beta(?P<beta>[\d.]+)_gamma(?P<gamma>[\d.]+)\.logits_up",
            lambda beta, gamma: slide.logits_up(beta=float(beta), gamma=float(gamma)),
        ),
        (r"window\.(?P<name>\w+)\.logits_up", lambda name: networks[name].logits_up()),
        (r"slide\.(?P<image>\w+)\.cosine", slide.cosine),
        (r"slide\.(?P<image>\w+)\.window_logits_sub(?P<sub>\d+)", slide.window_logits),
        (
            r"slide\.(?P<image>\w+)\.class_prob",
            lambda image: slide.stages.class_prob(slide.method(), f"slide.{image}", image),
        ),
        (r"slide\.(?P<image>\w+)\.labels_thd(?P<threshold>[\d.]+)", labels),
    ]


@pytest.mark.parametrize("key", reference.keys(FILE))
def test_proxyclip_is_the_authors(key: str, checks: list[tuple[str, Callable[..., Any]]]) -> None:
    if key.endswith(".ori_shape"):
        return  # what the others are computed from
    if key == "constants":
        assert_published(json.loads(str(reference.tensors(FILE)[key])))
        return
    ours = reference.computed(key, checks)
    compare = reference.assert_same_labels if ".labels" in key else reference.assert_alike
    compare(ours, reference.tensors(FILE)[key])


def assert_published(constants: dict[str, Any]) -> None:
    options = proxyclip.Options()
    for name in ("beta", "gamma", "logit_scale"):
        assert getattr(options, name) == constants[name]
