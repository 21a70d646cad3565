"""Any method with proposals: they are found beside its features, and used where it is decided.

A method that finds instances itself needs no proposals for them.

Shapes: h w pixels of a region map.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ovseg_core.decision.refine.promptable import PromptableImages, PromptedRefinement
from ovseg_core.images.batch import Image, ImageBatch
from ovseg_core.images.proposal_masks import Proposals, check_regions
from ovseg_core.proposals import PACKAGE, WHERE, PromptableProposer, Proposer
from ovseg_core.segmenter import Features, MethodOptions, ScoreMaps, Segmenter, TextMatrix
from schemas import plugins
from schemas.config import MaskConfig
from schemas.errors import ConfigError

_MAX_PROPOSALS = 20_000
"""Of one image; superpixels can be some more than 5,000, SAM's are a few hundred."""
_MAX_MASK_PX = 4096
"""Of a side of their masks, in images of shorter sides."""


@dataclass(frozen=True)
class FeaturesWithProposals:
    """Features of a batch with the proposals of each image.

    Attributes:
        features: the method's own.
        proposals: of each image.
        prompted: the encoded images of a proposer that can be asked for more masks; None: not
            needed.
    """

    features: Features
    proposals: tuple[Proposals, ...]
    prompted: PromptableImages | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.proposals)

    def image(self, index: int) -> "FeaturesWithProposals":
        """Return the features of one image, as those of a batch of one."""
        return FeaturesWithProposals(
            self.features.image(index),
            self.proposals[index : index + 1],
            self.prompted and self.prompted.image(index),
        )


class WithProposals(Segmenter[FeaturesWithProposals]):
    """A method with proposals.

    Args:
        segmenter: the method; its `encode` finds the proposals in the `ImageBatch`.
        proposer: finds them.
        options: the method's: whether the majority label wins in each region of an image, and
            whether components are refined.
        instances: whether there are to be instances: the method's own where it finds some, else
            the proposals.
    """

    def __init__(
        self,
        segmenter: Segmenter[Any],
        proposer: Proposer,
        options: MethodOptions,
        *,
        instances: bool,
    ) -> None:
        self.segmenter = segmenter
        self._proposer = proposer
        self._options = options
        self._instances = instances
        sides = segmenter.decode_side_px, proposer.decode_side_px
        self.decode_side_px = max(sides) if all(sides) else 0

    def text_matrix(self, vocabulary: Any) -> TextMatrix:
        """Return the vocabulary's text matrix, the method's own."""
        return self.segmenter.text_matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> FeaturesWithProposals:
        """Return the method's features and the proposals of a batch."""
        if self._options.refine_masks and isinstance(self._proposer, PromptableProposer):
            proposals, prompted = self._proposer.prompted_proposals(images)
        else:
            proposals, prompted = self._proposer.proposals(images), None
        paths = images.paths if isinstance(images, ImageBatch) else None
        batch = ImageBatch(tuple(images), paths, proposals)
        return FeaturesWithProposals(self.segmenter.encode(batch), proposals, prompted)

    @torch.inference_mode()
    def score(self, features: FeaturesWithProposals, text: TextMatrix) -> ScoreMaps:
        """Return the method's score maps with what the proposals add."""
        maps = self.segmenter.score(features.features, text)
        regions = maps.regions
        if self._options.region_vote:
            own = regions or ((),) * len(features)
            added = [(one.region_map(),) if len(one) else () for one in features.proposals]
            regions = tuple((*first, *last) for first, last in zip(own, added, strict=True))
        found = features.proposals if maps.proposals is None else maps.proposals
        proposals = found if self._instances else None
        prompted = None
        if features.prompted is not None:
            prompted = PromptedRefinement(features.prompted, self._options.refine_min_iou)
        return replace(maps, regions=regions, proposals=proposals, prompted=prompted)

    def check_size(self, features: FeaturesWithProposals, size_hw: tuple[int, int]) -> None:
        """Check the proposals, each of which is enlarged to the image; then the method's features.

        Raises:
            ValueError: they are more or larger than those of any source, or a region is of none of
                them; see also `Segmenter.check_size`.
        """
        most_px = max(_MAX_MASK_PX, *size_hw)
        for found in features.proposals:
            if len(found) > _MAX_PROPOSALS or max(found.masks_Nhw.shape[1:]) > most_px:
                raise ValueError(
                    f"expected at most {_MAX_PROPOSALS:,} proposals of at most {most_px:,} pixels "
                    f"a side, got {tuple(found.masks_Nhw.shape)}"
                )
            if found.regions_hw is not None:
                check_regions(found.regions_hw, len(found))
        self.segmenter.check_size(features.features, size_hw)


class WithoutInstances(Segmenter[Any]):
    """A method that finds instances itself, in a job whose masks are none.

    Args:
        segmenter: the method.
    """

    def __init__(self, segmenter: Segmenter[Any]) -> None:
        self.segmenter = segmenter
        self.decode_side_px = segmenter.decode_side_px

    def text_matrix(self, vocabulary: Any) -> TextMatrix:
        """Return the vocabulary's text matrix, the method's own."""
        return self.segmenter.text_matrix(vocabulary)

    def encode(self, images: Sequence[Image]) -> Any:
        """Return the method's features of a batch."""
        return self.segmenter.encode(images)

    def score(self, features: Any, text: TextMatrix) -> ScoreMaps:
        """Return the method's score maps alone."""
        return replace(self.segmenter.score(features, text), proposals=None)

    def check_size(self, features: Any, size_hw: tuple[int, int]) -> None:
        """Check the method's own features; see `Segmenter.check_size`."""
        self.segmenter.check_size(features, size_hw)


def check_instances(masks: MaskConfig, *, has_source: bool) -> None:
    """Check that instances have something to come from: proposals, or the method itself.

    Raises:
        ConfigError: they have not.
    """
    if masks.segments == "instances" and not has_source:
        raise ConfigError(
            "masks.segments: `instances` needs proposals, which become the instances, or a method "
            f"that finds instances itself (`ovseg methods`); add for example --set {WHERE}=sam, or "
            "take `components`"
        )


def check_refinement(options: MethodOptions) -> None:
    """Check that a refinement has a proposer that can be asked for masks.

    Raises:
        ConfigError: it has not.
    """
    name = options.proposals.name
    if options.refine_masks and not getattr(plugins.load_plugin(PACKAGE, name), "PROMPTABLE", 0):
        raise ConfigError(
            f"method.options.refine_masks: SAM redraws the masks, but {WHERE} is `{name}`; add "
            f"--set {WHERE}=sam, or leave refine_masks out"
        )
