"""The published recipes, one file each; the file's name is the name in the config."""

from ovseg_core import parts
from ovseg_core.backbones import Backbones
from ovseg_core.segmenter import Segmenter
from schemas.config import NamedOptions

PACKAGE = __name__


def check_options(method: NamedOptions) -> None:
    """Check a method's name and options; loads no weights.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
    """
    parts.read_options(PACKAGE, method, "method")


def build_segmenter(method: NamedOptions, backbones: Backbones) -> Segmenter:
    """Return the method, ready to use.

    Raises:
        ConfigError: an unknown method, an unknown option or a wrong value.
        WeightsError: the backbones lack something that the method needs.
    """
    options = parts.read_options(PACKAGE, method, "method")
    return parts.load(PACKAGE, method.name).build(options, backbones)
