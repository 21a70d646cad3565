"""Students: networks that learn a teacher's masks, one file each; its name is that in the config.

Every file has `CARD`, `Options`, `build_network(options, text, pretrained)` and
`build_task(options, seed)`. A student reads an image once, without windows, and classifies its
features by the text rows of the labels, so that it can be asked for words that it never learned;
a closed-set student has an output for each phrase of its training, and knows no other words.

Shapes: B images of a batch, K classes (0 is background), Q phrases, D text width, S side of a
training view, h w cells of the finest feature map.
"""

from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from ovseg_core.backbones.text.text_encoder import best_of_class
from ovseg_core.images.batch import Image
from ovseg_core.segmenter import PluginOptions, TextMatrix
from schemas import plugins
from schemas.config import NamedOptions

PACKAGE = __name__

IGNORED = -1
"""Pixels that do not train: void, edges, masks that cleaning has taken out."""
UNLABELLED = -2
"""Pixels of which nobody has said anything: the teacher's labels or the student's own fill them."""

ABSENT_LOGIT = -1e4
"""Of a class without phrases: the background of a vocabulary without background phrases. It is
finite, as logits are enlarged, and has the probability 0."""

PAD_TO_PX = 32
"""Stride of the coarsest map of all backbones: with sides of a multiple all maps are aligned."""

Labels = NDArray[np.int16]
"""(H, W): 0 background, k label k, IGNORED or UNLABELLED."""


class StudentOptions(PluginOptions):
    """Options of every student."""

    steps: PositiveInt
    """Training steps."""
    batch: PositiveInt
    """Images per step, over all workers."""
    size_px: PositiveInt
    """Side of a training view."""
    max_side_px: Annotated[int, Field(ge=32, le=8192)] = 1024
    """Images are reduced to this length of their longer side, when the student learns them and when
    it annotates, so that it meets objects of the size that it has learned."""

    @property
    def trains_itself(self) -> bool:
        """Whether it learns its own predictions at some step."""
        return False


class TextShape(NamedTuple):
    """Size of the text matrix that a student is trained with."""

    num_phrases: int
    """Q, with the background phrases."""
    width: int
    """D."""


class TrainingView(NamedTuple):
    """One image as one step sees it."""

    pixels: Tensor
    """uint8 or float32 0..255 (3, S, S)."""
    labels: Tensor
    """int64 (S, S): what the student learns; may hold IGNORED and UNLABELLED."""
    teacher: Tensor
    """int64 (S, S): the teacher's labels, for pixels that are UNLABELLED; never UNLABELLED."""


class TotalLoss(NamedTuple):
    """A loss before the mean is taken, so that workers can take it over all of their pixels."""

    total: Tensor
    """Scalar: the sum over what counts; 0 with a gradient of 0 where nothing does."""
    count: Tensor
    """Scalar, int64: how much counts."""


class StudentNetwork(Protocol):
    """The network, an `nn.Module`. The finest feature map may be smaller than the image.

    Attributes:
        text_width: D.
        stride_px: pixels of one cell of the finest feature map.
        is_open: any phrases can be asked for; False: only those of the training, in their order.
    """

    text_width: int
    stride_px: int
    is_open: bool

    def encode(self, pixels_B3HW: Tensor) -> tuple[Tensor, ...]:
        """Return feature maps that do not depend on the words, the finest first.

        Args:
            pixels_B3HW: 0..255, any size.
        """
        ...

    def classify(self, features: tuple[Tensor, ...], rows_QD: Tensor) -> Tensor:
        """Return the logits (B, Q, h, w) of phrases, given their unit text rows."""
        ...

    def forward(self, pixels_B3HW: Tensor, rows_QD: Tensor) -> Tensor:
        """Return `classify(encode(pixels), rows)`; training calls it, also on several devices."""
        ...


@dataclass(frozen=True)
class Optimisation:
    """How the weights are trained: the rate falls by mmsegmentation's poly schedule, power 0.9.

    Attributes:
        name: `sgd` (with `momentum`) or `adamw`.
        steps: of the whole training.
        learning_rate: of the first step.
        weight_decay: of both.
        momentum: of SGD.
        min_learning_rate: at the end.
    """

    name: str
    steps: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    min_learning_rate: float = 0.0

    def factor(self, step: int) -> float:
        """Return the factor of the learning rate at a step, counted from 0."""
        least = self.min_learning_rate / self.learning_rate
        left = max(1 - step / self.steps, 0.0)
        return (1 - least) * left**0.9 + least


class StudentTask(Protocol):
    """The training of one student, apart from its network.

    Attributes:
        optimisation: see there.
    """

    optimisation: Optimisation

    def view(
        self, image: Image, labels: Labels, teacher: Labels, rng: np.random.Generator
    ) -> TrainingView:
        """Return a random view of an image for one step.

        Args:
            image: uint8 (3, H, W).
            labels: (H, W) what is to be learned.
            teacher: (H, W) the teacher's labels.
            rng: of this place in the training.
        """
        ...

    def loss(
        self,
        logits_BKhw: Tensor,
        labels_BSS: Tensor,
        teacher_BSS: Tensor,
        step: int,
        known_K: Tensor | None = None,
    ) -> TotalLoss:
        """Return the loss of a batch.

        Args:
            logits_BKhw: float32, of the classes: the best phrase of each; `ABSENT_LOGIT` of one
                that has none, which no pixel is labelled with.
            labels_BSS: int64, see `TrainingView`.
            teacher_BSS: int64, see `TrainingView`.
            step: counted from 0; self-training depends on it.
            known_K: bool, the classes that people have labelled wherever they are, so that an
                unlabelled pixel is none of them; None: there are none.
        """
        ...


def class_logits(logits_BQhw: Tensor, text: TextMatrix) -> Tensor:
    """Return the logits (B, K, h, w) of the classes: the best phrase of each, in float32.

    Training, the method `student` and the ONNX file have this one rule; the softmax or sigmoid of
    the result is what the loss trains.
    """
    return best_of_class(logits_BQhw.float(), text, absent=ABSENT_LOGIT)


def check_student(part: NamedOptions) -> StudentOptions:
    """Return a student's options, checked.

    Raises:
        ConfigError: an unknown student, an unknown option or a wrong value.
    """
    options = plugins.read_options(PACKAGE, part, "student")
    if not isinstance(options, StudentOptions):
        raise TypeError(f"{part.name}: Options is not a StudentOptions")
    return options


def build_network(part: NamedOptions, text: TextShape, pretrained: str = "") -> nn.Module:
    """Return a student's network (a `StudentNetwork`), with random first weights.

    Args:
        part: which one, with its options.
        text: of the vocabulary that it is trained with.
        pretrained: local weights file of its backbone; empty: random. The weights of a trained
            student are loaded into the result, see `shared/student_file.py`.

    Raises:
        ConfigError: an unknown student, an unknown option or a wrong value.
        WeightsError: the file does not fit the backbone.
    """
    return plugins.load_plugin(PACKAGE, part.name).build_network(
        check_student(part), text, pretrained
    )


def build_task(part: NamedOptions, seed: int) -> StudentTask:
    """Return a student's training.

    Raises:
        ConfigError: an unknown student, an unknown option or a wrong value.
    """
    return plugins.load_plugin(PACKAGE, part.name).build_task(check_student(part), seed)
