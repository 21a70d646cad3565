"""One shard, from image references to rows: the whole job without Ray and without a run folder.

Threads read and decode the next images, the caller's thread scores a batch, and further threads
turn the batch before it into masks. How many images are in memory says `image_feed`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from ovseg_core.backbones.clip import Clip
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import ImageMasks, image_rows
from ovseg_core.images.batch import Image, ImageBatch, to_tensor
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.prediction.stored_features import pack_features
from ovseg_core.segmenter import (
    Features,
    ScoreMaps,
    Segmenter,
    TextMatrix,
    check_finite,
    encode_images,
)
from pipeline.annotate.image_errors import value_or_error
from pipeline.annotate.image_feed import Batch, ImageFeed
from pipeline.annotate.observer import Observer
from pipeline.annotate.prefetch import LoadedImage, load_image, map_ahead
from pipeline.annotate.rows import (
    FailedImage,
    StageSeconds,
    annotated_rows,
    failed_rows,
    join_rows,
    tally_of,
)
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.collection.collect import own_places
from pipeline.collection.read_ahead import ReadAhead
from schemas.config import JobConfig
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef, Shard, ShardRows, ShardTally

logger = logging.getLogger(__name__)

NO_PIXELS = np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class ScoredImage:
    """Score maps of one image (`index` of its batch), and its vector; `image` has no pixels now."""

    ref: ImageRef
    seconds: StageSeconds
    image: DecodedImage
    maps: ScoreMaps
    index: int
    size_bytes: int | None = None
    """Of the file as it was read; None: it was not."""
    vector: tuple[float, ...] | None = None
    features: Features | None = None
    """Of the image alone; None: they are not kept."""


def _nothing() -> None:
    """Do nothing, where nobody counts images."""


class RowMaker:
    """Scores features with one segmenter and one vocabulary, and turns the scores into rows.

    Args:
        segmenter: the method, built.
        text: the job's vocabulary, embedded by the same segmenter.
        config: the job.

    Attributes:
        on_image: called in the thread of `annotate` when the rows of an image are made.
        observer: is told of each file, batch and image.
    """

    def __init__(self, segmenter: Segmenter[Any], text: TextMatrix, config: JobConfig) -> None:
        self._segmenter = segmenter
        self._text = text
        self._config = config
        self.on_image: Callable[[], None] = _nothing
        self.observer = Observer()
        device = text.rows_QD.device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def _maps(self, features: Any) -> ScoreMaps:
        """Return the score maps of features, once they are there: times are true.

        Raises:
            ImageError: `not_finite`, see `check_finite`.
        """
        maps = self._segmenter.score(features, self._text)
        check_finite((maps.levels, maps.objectness), "scores")
        if self._stream is not None:
            torch.cuda.current_stream().synchronize()  # another stream reads next
        return maps

    def _joined(self, images: Iterable[ScoredImage | FailedImage], waited: Stopwatch) -> ShardRows:
        """Return the rows of images, in their order.

        Args:
            images: they are scored in the caller's thread, as they are asked for.
            waited: counts the seconds in which the caller waits for masks.
        """
        run = self._config.run
        made = map_ahead(self._rows, images, run.threads_per_worker, run.batch_size, waited)
        return join_rows(self._counted(made))

    def _counted(self, made: Iterator[ShardRows]) -> Iterator[ShardRows]:
        for rows in made:
            yield rows
            self.observer.image_done(rows)
            self.on_image()

    def _rows(self, image: ScoredImage | FailedImage) -> ShardRows:
        """Return the rows of one image, its masks as RLE."""
        if isinstance(image, FailedImage):
            return failed_rows(image)
        with Stopwatch() as watch, torch.inference_mode(), torch.cuda.stream(self._stream):
            masks = value_or_error(self._masks, image)
        seconds = replace(image.seconds, rle_s=watch.seconds)
        if isinstance(masks, ImageError):
            return failed_rows(FailedImage(image.ref, seconds, masks))
        precision = self._config.run.keep_features
        packed = None
        if precision != "none" and image.features is not None:
            packed = pack_features(image.features, precision)
        rows = annotated_rows(image.ref, image.image, masks, seconds, image.vector, packed)
        if image.size_bytes is None or image.ref.size_bytes in (None, image.size_bytes):
            return rows
        return rows.model_copy(update={"other_sizes": {image.ref.image_id: image.size_bytes}})

    def _masks(self, image: ScoredImage) -> ImageMasks:
        config, size_hw = self._config, (image.image.height, image.image.width)
        return image_rows(
            decide_one(image.maps, image.index, size_hw),
            size_hw,
            config.vocabulary.names,
            config.masks,
            config.calibration,
            image_id=image.ref.image_id,
        )


class Annotator(RowMaker):
    """Annotates shards with one segmenter and one vocabulary.

    Args:
        segmenter: the method, built.
        text: the job's vocabulary, embedded by the same segmenter.
        config: the job.
        clip: gives each image its vector; None: they have none.
    """

    def __init__(
        self,
        segmenter: Segmenter[Any],
        text: TextMatrix,
        config: JobConfig,
        clip: Clip | None = None,
    ) -> None:
        super().__init__(segmenter, text, config)
        self._clip = clip
        self._ahead = ReadAhead(own_places(config))
        self._device_batch = config.run.batch_size

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> tuple[ShardRows, ShardTally]:
        """Return the rows of a shard and their tally.

        Rows are in manifest order; an image that failed has a row with its error code.

        Args:
            shard: what to annotate.
            then: the first images of the shard that probably comes next, in its order: they are
                read and decoded while the last masks of this one are made.
        """
        images, masks = Stopwatch(), Stopwatch()
        self._ahead.expect([*shard.refs, *then])
        with Stopwatch() as wall:
            scored = self._in_order(self._feed.batches(shard.refs, then, images))
            rows = self._joined(scored, masks)
        times = {
            "wall": wall.seconds,
            "wait_images": images.seconds,
            "wait_masks": masks.seconds,
        }
        return rows, tally_of(rows, times)

    def close(self) -> None:
        """End the threads that read images."""
        self._feed.close()

    @cached_property
    def _feed(self) -> ImageFeed:
        config = self._config
        load = partial(
            load_image,
            config=config.image,
            ahead=self._ahead,
            side_px=self._segmenter.decode_side_px,
            observer=self.observer,
        )
        return ImageFeed(load, config.run.prefetch_threads, config.run.batch_size)

    def _in_order(self, batches: Iterable[Batch]) -> Iterator[ScoredImage | FailedImage]:
        """Yield images with their scores, in manifest order; those that failed pass through."""
        results: dict[int, ScoredImage | FailedImage] = {}
        number = 0
        for batch in batches:
            scored = iter(self._score([it for _, it in batch if isinstance(it, LoadedImage)]))
            for place, it in batch:
                results[place] = it if isinstance(it, FailedImage) else next(scored)
            del batch, it  # frees their pixels before the next batch is collected
            while number in results:
                yield results.pop(number)
                number += 1

    @torch.inference_mode()
    def _score(self, images: Sequence[LoadedImage]) -> list[ScoredImage | FailedImage]:
        """Score images, as many at once as the device can hold.

        A batch that runs out of memory is halved, for the rest of this worker's life. The images
        of a batch that fails otherwise are tried one by one, to find the one that is the cause.
        """
        results: list[ScoredImage | FailedImage] = []
        keeps = self._config.run.keep_features != "none"
        parts = [images] if images else []  # the next one is the last
        while parts:
            part = parts.pop()
            if len(part) > self._device_batch:
                parts += [part[self._device_batch :], part[: self._device_batch]]
                continue
            self.observer.batch_scored(len(part), self._feed.num_loaded)
            with Stopwatch() as watch:
                scored = value_or_error(self._scored, part)
            share_s = watch.seconds / len(part)
            if not isinstance(scored, ImageError):
                maps, vectors, features = scored
                results += [
                    ScoredImage(
                        ref=one.ref,
                        seconds=replace(one.seconds, segment_s=share_s),
                        image=replace(one.image, rgb=NO_PIXELS),
                        maps=maps,
                        index=index,
                        vector=vectors[index],
                        features=features.image(index) if keeps else None,
                        size_bytes=one.size_bytes,
                    )
                    for index, one in enumerate(part)
                ]
            elif len(part) == 1:
                seconds = replace(part[0].seconds, segment_s=share_s)
                results.append(FailedImage(part[0].ref, seconds, scored))
            elif scored.code is ErrorCode.OUT_OF_MEMORY:
                self._device_batch = max(1, len(part) // 2)
                logger.warning(
                    "out of memory with a batch of %d images; from now on %d",
                    len(part),
                    self._device_batch,
                )
                if self._stream is not None:
                    torch.cuda.empty_cache()
                parts.append(part)
            else:
                logger.warning(
                    "a batch of %d images failed, trying them one by one: %s",
                    len(part),
                    scored.message,
                )
                parts += [[image] for image in reversed(part)]
        return results

    def _scored(
        self, images: Sequence[LoadedImage]
    ) -> tuple[ScoreMaps, Sequence[tuple[float, ...] | None], Features]:
        """Return the score maps of a batch, the vector of each image, and the features."""
        pixels = tuple(to_tensor(image.image.rgb) for image in images)
        batch = ImageBatch(pixels, tuple(image.ref.path for image in images))
        features = encode_images(self._segmenter, batch)
        vectors = [None] * len(pixels) if self._clip is None else _vectors(self._clip, pixels)
        return self._maps(features), vectors, features


def _vectors(clip: Clip, images: Sequence[Image]) -> list[tuple[float, ...] | None]:
    """Return CLIP's unit vector of each image; None where it is not finite."""
    vectors_BD = clip.image_vectors(images).half().cpu()
    is_finite = vectors_BD.isfinite().all(dim=1).tolist()
    return [
        tuple(row) if ok else None for row, ok in zip(vectors_BD.tolist(), is_finite, strict=True)
    ]
