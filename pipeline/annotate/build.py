"""From a job's configuration to a live segmenter: the seam where another segmenter can enter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovseg_core.segmenter import Segmenter
from schemas import plugins
from schemas.config import JobConfig
from schemas.vocabulary import is_background

if TYPE_CHECKING:
    from ovseg_core.backbones.clip import Clip


@dataclass(frozen=True)
class Built:
    """A segmenter with what identifies its networks.

    Attributes:
        segmenter: the method.
        weights: SHA-256 of every weights file in use, by role, and what was found out about a
            network and can change its output, such as `clip.activation`.
        clip: the CLIP that the method has loaded, which gives each image its vector; None: the
            method has no image encoder of CLIP, and images get no vector.
    """

    segmenter: Segmenter[Any]
    weights: dict[str, str]
    clip: "Clip | None" = None


Build = Callable[[JobConfig, str], Built]
"""Makes a job's segmenter on a device (`cpu`, `cuda`); picklable, because workers call it."""


def build(config: JobConfig, device: str) -> Built:
    """Build the job's own method; to score stored features without its image networks.

    Raises:
        ConfigError: unknown method or option; a precision that the device does not have.
        WeightsError: weights that cannot be found, fetched or used.
    """
    # Here, because these import the model libraries, which takes seconds: only workers need them.
    from ovseg_core.backbones.registry import Backbones, ScoringBackbones
    from ovseg_core.methods import build_segmenter, option_folders, with_published_clip
    from pipeline.storage.weights import remember_names, resolve, weights_sha256

    config = with_published_clip(config)
    kind = ScoringBackbones if config.features_of else Backbones
    backbones = kind.from_config(config, device, resolve, config.compute)
    segmenter = build_segmenter(config.method, backbones, config.masks)
    folders = option_folders(config.method).values()
    remember_names(backbones.names() | {folder: folder for folder in folders})
    digests = {role: weights_sha256(path) for role, path in backbones.files().items()}
    return Built(segmenter, digests | backbones.settings(), backbones.loaded_clip())


def labels_every_pixel(config: JobConfig) -> bool:
    """Return whether nothing stands for the background, so that most pixels or all get a label.

    Neither objectness nor phrases of what surrounds the objects, and masks are not instances.

    Raises:
        ConfigError: unknown method or option.
    """
    # Here, because these import torch.
    from ovseg_core import methods
    from ovseg_core.segmenter import MethodOptions

    options = plugins.read_options(methods.PACKAGE, config.method, "method")
    names_it = any(not is_background(phrase) for phrase in config.vocabulary.background)
    return (
        not names_it
        and config.masks.segments != "instances"
        and isinstance(options, MethodOptions)
        and not options.finds_background
    )
