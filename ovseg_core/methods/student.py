"""A trained student as a method: one pass of its network, no windows, any words of its CLIP.

`ovseg train-student` makes the weights (docs/students.md). Words that the student has learned need
no CLIP, as their text rows lie in its file; other words need the CLIP that gave those rows.

Shapes: B images of one size, K classes, h w cells of the network's finest map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import file_sha256
from ovseg_core.backbones.file_formats.needed_files import NeededWeights
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.text.text_encoder import TextEncoder
from ovseg_core.images.batch import Image
from ovseg_core.images.resize.published_sizes import limited_size
from ovseg_core.segmenter import MethodCard, MethodOptions, ScoreMaps, Segmenter, TextMatrix
from ovseg_core.training.students import PAD_TO_PX, check_student, class_logits
from ovseg_core.training.students.shared.student_file import Student, StudentRecord, load_student
from schemas.base import did_you_mean
from schemas.config import ClipConfig, WeightsName
from schemas.errors import ConfigError, VocabularyError
from schemas.vocabulary import Vocabulary

CARD = MethodCard(
    title="Student",
    paper="Extract Free Dense Labels from CLIP",
    arxiv="2112.01071",
    parts="a network that learned a teacher's masks; text rows as classifier; one pass",
    clip=ClipConfig(model="ViT-B-16-quickgelu", pretrained="openai"),
    weights="your own, of `ovseg train-student`",
    licence="that of the teacher's weights, see the student's MODEL_CARD.md",
    figures="those of your own validation, in its MODEL_CARD.md; the papers' are listed by student",
)

Prompts = tuple[str, tuple[str, ...]]
"""A phrase with the templates around it."""


class Options(MethodOptions):
    """Options of the method `student`."""

    score_asks_networks: ClassVar[bool] = True

    weights: Annotated[WeightsName, Field(min_length=1)]
    """The student.safetensors that `ovseg train-student` wrote (path or URL)."""
    max_side_px: NonNegativeInt = 0
    """Images are reduced to this length of their longer side; 0: as in the student's training."""

    def needed_weights(self, backbones: Backbones, where: str) -> Iterator[NeededWeights]:
        """Yield the student, and the CLIP that other words than its own need."""
        yield NeededWeights(f"{where}.options.weights", self.weights, "file", title="student")
        yield backbones.needed_clip("only for words that the student was not trained on")


@dataclass(frozen=True)
class StudentFeatures:
    """Maps of a batch, by groups of images that have one size.

    Attributes:
        places: of each group, the places of its images in the batch.
        maps: of each group, what the network's `encode` returns.
        cells_hw: of each group, the part of the finest map that shows the image; the rest is
            padding.
    """

    places: tuple[tuple[int, ...], ...]
    maps: tuple[tuple[Tensor, ...], ...]
    cells_hw: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(map(len, self.places))

    def image(self, index: int) -> "StudentFeatures":
        """Return the features of one image, as those of a batch of one."""
        group = next(number for number, some in enumerate(self.places) if index in some)
        place = self.places[group].index(index)
        maps = tuple(one[place : place + 1] for one in self.maps[group])
        return StudentFeatures(((0,),), (maps,), (self.cells_hw[group],))


class StudentSegmenter(Segmenter[StudentFeatures]):
    """A student with its words.

    Args:
        student: loaded.
        options: of the method.
        backbones: has the CLIP for other words, and the device.
    """

    def __init__(self, student: Student, options: Options, backbones: Backbones) -> None:
        self._record = student.record
        self._compute = backbones.compute
        self._network: Any = backbones.compute.placed(student.network)
        self._encode_maps = backbones.compute.compiled(self._network.encode)
        self._rows = _rows_by_prompts(student)
        self._backbones = backbones
        learned_px = check_student(student.record.student).max_side_px
        self._max_side_px = options.max_side_px or learned_px
        self._encoder: TextEncoder | None = None
        self._known: dict[str, TextMatrix] = {}
        self.decode_side_px = self._max_side_px

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return the vocabulary's rows, those in the student's file where it has all of them.

        Raises:
            VocabularyError: a student without a text head knows only the labels of its training.
            ConfigError: new words, and the job's CLIP is not the one of the training.
        """
        prompts = _prompts(vocabulary, self._record)
        unknown = [it for it, _ in prompts if it not in self._rows]
        if not self._network.is_open:
            self._check_closed(vocabulary, unknown)
        if unknown:
            if self._encoder is None:
                self._encoder = self._text_encoder(unknown[0][0])
            return self._encoder.matrix(vocabulary)
        key = vocabulary.content_hash
        if key not in self._known:
            device = self._backbones.device
            rows_QD = torch.stack([self._rows[it] for it, _ in prompts]).to(device)
            index_Q = torch.tensor([number for _, number in prompts], device=device)
            self._known = {key: TextMatrix(rows_QD, index_Q, 1 + len(vocabulary.labels))}
        return self._known[key]

    def encode(self, images: Sequence[Image]) -> StudentFeatures:
        """Return the network's maps of a batch."""
        stride = self._network.stride_px
        groups: dict[tuple[int, int], list[int]] = {}
        for place, image in enumerate(images):
            groups.setdefault((image.shape[1], image.shape[2]), []).append(place)
        maps, cells = [], []
        for size_hw, places in groups.items():
            height, width = limited_size(size_hw, self._max_side_px)
            cells_hw = max(round(height / stride), 1), max(round(width / stride), 1)
            pixels_B3HW = torch.stack([images[place] for place in places])
            pixels_B3HW = pixels_B3HW.to(self._backbones.device).float()
            read_hw = cells_hw[0] * stride, cells_hw[1] * stride
            if read_hw != size_hw:
                pixels_B3HW = F.interpolate(
                    pixels_B3HW, size=read_hw, mode="bilinear", align_corners=False, antialias=True
                )
            below, right = (-side % PAD_TO_PX for side in read_hw)
            padded = F.pad(pixels_B3HW, (0, right, 0, below), mode="replicate")
            with self._compute.forward():
                maps.append(tuple(one.float() for one in self._encode_maps(padded)))
            cells.append(cells_hw)
        return StudentFeatures(tuple(map(tuple, groups.values())), tuple(maps), tuple(cells))

    @torch.inference_mode()
    def score(self, features: StudentFeatures, text: TextMatrix) -> ScoreMaps:
        """Return the logits of the classes: the best phrase of each.

        They are enlarged before the softmax, as the loss does it; at the edges of thin objects that
        decides. A background without phrases has the probability 0.
        """
        levels: dict[int, tuple[Tensor, ...]] = {}
        for places, maps, (height, width) in zip(
            features.places, features.maps, features.cells_hw, strict=True
        ):
            for number, place in enumerate(places):
                of_image = tuple(one[number : number + 1] for one in maps)
                logits_1Qhw = self._network.classify(of_image, text.rows_QD)[:, :, :height, :width]
                levels[place] = (class_logits(logits_1Qhw, text)[0],)
        return ScoreMaps(
            levels=tuple(levels[place] for place in range(len(features))),
            canvas_hw=None,
            objectness=None,
            fusion="none",
            domain="score",
            logit_scale=1.0,
        )

    def _check_closed(self, vocabulary: Vocabulary, unknown: list[Prompts]) -> None:
        """Check that a student without a text head is asked for its own labels, in their order."""
        own = self._record.vocabulary
        new = [name for name in vocabulary.names if name not in own.names]
        if new:
            raise VocabularyError(
                f"this student has no output for {new[0]!r}, and no text head that could take new "
                f"words. {did_you_mean(new[0], own.names)}"
            )
        if unknown or vocabulary.content_hash != own.content_hash:
            raise VocabularyError(
                "this student has no text head: it needs the vocabulary of its training as it was, "
                f"with its synonyms and background phrases: {', '.join(own.names)}"
            )

    def _text_encoder(self, phrase: str) -> TextEncoder:
        """Return the text encoder of the training's CLIP.

        Raises:
            ConfigError: the job's CLIP is another one.
        """
        record, backbones = self._record, self._backbones
        theirs = record.clip
        advice = (
            f"{phrase!r} is new to this student, which needs the CLIP of its training for it: "
            f"--set clip.model={theirs.model}"
        )
        if theirs.pretrained:
            advice += f" --set clip.pretrained={theirs.pretrained}"
        if backbones.clip_config.model != theirs.model:
            raise ConfigError(f"{advice} (the job has {backbones.clip_config.model})")
        clip = backbones.clip
        sha256 = file_sha256(backbones.files()["clip"])
        if record.clip_sha256 and sha256 != record.clip_sha256:
            raise ConfigError(
                f"{advice}, with the weights whose SHA-256 begins with {record.clip_sha256[:12]} "
                f"(the job's begins with {sha256[:12]})"
            )
        return TextEncoder(clip, record.templates)


def _prompts(vocabulary: Vocabulary, record: StudentRecord) -> list[tuple[Prompts, int]]:
    """Return the phrases of a vocabulary with templates and class, in the order of the rows."""
    prompts: list[tuple[Prompts, int]] = [
        ((phrase, record.templates), 0) for phrase in vocabulary.background
    ]
    for number, label in enumerate(vocabulary.labels, start=1):
        templates = label.templates or vocabulary.templates or record.templates
        prompts += [((phrase, templates), number) for phrase in label.phrases]
    return prompts


def _rows_by_prompts(student: Student) -> dict[Prompts, Tensor]:
    prompts = (it for it, _ in _prompts(student.record.vocabulary, student.record))
    return dict(zip(prompts, student.text.rows_QD, strict=True))


def build(options: Options, backbones: Backbones) -> StudentSegmenter:
    """Return the student, loaded.

    Raises:
        WeightsError: a file that cannot be found, fetched or used.
    """
    path = backbones.locate(options.weights)
    student = load_student(path)
    backbones.note_file("student", path, options.weights)
    return StudentSegmenter(student, options, backbones)
