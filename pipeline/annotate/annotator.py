"""One shard, from image URIs to rows: the whole job without Ray.

Threads fetch and decode the images to come, the caller's thread computes a batch, and further
threads turn the batch before it into masks. At most three batches of images are in memory.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch

from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import ImageMasks, image_rows
from ovseg_core.images.batch import ImageBatch
from ovseg_core.segmenter import ScoreMaps, Segmenter, TextMatrix
from pipeline.annotate.image_errors import stopwatch, value_or_error
from pipeline.annotate.prefetch import LoadedImage, ahead, load, to_tensor
from pipeline.annotate.rows import (
    Failed,
    StageSeconds,
    failed_rows,
    found_rows,
    join_rows,
    tally_of,
)
from schemas.config import JobConfig
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef, Shard, ShardRows, ShardTally

log = logging.getLogger(__name__)

BATCHES_AHEAD = 2
"""Batches read and decoded while one is computed: three in memory at most."""


@dataclass(frozen=True)
class ScoredImage:
    """Score maps of one image (`index` of its batch); its pixels are no longer needed."""

    ref: ImageRef
    cost: StageSeconds
    size_hw: tuple[int, int]
    exif_orientation: int
    maps: ScoreMaps
    index: int


class Annotator:
    """A segmenter with its text matrix, for any number of shards.

    Args:
        segmenter: the method, built.
        text: the job's vocabulary, embedded by the same segmenter.
        config: the job.
    """

    def __init__(self, segmenter: Segmenter, text: TextMatrix, config: JobConfig) -> None:
        self._segmenter = segmenter
        self._text = text
        self._config = config
        self._device_batch = config.run.batch_size
        device = text.rows_QD.device
        on_gpu = device.type == "cuda"
        self._encode_stream = torch.cuda.Stream(device) if on_gpu else None
        self._encode_threads = config.run.threads_per_worker if on_gpu else 1  # the CPU is at work

    def annotate(self, shard: Shard) -> tuple[ShardRows, ShardTally]:
        """Return rows in manifest order and their tally; a failed image has a row too."""
        run = self._config.run
        work = partial(load, config=self._config.image, side_px=self._segmenter.decode_side_px)
        with stopwatch() as watch:
            images = ahead(work, shard.refs, run.prefetch_threads, BATCHES_AHEAD * run.batch_size)
            found = self._segment_all(images)
            rows = join_rows(ahead(self._encode, found, self._encode_threads, depth=run.batch_size))
        return rows, tally_of(rows, watch.seconds)

    def _segment_all(
        self, images: Iterator[LoadedImage | Failed]
    ) -> Iterator[ScoredImage | Failed]:
        while batch := list(islice(images, self._config.run.batch_size)):
            with torch.inference_mode():
                segmented = self._segment(batch)
            del batch  # frees its pixels before the next batch is collected
            yield from segmented

    def _segment(self, batch: Sequence[LoadedImage | Failed]) -> list[ScoredImage | Failed]:
        """Compute a batch; images that were not read or decoded pass through in their places."""
        computed = iter(
            self._in_parts([image for image in batch if isinstance(image, LoadedImage)])
        )
        return [image if isinstance(image, Failed) else next(computed) for image in batch]

    def _in_parts(self, images: Sequence[LoadedImage]) -> list[ScoredImage | Failed]:
        """Compute images in parts of the size that fits the device, which may shrink on the way."""
        found: list[ScoredImage | Failed] = []
        while len(found) < len(images):
            found += self._compute(images[len(found) : len(found) + self._device_batch])
        return found

    def _compute(self, images: Sequence[LoadedImage]) -> list[ScoredImage | Failed]:
        """Compute images at once; if that fails, in smaller parts, to learn which is to blame."""
        with stopwatch() as watch:
            maps = value_or_error(lambda: self._forward(images))
        share_s = watch.seconds / len(images)
        if not isinstance(maps, ImageError):
            return [
                ScoredImage(
                    one.ref,
                    replace(one.cost, segment_s=share_s),
                    (one.image.height, one.image.width),
                    one.image.exif_orientation,
                    maps,
                    index,
                )
                for index, one in enumerate(images)
            ]
        if len(images) == 1:
            return [Failed(images[0].ref, replace(images[0].cost, segment_s=share_s), maps)]
        if maps.code is ErrorCode.OUT_OF_MEMORY:
            self._halve_batch(len(images))
            return self._in_parts(images)
        log.warning("a batch of %d failed, now one by one: %s", len(images), maps.message)
        return [found for image in images for found in self._compute([image])]

    def _forward(self, images: Sequence[LoadedImage]) -> ScoreMaps:
        pixels, paths = zip(*((to_tensor(one.image), one.ref.path) for one in images), strict=True)
        maps = self._segmenter.score(self._segmenter.encode(ImageBatch(pixels, paths)), self._text)
        if self._encode_stream is not None:
            torch.cuda.current_stream().synchronize()  # true times, and another stream reads next
        return maps

    def _halve_batch(self, failed: int) -> None:
        """Use smaller batches for the rest of this worker's life."""
        self._device_batch = max(1, failed // 2)
        log.warning("out of memory with a batch of %d; now %d", failed, self._device_batch)
        if self._encode_stream is not None:
            torch.cuda.empty_cache()

    def _encode(self, found: ScoredImage | Failed) -> ShardRows:
        if isinstance(found, Failed):
            return failed_rows(found)
        with stopwatch() as watch, torch.inference_mode(), torch.cuda.stream(self._encode_stream):
            masks = value_or_error(lambda: self._masks(found))
        cost = replace(found.cost, rle_s=watch.seconds)
        if isinstance(masks, ImageError):
            return failed_rows(Failed(found.ref, cost, masks))
        return found_rows(found.ref, found.size_hw, found.exif_orientation, masks, cost)

    def _masks(self, found: ScoredImage) -> ImageMasks:
        decision = decide_one(found.maps, found.index, found.size_hw)
        config = self._config
        return image_rows(
            decision,
            found.size_hw,
            config.vocabulary.names,
            config.masks,
            config.calibration,
            image_id=found.ref.image_id,
        )
