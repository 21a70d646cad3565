"""What a student finds in images that it has not learned from, compared with their labels.

The student is read as the method `student` reads it, so that the figures are those of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.images.batch import ImageBatch
from ovseg_core.methods.student import Options, StudentSegmenter
from ovseg_core.segmenter import TextMatrix, encode_images
from ovseg_core.training.students import IGNORED
from ovseg_core.training.students.shared.student_file import Student, StudentRecord
from pipeline.annotate.prefetch import map_ahead
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.training.students.data import Example, StudentData
from schemas.config import EMBEDDED, RunConfig
from schemas.errors import ImageError

_OPTIONS = Options(weights="the one that is trained")


class Found(NamedTuple):
    """One image and what the student found in it."""

    example: Example
    label_map: NDArray[np.uint16]
    """(H, W); 0 background, k label k."""


class Validator:
    """Reads images with a student's weights of the moment.

    Args:
        network: of its own: it gets the weights that are asked for.
        text: rows of the labels.
        record: of the student.
        data: has the images.
        run: batch size and threads.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self,
        network: nn.Module,
        text: TextMatrix,
        record: StudentRecord,
        data: StudentData,
        run: RunConfig,
        device: str,
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        on_cpu = TextMatrix(text.rows_QD.cpu(), text.class_index_Q.cpu(), text.num_classes)
        student = Student(self._network, on_cpu, record)
        backbones = Backbones(record.clip, EMBEDDED, device=device)
        self._segmenter = StudentSegmenter(student, _OPTIONS, backbones)
        self._vocabulary = record.vocabulary
        self._text = self._segmenter.text_matrix(record.vocabulary)
        self._data = data
        self._run = run
        self.failed: dict[str, str] = {}

    def confusion(self, weights: Mapping[str, Tensor], numbers: Sequence[int]) -> ConfusionMatrix:
        """Return the pixels of some images by their label and by what the student finds.

        Images that cannot be read are counted in `failed`.
        """
        matrix = ConfusionMatrix(self._text.num_classes, IGNORED)
        for example, label_map in self.found(weights, numbers):
            reference = example.labels.reference
            if not self._vocabulary.background:
                reference = np.where(reference == 0, IGNORED, reference)
            matrix.add(label_map, reference)
        return matrix

    def mean_iou(self, matrix: ConfusionMatrix) -> float:
        """Return the mean over the classes that occur; NaN where nothing could be compared."""
        first = 0 if self._vocabulary.background else 1
        return matrix.mean_iou(range(first, matrix.num_classes))

    def found(self, weights: Mapping[str, Tensor], numbers: Sequence[int]) -> Iterator[Found]:
        """Yield the label maps of images in turn."""
        self._network.load_state_dict(weights)
        batch = self._run.batch_size
        read: Iterator[Any] = map_ahead(self._read, numbers, self._run.prefetch_threads, 2 * batch)
        waiting: list[Example] = []
        for item in read:
            if item is not None:
                waiting.append(item)
            if len(waiting) == batch:
                yield from self._decide(waiting)
                waiting = []
        if waiting:
            yield from self._decide(waiting)

    def _read(self, number: int) -> Example | None:
        example = self._data.example(number)
        if isinstance(example, ImageError):
            self.failed[self._data.source.path(number)] = str(example.code)
            return None
        return example

    def _decide(self, examples: Sequence[Example]) -> Iterator[Found]:
        images = tuple(example.image for example in examples)
        batch = ImageBatch(images, tuple(example.path for example in examples))
        maps = self._segmenter.score(encode_images(self._segmenter, batch), self._text)
        for place, example in enumerate(examples):
            size_hw = example.image.shape[1], example.image.shape[2]
            with torch.inference_mode():
                yield Found(example, decide_one(maps, place, size_hw).label_map)
