"""A real segmenter without weights: it sees colours. Quick to start, exact, and naughty on demand.

Label k of the vocabulary is a colour by its name; the score of a pixel is how near it is.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg_core.segmenter import Image, ImageBatch, ScoreMaps, TextMatrix
from pipeline.build import Built
from schemas.config import JobConfig
from schemas.vocabulary import Vocabulary

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
BACKGROUND = (128, 128, 128)


@dataclass(frozen=True)
class ColourFeatures:
    images: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ColourSegmenter:
    """Softmax over the distance to each colour, on a grid of 4 px."""

    mischief: "Mischief"
    decode_side_px: int = 0

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        colours = [BACKGROUND, *(COLOURS[name] for name in vocabulary.names)]
        rows = torch.tensor(colours, dtype=torch.float32) / 255
        return TextMatrix(rows, torch.arange(len(colours)), len(colours))

    def encode(self, images: Sequence[Image]) -> ColourFeatures:
        self.mischief.before(images)
        pooled = (
            torch.nn.functional.avg_pool2d(image[None].float() / 255, 4, ceil_mode=True)[0]
            for image in images
        )
        return ColourFeatures(tuple(pooled))

    def score(self, features: ColourFeatures, text: TextMatrix) -> ScoreMaps:
        levels = []
        for image_3hw in features.images:
            distance = (image_3hw[None] - text.rows_QD[:, :, None, None]).square().sum(1)
            levels.append(((-8 * distance).softmax(0),))
        return ScoreMaps(tuple(levels), None, None, "none", "prob", 1.0)


@dataclass(frozen=True)
class Mischief:
    """What goes wrong, by a part of the image's path; `batch_limit` is a device's memory."""

    kill_on: str = ""
    fail_on: str = ""
    batch_limit: int = 0
    seconds_an_image: float = 0.0
    pid_folder: str = ""

    def before(self, images: Sequence[Image]) -> None:
        paths = images.paths if isinstance(images, ImageBatch) else ()
        time.sleep(self.seconds_an_image * len(images))
        if self.kill_on and any(self.kill_on in path for path in paths):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fail_on and any(self.fail_on in path for path in paths):
            raise RuntimeError("the colours ran")
        if self.batch_limit and len(images) > self.batch_limit:
            raise torch.OutOfMemoryError(f"no room for {len(images)} images")


@dataclass(frozen=True)
class BuildOracle:
    """The factory that a job is given in place of the default one."""

    mischief: Mischief = Mischief()

    def __call__(self, config: JobConfig, device: str) -> Built:
        return Built(ColourSegmenter(self.mischief), {"oracle": "0" * 64})
