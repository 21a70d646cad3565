"""The interface of every method: images -> features -> score maps at patch resolution.

Features and score maps are float32 and on the method's device; index tensors are integers, and the
small matrices of positions (`Stitch`) are on the CPU.

Shapes: B images, K classes (0 is background), Q text rows, D joint width, H W pixels, h w patches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.decision.refine.pamr import Refinement
from ovseg_core.decision.refine.promptable import PromptedRefinement
from ovseg_core.images.batch import Image
from ovseg_core.images.proposal_masks import Proposals
from ovseg_core.images.resize.stitching import Stitch
from schemas import plugins
from schemas.config import ClipConfig, ConfigModel, NamedOptions, NamesWeights
from schemas.errors import ErrorCode, ImageError
from schemas.records import Share
from schemas.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovseg_core.backbones.registry import Backbones


@dataclass(frozen=True)
class ScoreOnly:
    """Marks an option that changes no features, only what `text_matrix` and `score` make of them.

    It holds for an option of the same name in a subclass.
    """


class PluginOptions(ConfigModel):
    """Base of the `Options` of methods and of the plug-ins nested in them."""

    def needed_weights(self, backbones: "Backbones", where: str) -> Iterator[NeededWeights]:
        """Yield the weights that the plug-in loads: here, every option that names some.

        Args:
            backbones: says what names stand for; nothing is loaded.
            where: dotted path of the plug-in in a job file.

        Raises:
            WeightsError: an option must name a file and does not.
        """
        del backbones
        for name, field_info in type(self).model_fields.items():
            if any(isinstance(mark, NamesWeights) for mark in field_info.metadata):
                given: str = getattr(self, name)
                if given:
                    yield NeededWeights(f"{where}.options.{name}", given)

    @classmethod
    def score_only(cls) -> frozenset[str]:
        """Return the names of the options that are marked `ScoreOnly`."""
        return frozenset(
            name
            for kind in cls.__mro__
            if issubclass(kind, PluginOptions)
            for name, field_info in kind.model_fields.items()
            if any(isinstance(mark, ScoreOnly) for mark in field_info.metadata)
        )


class MethodOptions(PluginOptions):
    """Base of the `Options` of methods."""

    score_asks_networks: ClassVar[bool] = False
    """Whether `score` asks networks of the method itself, and not only CLIP for its text."""

    proposals: Annotated[NamedOptions, plugins.Nested("ovseg_core.proposals")] = NamedOptions(
        name="none"
    )
    """Where regions of the image come from that are found without words, such as `sam`."""
    region_vote: Annotated[bool, ScoreOnly()] = True
    """In each proposal the label of most of its pixels wins; where proposals overlap, the smallest
    counts. Without effect if there are none."""
    refine_masks: bool = False
    """SAM redraws every connected component of the label map, prompted by its box, its surest point
    and its coarse mask. Needs `proposals=sam`, whose encoded images (4 MB each with a published
    SAM) are then kept with the features until the images are decided."""
    refine_min_iou: Annotated[Share, ScoreOnly()] = 0.4
    """A redrawn mask is taken where its IoU with the component is at least this."""

    def needed_weights(self, backbones: "Backbones", where: str) -> Iterator[NeededWeights]:
        """Yield CLIP and what the options name; see `PluginOptions.needed_weights`."""
        yield backbones.needed_clip()
        yield from super().needed_weights(backbones, where)

    @property
    def finds_background(self) -> bool:
        """Whether a pixel may become background by anything but the background phrases."""
        return True


@dataclass(frozen=True)
class MethodCard:
    """A method's entry in `ovseg methods`.

    Attributes:
        title: name of the method as published.
        paper: title of the paper.
        arxiv: its arXiv id.
        parts: its components, in one line.
        clip: the CLIP of a job that does not name one.
        weights: the backbones that it was published with.
        licence: of those weights.
        published: mean IoU in percent by benchmark, as published (not measured here).
        figures: what stands in place of such figures, where there are none or others.
        finds_instances: whether its `score` returns instances of its own, as `ScoreMaps.proposals`
            with `probs_NK`. Such a method has networks of its own, beside the job's CLIP.
    """

    title: str
    paper: str
    arxiv: str
    parts: str
    clip: ClipConfig
    weights: str
    licence: str
    published: dict[str, float] = field(default_factory=dict)
    figures: str = ""
    finds_instances: bool = False


@dataclass(frozen=True)
class TextMatrix:
    """The phrases of a vocabulary as rows of CLIP's joint space.

    A method whose networks need more of a text has a subclass with further tensors.

    Attributes:
        rows_QD: unit rows, float32, on the method's device.
        class_index_Q: int64 class of each row; 0 is background, k is label k (from 1).
        num_classes: K, one more than the number of labels.
    """

    rows_QD: Tensor
    class_index_Q: Tensor
    num_classes: int


@dataclass(frozen=True)
class DecisionRule:
    """Softmax over all phrases, then the best phrase of each class (docs/methods.md 1.5, 6.3).

    Attributes:
        class_index_Q: int64 class of each row of a level.
        num_classes: K; a class without phrases has probability 0.
        probability_threshold: a pixel whose most likely class has less probability is background.
        area_threshold: a label that wins no more than this share of the pixels that are not
            background loses them all to the others (SCLIP); 0: every label stays.
    """

    class_index_Q: Tensor
    num_classes: int
    probability_threshold: float = 0.0
    area_threshold: float = 0.0


@dataclass(frozen=True)
class ScoreMaps:
    """Scores of a batch at patch resolution; no tensor has the size of an image times K.

    Attributes:
        levels: `levels[b]` is a tuple of float32 (K, h, w), or of (Q, h, w) under a `rule`; the
            score map of image b is the mean over its levels after bilinear (align_corners False)
            enlargement to the canvas.
        canvas_hw: size of the map on which the argmax is taken; None: the image's own size. The
            label map is then resized to the image by nearest neighbour, floor(i * in / out).
        objectness: for each image float32 (h, w) in [0, 1], enlarged bilinearly to the canvas;
            None where the method has none.
        fusion: how objectness T enters. `complement_product`: M_0 (1 - T), M_k T (CLIP-DIY).
            `foreground_gate`: background where T <= 0.5, else argmax over labels.
        domain: unit of the levels. `score` is decided like `cosine`, but not bounded, and
            relative to the other phrases (CLIP Surgery).
        logit_scale: cosines times this, through softmax, are the probabilities of the score
            columns; unused in the domain `prob`.
        stitches: for each image the positions of the patches of its one level, if they are of
            sliding windows; None: they are spread evenly over the image.
        rule: how cosines of phrases become labels; None: levels are of classes, the best wins. In
            the domain `prob` levels are of classes always, and only the rule's thresholds count.
        refinement: applied to the enlarged scores before the decision; None: nothing.
        regions: for each image integer maps (h, w) of its regions, -1 is none, enlarged to the
            canvas by nearest. After the decision every region takes the label of most of its
            pixels, map by map; pixels that `foreground_gate` closes neither vote nor change.
            None: no vote.
        proposals: of each image, the proposals that become its instances; None: no instances.
            Those of a method that finds instances itself know their classes (`probs_NK`).
        prompted: what redraws the components of the label map, after the vote; None: nothing.
    """

    levels: tuple[tuple[Tensor, ...], ...]
    canvas_hw: tuple[int, int] | None
    objectness: tuple[Tensor, ...] | None
    fusion: Literal["none", "complement_product", "foreground_gate"]
    domain: Literal["cosine", "score", "prob"]
    logit_scale: float
    stitches: tuple[Stitch, ...] | None = None
    rule: DecisionRule | None = None
    refinement: Refinement | None = None
    regions: tuple[tuple[Tensor, ...], ...] | None = None
    proposals: tuple[Proposals, ...] | None = None
    prompted: PromptedRefinement | None = None


class Features(Protocol):
    """All that a method computes of a batch without the vocabulary; each method has its own class.

    Outputs of networks are float32 and on the method's device, whatever they were computed in.
    """

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def image(self, index: int) -> Self:
        """Return the features of one image, as those of a batch of one."""
        ...


FeaturesT = TypeVar("FeaturesT", bound=Features)


class Segmenter(Protocol[FeaturesT]):
    """A method with its backbones loaded.

    Attributes:
        decode_side_px: the method needs no more than this many pixels on the short side, so a
            decoder may deliver less than the file holds; 0: it needs every pixel.
    """

    decode_side_px: int

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's text matrix; computed once for each vocabulary."""
        ...

    def encode(self, images: Sequence[Image]) -> FeaturesT:
        """Return the features of a batch; call it through `encode_images`."""
        ...

    def score(self, features: FeaturesT, text: TextMatrix) -> ScoreMaps:
        """Return the score maps of encoded images for a vocabulary, without gradients."""
        ...

    def check_size(self, features: FeaturesT, size_hw: tuple[int, int]) -> None:
        """Check what features say of an image's size, where it decides how much memory they take.

        Args:
            features: from anywhere.
            size_hw: of the image.

        Raises:
            ValueError: they are of another image, or of other settings.
        """


def encode_images(segmenter: Segmenter[FeaturesT], images: Sequence[Image]) -> FeaturesT:
    """Return the features of a batch of images.

    Every `encode` is called here, so this is where batching and memory policy are set for all
    methods; networks run as their `Compute` says. No gradients are recorded.

    Args:
        segmenter: any method.
        images: uint8 (3, H, W) each, of any sizes; an `ImageBatch` where a part of the method looks
            images up by path.

    Raises:
        ImageError: `not_finite`, as `check_finite`.
    """
    with torch.inference_mode():
        features = segmenter.encode(images)
        check_finite(features, "features")
    return features


def check_finite(outputs: object, noun: str) -> None:
    """Check that what was computed of a batch of images holds no NaN and no infinity.

    Else they would become masks of no meaning: comparisons with NaN are just false.

    Args:
        outputs: tensors in dataclasses, tuples, lists or dictionaries.
        noun: what they are, for the message.

    Raises:
        ImageError: `not_finite`; of a batch, each image is to be tried alone.
    """
    # A sum is one pass without a mask in memory, and all of them are one wait for a GPU.
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in _float_tensors(outputs):
        if tensor.dtype == torch.float32:
            totals = [tensor.sum()]
        else:  # a sum of halves may overflow, and one in float32 takes ten times as long
            totals = [tensor.amax().float(), tensor.amin().float()] if tensor.numel() else []
        sums.setdefault(tensor.device, []).extend(totals)
    if not all(torch.stack(some).isfinite().all() for some in sums.values() if some):
        raise ImageError(
            ErrorCode.NOT_FINITE,
            f"the network's {noun} of this image are not finite (NaN or infinity), while its "
            "weights are: such weights overflow on some images; use others, or "
            "compute.precision=bf16 or fp32 if it is fp16",
        )


def _float_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif is_dataclass(value):
        for one in fields(value):
            yield from _float_tensors(getattr(value, one.name))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _float_tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _float_tensors(inner)
