"""One shard of a run that gives images other words: from stored features to rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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


class Relabeler(RowMaker):
    """Scores stored features with one segmenter and one vocabulary.

    Args:
        segmenter: the method; its image networks are not needed.
        text: the job's vocabulary, embedded by the same segmenter.
        config: the job.
        read: yields what is stored of images, in their order.
    """

    def __init__(
        self,
        segmenter: Segmenter[Any],
        text: TextMatrix,
        config: JobConfig,
        read: Callable[[Sequence[ImageRef]], Iterator[StoredImage]],
    ) -> None:
        super().__init__(segmenter, text, config)
        self._read = read

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> tuple[ShardRows, ShardTally]:
        """Return the rows of a shard and their tally.

        An image that failed in the other run has the same row here.

        Args:
            shard: what to annotate.
            then: not needed.

        Raises:
            FeaturesError: stored features are damaged.
        """
        del then
        masks = Stopwatch()
        with Stopwatch() as wall:
            rows = self._joined(map(self._scored, self._read(shard.refs)), masks)
        return rows, tally_of(rows, {"wall": wall.seconds, "wait_masks": masks.seconds})

    def close(self) -> None:
        """End nothing: no thread goes on between two shards."""

    def _scored(self, stored: StoredImage) -> ScoredImage | FailedImage:
        result = stored.result
        if result.error_code is not None:
            error = ImageError(result.error_code, result.error_message)
            return FailedImage(stored.ref, StageSeconds(stored.read_s), error)
        with Stopwatch() as unpacking:
            features = self._unpacked(stored)
        with Stopwatch() as scoring, torch.inference_mode():
            maps = value_or_error(self._maps, features)
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
        try:
            device = self._text.rows_QD.device
            return unpack_features(stored.features, self._segmenter, device)
        except FeaturesError as error:
            raise FeaturesError(f"{stored.ref.path}: {error}") from error
