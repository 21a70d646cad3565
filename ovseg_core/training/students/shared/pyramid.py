"""The backbone of a student: feature maps of a timm network at falling resolution.

timm takes seconds to import and is not needed to check options, so it is imported on use.

Shapes: B images, C_i channels of map i, h_i w_i its cells.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ovseg_core.backbones.checkpoint import (
    ADVICE,
    LOAD_FAILURES,
    check_finite_weights,
    load_fitting,
    one_line,
    read_checkpoint,
    state_dict_in,
    timm_file,
)
from ovseg_core.segmenter import PluginOptions
from schemas.base import did_you_mean
from schemas.config import WeightsName
from schemas.errors import ConfigError, WeightsError

RANDOM = "random"
"""Value of `backbone_weights`: random first weights."""
TIMMS_OWN = "timm"
"""Value of `backbone_weights`: those that timm has for the architecture, trained on ImageNet."""
_MAX_WEIGHTS = 1_000_000_000
"""Of a backbone; the largest of timm that gives a pyramid has a third of it."""
_PROBE_HW = 128, 192
"""Size of the image by which a network is tried: not square, and not what it was trained with."""


class PyramidOptions(PluginOptions):
    """Options of a student's backbone."""

    backbone: Annotated[str, Field(max_length=100)]
    """timm architecture that gives a pyramid of feature maps, such as `convnext_nano`."""
    backbone_weights: WeightsName
    """Weights that the training starts from: `timm`: those of timm, trained on ImageNet; `random`;
    or a file (path or URL). A trained student does not need them."""


def check_architecture(name: str) -> None:
    """Check a name before timm sees it; its prefixes would read folders and hubs.

    Raises:
        ConfigError: timm has no such architecture.
    """
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = did_you_mean(architecture, timm.list_models())
        raise ConfigError(f"student.options.backbone: timm has no model {name!r}. {near}")


def weights_file(options: PyramidOptions, resolve: Callable[[str], str]) -> str:
    """Return the local file of the first weights of a backbone; empty: random ones.

    Args:
        options: which.
        resolve: returns the local path of a weights file (path or URL).

    Raises:
        ConfigError: timm has no such architecture.
        WeightsError: timm has no weights for it, or they cannot be downloaded.
    """
    if options.backbone_weights == RANDOM:
        return ""
    if options.backbone_weights != TIMMS_OWN:
        return resolve(options.backbone_weights)
    check_architecture(options.backbone)
    advice = f"give a file as student.options.backbone_weights, or `{RANDOM}`"
    setting = "student.options.backbone_weights=FOLDER/model.safetensors"
    return timm_file(options.backbone, setting, advice)


class Pyramid(nn.Module):
    """A timm network without its classifier.

    Args:
        architecture: timm's name, checked here.
        file: local weights file; empty: random.
        levels: which of timm's maps, -1 is the last; None: all.
        output_stride: of the last map, reached by dilation; None: timm's own (32).

    Attributes:
        channels: C_i.
        strides: pixels of a cell of each map.

    Raises:
        ConfigError: no such architecture, or one that has no pyramid.
        WeightsError: the file does not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str,
        file: str = "",
        levels: tuple[int, ...] | None = None,
        output_stride: int | None = None,
    ) -> None:
        super().__init__()
        import timm

        check_architecture(architecture)
        try:
            _check_maps(architecture, levels, output_stride)
            self.network = _created(architecture, levels, output_stride)
        except LOAD_FAILURES as error:
            like = (
                f"gives no map at stride {output_stride} ({one_line(error)}); `resnet101` does"
                if output_stride
                else f"gives no pyramid of feature maps ({one_line(error)}); for example "
                "`convnext_nano` and `mobilenetv4_conv_small` do"
            )
            raise ConfigError(f"student.options.backbone: {architecture!r} {like}") from error
        self.channels: list[int] = self.network.feature_info.channels()
        self.strides: list[int] = self.network.feature_info.reduction()
        config = timm.get_pretrained_cfg(architecture)
        mean, std = (config.mean, config.std) if config else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", 255 * torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(3, 1, 1))
        if file:
            self._load(file, architecture)

    def forward(self, pixels_B3HW: Tensor) -> list[Tensor]:
        """Return the maps (B, C_i, h_i, w_i), the finest first, of pixel values 0..255."""
        return self.network((pixels_B3HW - self.mean) / self.std)

    def _load(self, file: str, architecture: str) -> None:
        """Load weights in timm's names; the classifier and maps that are not used stay out."""
        tensors = state_dict_in(read_checkpoint(file))
        check_finite_weights(tensors, file)
        own = self.network.state_dict()
        # Some families call `stages.0` by the name `stages_0` where they give a pyramid.
        alike = {name.replace(".", "_"): value for name, value in tensors.items()}
        found = {name: alike.get(name.replace(".", "_")) for name in own}
        try:
            load_fitting(self.network, {key: it for key, it in found.items() if it is not None})
        except LOAD_FAILURES as error:
            raise WeightsError(
                f"{file} does not fit {architecture}: {one_line(error)}; {ADVICE}"
            ) from error


def _created(architecture: str, levels: tuple[int, ...] | None, output_stride: int | None) -> Any:
    import timm

    wanted: dict[str, Any] = {"features_only": True, "pretrained": False}
    wanted |= {} if levels is None else {"out_indices": levels}
    wanted |= {} if output_stride is None else {"output_stride": output_stride}
    return timm.create_model(architecture, **wanted)


@lru_cache
def _check_maps(
    architecture: str, levels: tuple[int, ...] | None, output_stride: int | None
) -> None:
    """Check a network without memory.

    Raises:
        ValueError: it is too large, or its maps are not what it says of them at any image size.
    """
    with torch.device("meta"):
        outline = _created(architecture, levels, output_stride).eval()
        if sum(parameter.numel() for parameter in outline.parameters()) > _MAX_WEIGHTS:
            raise ValueError("it has over a thousand million weights")
        height, width = _PROBE_HW
        found = [tuple(one.shape) for one in outline(torch.empty(1, 3, height, width))]
    says = [
        (1, channels, height // stride, width // stride)
        for channels, stride in zip(
            outline.feature_info.channels(), outline.feature_info.reduction(), strict=True
        )
    ]
    if found != says:
        raise ValueError(f"of {width} x {height} pixels it makes {found}, and says {says}")
