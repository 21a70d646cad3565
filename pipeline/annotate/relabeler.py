"""One shard of a run that gives images other words: from stored features to rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.prediction.stored_features import unpack_features
from ovseg_core.segmenter import Segmenter, TextMatrix
from pipeline.annotate.annotator import NO_PIXELS, RowMaker, ScoredImage
from pipeline.annotate.image_errors import value_or_error
from pipeline.annotate.rows import FailedImage, StageSeconds, tally_of
from pipeline.annotate.stopwatch import Stopwatch
from schemas.config import JobConfig
from schemas.errors import FeaturesError, ImageError
from schemas.records import ImageRef, ImageResult, Shard, ShardRows, ShardTally


@dataclass(frozen=True)
class StoredImage:
    """What another run has stored of an image.

    Attributes:
        ref: the image.
        result: its row there.
        vector: CLIP's, of the whole image; None: there is none.
        features: packed; empty where the image failed.
        read_s: seconds that reading took, the image's share of its shard.
    """

    ref: ImageRef
    result: ImageResult
    vector: tuple[float, ...] | None
    features: bytes
    read_s: float


class FeatureSource(Protocol):
    """Where stored features come from."""

    def read(
        self, refs: Sequence[ImageRef], then: Sequence[ImageRef] = ()
    ) -> Iterator[StoredImage]:
        """Yield what is stored of images, in their order; `then` are asked for next."""
        ...

    def close(self) -> None:
        """End what reads ahead."""
        ...


class Relabeler(RowMaker):
    """Scores stored features with one segmenter and one vocabulary.

    Args:
        segmenter: the method; its image networks are not needed.
        text: the job's vocabulary, embedded by the same segmenter.
        config: the job.
        source: of the features.
    """

    def __init__(
        self,
        segmenter: Segmenter[Any],
        text: TextMatrix,
        config: JobConfig,
        source: FeatureSource,
    ) -> None:
        super().__init__(segmenter, text, config)
        self._source = source

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> tuple[ShardRows, ShardTally]:
        """Return the rows of a shard and their tally.

        An image that failed in the other run has the same row here.

        Args:
            shard: what to annotate.
            then: the first images of the shard that probably comes next: their features are read
                while this one is scored.

        Raises:
            FeaturesError: stored features are damaged.
        """
        images, masks = Stopwatch(), Stopwatch()
        with Stopwatch() as wall:
            stored = _waited(self._source.read(shard.refs, then), images)
            rows = self._joined(map(self._scored, stored), masks)
        times = {
            "wall": wall.seconds,
            "wait_images": images.seconds,
            "wait_masks": masks.seconds,
        }
        return rows, tally_of(rows, times)

    def close(self) -> None:
        """End the thread that reads features."""
        self._source.close()

    def _scored(self, stored: StoredImage) -> ScoredImage | FailedImage:
        result = stored.result
        if result.error_code is not None:
            error = ImageError(result.error_code, result.error_message)
            return FailedImage(stored.ref, StageSeconds(stored.read_s), error)
        unpacking, scoring = Stopwatch(), Stopwatch()
        try:
            with unpacking:
                features = value_or_error(self._unpacked, stored)
            with scoring, torch.inference_mode():
                maps = (
                    features
                    if isinstance(features, ImageError)
                    else value_or_error(self._maps, features)
                )
        except FeaturesError as error:
            raise FeaturesError(f"{stored.ref.path}: {error}") from error
        seconds = StageSeconds(stored.read_s, unpacking.seconds, scoring.seconds)
        if isinstance(maps, ImageError):
            return FailedImage(stored.ref, seconds, maps)
        image = DecodedImage(
            NO_PIXELS,
            result.height,
            result.width,
            result.exif_orientation,
            result.color_profile,
            result.num_frames,
            result.value_range,
        )
        return ScoredImage(stored.ref, seconds, image, maps, index=0, vector=stored.vector)

    def _unpacked(self, stored: StoredImage) -> Any:
        """Return the features of an image.

        Raises:
            FeaturesError: they are damaged, or not of this image.
        """
        size_hw, most_px = (
            (stored.result.height, stored.result.width),
            self._config.image.max_pixels,
        )
        if not 0 < size_hw[0] * size_hw[1] <= most_px:
            raise FeaturesError(
                f"its row says {size_hw[1]} x {size_hw[0]} pixels, and image.max_pixels is "
                f"{most_px:,}: the run was changed by hand; annotate the image again"
            )
        return unpack_features(stored.features, self._segmenter, self._text.rows_QD.device, size_hw)


def _waited(images: Iterator[StoredImage], waited: Stopwatch) -> Iterator[StoredImage]:
    """Yield the images; count the seconds in which the caller waits for one."""
    while True:
        with waited:
            image = next(images, None)
        if image is None:
            return
        yield image
