"""The published methods, one file each; the file's name is the name in the configuration."""

from typing import Any, TypeVar

from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.per_image_files import folders_in
from ovseg_core.segmenter import MethodCard, Segmenter
from schemas import plugins
from schemas.config import NamedOptions, SegmenterConfig
from schemas.errors import ConfigError

PACKAGE = __name__

Config = TypeVar("Config", bound=SegmenterConfig)


def check_options(method: NamedOptions) -> None:
    """Check a method's name and options, those of nested plug-ins included; loads no weights.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
    """
    plugins.read_options(PACKAGE, method, "method")


def runs_by_name(name: str) -> bool:
    """Return whether a method can be built from its name alone; a student needs its weights."""
    fields = plugins.load_plugin(PACKAGE, name).Options.model_fields.values()
    return not any(field.is_required() for field in fields)


def option_folders(method: NamedOptions) -> dict[str, str]:
    """Return the folders of other tools' files that a method's options name, by dotted option.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
    """
    folders: dict[str, str] = {}
    for part in plugins.read_nested_options(PACKAGE, method, "method"):
        folders |= folders_in(part.options, f"{part.where}.options")
    return folders


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


def build_segmenter(method: NamedOptions, backbones: Backbones) -> Segmenter[Any]:
    """Return the method, ready to use.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
        WeightsError: the backbones lack something that the method needs.
    """
    options = plugins.read_options(PACKAGE, method, "method")
    return plugins.load_plugin(PACKAGE, method.name).build(options, backbones)
