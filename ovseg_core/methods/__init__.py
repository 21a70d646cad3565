"""The published methods, one file each; the file's name is the name in the configuration."""

from collections.abc import Sequence
from typing import Any, TypeVar

from ovseg_core.backbones.compute import is_out_of_memory
from ovseg_core.backbones.file_formats.needed_files import (
    Cached,
    NeededWeights,
    WeightsFile,
    file_of,
)
from ovseg_core.backbones.registry import FAMILIES, Backbones, no_images
from ovseg_core.images.batch import Image
from ovseg_core.images.per_image_files import folders_in
from ovseg_core.proposals import build_proposer
from ovseg_core.proposals.shared.with_proposals import (
    WithoutInstances,
    WithProposals,
    check_instances,
    check_refinement,
)
from ovseg_core.segmenter import (
    MethodCard,
    MethodOptions,
    PluginOptions,
    ScoreMaps,
    Segmenter,
    TextMatrix,
)
from schemas import plugins
from schemas.config import MaskConfig, NamedOptions, SegmenterConfig
from schemas.errors import ConfigError, FeaturesError
from schemas.vocabulary import Vocabulary

PACKAGE = __name__
DEFAULT_MASKS = MaskConfig()

Config = TypeVar("Config", bound=SegmenterConfig)


def check_options(method: NamedOptions, masks: MaskConfig = DEFAULT_MASKS) -> None:
    """Check a method's name and options, those of nested plug-ins included; loads no weights.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value; instances without
            anything that they could come from; a refinement without what redraws the masks.
    """
    _checked_options(method, masks)


def runs_by_name(name: str) -> bool:
    """Return whether a method runs on any CLIP by its name alone.

    A student needs its weights, a method that finds instances networks of its own.
    """
    plugin = plugins.load_plugin(PACKAGE, name)
    needed = any(field.is_required() for field in plugin.Options.model_fields.values())
    return not needed and not plugin.CARD.finds_instances


def option_folders(method: NamedOptions) -> dict[str, str]:
    """Return the folders of other tools' files that a method's options name, by dotted option.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
    """
    folders: dict[str, str] = {}
    for part in plugins.read_nested_options(PACKAGE, method, "method"):
        folders |= folders_in(part.options, f"{part.where}.options")
    return folders


def feature_options(method: NamedOptions) -> dict[str, Any]:
    """Return all that a method's options say of its features, by dotted option.

    Features that are stored are those of any options for which this is the same; the others are
    marked `ScoreOnly`.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value; or features that cannot
            be stored.
    """
    found: dict[str, Any] = {"method.name": method.name}
    for part in plugins.read_nested_options(PACKAGE, method, "method"):
        assert isinstance(part.options, PluginOptions)  # those of methods and their parts are
        if isinstance(part.options, MethodOptions) and part.options.refine_masks:
            raise ConfigError(
                f"{part.where}.options.refine_masks: SAM looks at the images again once labels are "
                "decided, so features cannot be stored for it; leave refine_masks out"
            )
        nested = plugins.nested_packages(type(part.options))
        values = part.options.model_dump(mode="json", exclude=set(part.options.score_only()))
        found |= {
            f"{part.where}.options.{name}": value["name"] if name in nested else value
            for name, value in values.items()
        }
    return found


def needed_files(
    config: SegmenterConfig, cached: Cached, *, sees_images: bool = True
) -> list[WeightsFile]:
    """Return the weights files that a method loads, each once; nothing is loaded or fetched.

    Args:
        config: the method with its networks.
        cached: looks for a path or URL on this machine.
        sees_images: False: those that it loads to score stored features.

    Raises:
        ConfigError: an unknown method or option; transformers is missing, or of another major
            version.
        WeightsError: there is no network of a name, or a file must be given.
    """
    backbones = Backbones.from_config(with_published_clip(config), "cpu", str)
    published = {family.example: family.weights for family in FAMILIES}
    needed: list[NeededWeights] = []
    for part in plugins.read_nested_options(PACKAGE, config.method, "method"):
        assert isinstance(part.options, PluginOptions)  # those of methods and their parts are
        own = part.options if isinstance(part.options, MethodOptions) else None
        if sees_images or (own and own.score_asks_networks):
            needed += part.options.needed_weights(backbones, part.where)
        elif own:
            needed.append(backbones.needed_clip())
    return [file_of(one, cached, published) for one in dict.fromkeys(needed)]


def with_published_clip(config: Config) -> Config:
    """Return a configuration with `clip.model: auto` replaced by the CLIP that its method names.

    Raises:
        ConfigError: an unknown method, or weights given without their architecture.
    """
    if config.clip.model != "auto":
        return config
    card: MethodCard = plugins.load_plugin(PACKAGE, config.method.name).CARD
    given = config.clip.model_fields_set - {"model"}
    if given:
        raise ConfigError(
            f"clip.{sorted(given)[0]} is given without clip.model, which is `auto`: name the "
            f"architecture as well, for example --set clip.model={card.clip.model}"
        )
    return config.model_copy(update={"clip": card.clip})


def build_segmenter(
    method: NamedOptions, backbones: Backbones, masks: MaskConfig = DEFAULT_MASKS
) -> Segmenter[Any]:
    """Return the method, ready to use, with its proposals if it has any.

    Args:
        method: name and options.
        backbones: its networks; with `ScoringBackbones` it scores stored features alone.
        masks: how masks will be cut: instances need the proposals, or the method's own.

    Raises:
        ConfigError: as `check_options`.
        WeightsError: the backbones lack something that the method needs.
    """
    options = _checked_options(method, masks)
    if not backbones.sees_images:
        feature_options(method)
    segmenter = plugins.load_plugin(PACKAGE, method.name).build(options, backbones)
    instances = masks.segments == "instances"
    proposer = build_proposer(options.proposals, backbones)
    finds_instances = plugins.load_plugin(PACKAGE, method.name).CARD.finds_instances
    if proposer is not None:
        segmenter = WithProposals(segmenter, proposer, options, instances=instances)
    elif finds_instances and not instances:
        segmenter = WithoutInstances(segmenter)
    return segmenter if backbones.sees_images else WithoutImages(segmenter)


class WithoutImages(Segmenter[Any]):
    """A method that scores stored features and encodes no image.

    Args:
        segmenter: the method.
    """

    decode_side_px = 0

    def __init__(self, segmenter: Segmenter[Any]) -> None:
        self.segmenter = segmenter

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's text matrix, the method's own."""
        return self.segmenter.text_matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> Any:
        """Raise `ConfigError`."""
        raise no_images()

    def score(self, features: Any, text: TextMatrix) -> ScoreMaps:
        """Return the method's score maps of features that `unpack_features` read.

        Raises:
            FeaturesError: their sizes are not those of the method's.
        """
        try:
            return self.segmenter.score(features, text)
        except (IndexError, KeyError, RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise FeaturesError(
                f"stored features do not fit this method and its CLIP ({error}): they are of "
                "others; compute them again"
            ) from error

    def check_size(self, features: Any, size_hw: tuple[int, int]) -> None:
        """Check the method's own features; see `Segmenter.check_size`."""
        self.segmenter.check_size(features, size_hw)


def _checked_options(method: NamedOptions, masks: MaskConfig) -> MethodOptions:
    options = plugins.read_options(PACKAGE, method, "method")
    assert isinstance(options, MethodOptions)  # those of every method are
    finds_instances = plugins.load_plugin(PACKAGE, method.name).CARD.finds_instances
    check_instances(masks, has_source=finds_instances or options.proposals.name != "none")
    check_refinement(options)
    return options
