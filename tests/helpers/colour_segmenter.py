"""A real segmenter without weights: it sees colours. Quick to start, exact, and faulty on demand.

Label k of the vocabulary is a colour by its name; the score of a pixel is how near it is.
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovseg_core.images.batch import ImageBatch
from ovseg_core.segmenter import ScoreMaps, TextMatrix
from pipeline.annotate.build import Built
from pipeline.annotate.image_errors import BrokenDeviceError
from pipeline.run.folder import RunFolder
from schemas.config import JobConfig
from schemas.vocabulary import Vocabulary

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
BACKGROUND = (128, 128, 128)


@dataclass(frozen=True)
class ColourFeatures:
    images: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> "ColourFeatures":
        return ColourFeatures(self.images[index : index + 1])


@dataclass(frozen=True)
class ColourSegmenter:
    """Softmax over the distance to each colour, on a grid of 4 px."""

    faults: "SegmenterFaults"
    decode_side_px: int = 0

    def text_matrix(self, vocabulary: Vocabulary) -> TextMatrix:
        colours = [BACKGROUND, *(COLOURS[name] for name in vocabulary.names)]
        rows = torch.tensor(colours, dtype=torch.float32) / 255
        return TextMatrix(rows, torch.arange(len(colours)), len(colours))

    def encode(self, images: Sequence[Tensor]) -> ColourFeatures:
        self.faults.apply(images)
        pooled = (
            torch.nn.functional.avg_pool2d(image[None].float() / 255, 4, ceil_mode=True)[0]
            for image in images
        )
        return ColourFeatures(self.faults.overflowed(images, tuple(pooled)))

    def score(self, features: ColourFeatures, text: TextMatrix) -> ScoreMaps:
        levels = []
        for image_3hw in features.images:
            distance = (image_3hw[None] - text.rows_QD[:, :, None, None]).square().sum(1)
            levels.append(((-8 * distance).softmax(0),))
        return ScoreMaps(tuple(levels), None, None, "none", "prob", 1.0)


@dataclass(frozen=True)
class SegmenterFaults:
    """What fails, by a part of the image's path; `batch_limit` stands for the GPU's memory."""

    kill_on: str = ""
    fail_on: str = ""
    break_on: str = ""
    interrupt_on: str = ""
    out_of_memory_on: str = ""
    overflow_on: str = ""
    batch_limit: int = 0
    seconds_per_image: float = 0.0

    def apply(self, images: Sequence[Tensor]) -> None:
        paths = images.paths if isinstance(images, ImageBatch) else ()

        def met(part: str) -> bool:
            return bool(part) and any(part in path for path in paths)

        time.sleep(self.seconds_per_image * len(images))
        if met(self.kill_on):
            os.kill(os.getpid(), signal.SIGKILL)
        if met(self.fail_on):
            raise RuntimeError("the colours ran")
        if met(self.break_on):
            raise BrokenDeviceError("the GPU is gone")
        if met(self.interrupt_on):
            raise KeyboardInterrupt
        if met(self.out_of_memory_on) or 0 < self.batch_limit < len(images):
            raise torch.OutOfMemoryError(f"no room for {len(images)} images")

    def overflowed(
        self, images: Sequence[Tensor], features: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Features as they are; infinite in one place where the weights overflow."""
        if not self.overflow_on or not isinstance(images, ImageBatch):
            return features
        for path, feature in zip(images.paths, features, strict=True):
            if self.overflow_on in path:
                feature[0, 1, 2] = float("inf")
        return features


@dataclass(frozen=True)
class BuildColourSegmenter:
    """Builds the segmenter in place of a job's default."""

    faults: SegmenterFaults = SegmenterFaults()

    def __call__(self, config: JobConfig, device: str) -> Built:
        return Built(ColourSegmenter(self.faults), {"colours": "0" * 64})


def paint(path: Path, seed: int) -> None:
    """Write a PNG of two coloured boxes on grey; sizes vary and are never square."""
    random = np.random.default_rng(seed)
    height, width = 40 + 8 * (seed % 3), 64 + 8 * (seed % 2)
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    for colour in random.choice(list(COLOURS), 2, replace=False):
        top, left = random.integers(0, height - 16), random.integers(0, width - 16)
        image[top : top + 16, left : left + 16] = COLOURS[str(colour)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def paint_collection(folder: Path, num_images: int, names: dict[int, str] | None = None) -> Path:
    """Write images `000.png`, `001.png`, ...; `names` gives some of them another stem."""
    for index in range(num_images):
        stem = (names or {}).get(index, "")
        paint(folder / f"{index:03d}{stem}.png", index)
    return folder


def colour_config(images: Path, out: Path | str, **changes: object) -> JobConfig:
    """Return a small job for the colour segmenter; `changes` are fields, `run` merged."""
    run = {"local": True, "device": "cpu", "batch_size": 2, "prefetch_threads": 2}
    run |= changes.pop("run", {})
    fields = {"labels": list(COLOURS), "shard_size": 4, **changes}
    return JobConfig(images=str(images), out=str(out), run=run, **fields)


def table_rows(out: Path | str) -> dict[str, list[dict]]:
    """Return every committed row of a run, without the columns that hold seconds."""
    run = RunFolder.open(str(out))
    return {
        name: [
            {key: value for key, value in row.items() if not key.endswith("_s")}
            for batch in run.read_table(name)
            for row in batch.to_pylist()
        ]
        for name in ("images", "scores", "annotations")
    }
