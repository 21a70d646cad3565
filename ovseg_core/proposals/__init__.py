"""Proposers, one file each: where the proposals of an image come from.

The file's name is the name in the configuration, `method.options.proposals`. Every file has
`Options` and `build(options, backbones) -> Proposer`; where that is a `PromptableProposer` also
`PROMPTABLE = True`. Proposals are found without any words, so they are computed once an image,
whatever is searched for. What proposers share is in `shared/`.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ovseg_core.backbones.registry import Backbones, Unseeing
from ovseg_core.decision.refine.promptable import PromptableImages
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from schemas import plugins
from schemas.config import NamedOptions

PACKAGE = __name__
WHERE = "method.options.proposals"
"""Dotted path of the proposer in a job file."""


class Proposer(Protocol):
    """A source of proposals.

    Attributes:
        decode_side_px: it needs no more than this many pixels on the short side; 0: every pixel.
    """

    decode_side_px: int

    def proposals(self, images: Sequence[Image]) -> tuple[Proposals, ...]:
        """Return the proposals of each image of a batch; an image may have none."""
        ...


@runtime_checkable
class PromptableProposer(Proposer, Protocol):
    """A proposer whose network can be asked for more masks of the images that it has encoded."""

    def prompted_proposals(
        self, images: Sequence[Image]
    ) -> tuple[tuple[Proposals, ...], PromptableImages]:
        """Return the proposals of a batch, and its encoded images."""
        ...


def build_proposer(part: NamedOptions, backbones: Backbones) -> Proposer | None:
    """Return the proposer, ready to use; None for `none`.

    Where no image is encoded it is what stands for one.

    Raises:
        ConfigError: an unknown proposer, an unknown option or a wrong value.
        WeightsError: weights that cannot be found or do not fit.
    """
    options = plugins.read_options(PACKAGE, part, WHERE)
    if not backbones.sees_images and part.name != "none":
        return Unseeing()
    return plugins.load_plugin(PACKAGE, part.name).build(options, backbones)
