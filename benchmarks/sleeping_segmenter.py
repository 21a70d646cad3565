"""A segmenter that sleeps where a GPU would compute, and returns realistic score maps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.score_maps import smooth_cosines
from ovseg_core.segmenter import ScoreMaps, TextMatrix
from pipeline.annotate.build import Built
from schemas.config import JobConfig
from schemas.vocabulary import Vocabulary

IMAGES_PER_S = 2000.0
"""Of a GPU with a ViT-B/16."""
DECODE_SIDE_PX = 480
"""Most window methods resize the short side to 336 to 560 pixels."""
NUM_MAPS = 8
LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Seen:
    """Stands for features: how many images there were."""

    num_images: int

    def __len__(self) -> int:
        return self.num_images

    def image(self, index: int) -> "Seen":
        """Return one image."""
        return Seen(1)


class SleepingSegmenter:
    """Answers at a set rate, with a few score maps in turn.

    Args:
        num_classes: of the maps, background included.
        images_per_s: the rate.
    """

    decode_side_px = DECODE_SIDE_PX

    def __init__(self, num_classes: int, images_per_s: float) -> None:
        self._num_classes = num_classes
        self._images_per_s = images_per_s
        self._maps = [smooth_cosines(num_classes, seed) for seed in range(NUM_MAPS)]
        self._num_done = 0

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        """Return rows that nobody reads."""
        count = self._num_classes
        return TextMatrix(torch.ones(count, 1), torch.arange(count), count)

    def encode(self, images: Sequence[object]) -> Seen:
        """Take the time of a batch."""
        time.sleep(len(images) / self._images_per_s)
        return Seen(len(images))

    def score(self, features: Seen, text: TextMatrix) -> ScoreMaps:
        """Return the next maps."""
        first, self._num_done = self._num_done, self._num_done + len(features)
        return ScoreMaps(
            levels=tuple((self._maps[place % NUM_MAPS],) for place in range(first, self._num_done)),
            canvas_hw=None,
            objectness=None,
            fusion="none",
            domain="cosine",
            logit_scale=LOGIT_SCALE,
        )


def build_sleeping(config: JobConfig, device: str) -> Built:
    """Build it for a job's vocabulary, in place of the job's method."""
    segmenter = SleepingSegmenter(1 + len(config.vocabulary.names), IMAGES_PER_S)
    return Built(segmenter, {})
