"""Read and decode the next images in threads while the current batch is computed.

The queue is bounded by count, so a worker's memory does not depend on the size of its shard.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.annotate.image_errors import stopwatch, value_or_error
from pipeline.annotate.rows import Failed, Frame, StageSeconds
from pipeline.collection.decode import Decoded, decode
from pipeline.storage.folder import read_uri
from schemas.config import ImageConfig
from schemas.errors import ImageError
from schemas.records import ImageRef

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Loaded:
    """One image in memory; `pixels` is uint8 (3, h, w), possibly reduced by the decoder."""

    ref: ImageRef
    cost: StageSeconds
    frame: Frame
    pixels: torch.Tensor


def fetch(ref: ImageRef, config: ImageConfig, side_px: int) -> Loaded | Failed:
    """Read and decode one image; its failures are returned, not raised."""
    with stopwatch() as read:
        data = value_or_error(lambda: read_uri(ref.uri, config.max_bytes, ref.size_bytes))
    if isinstance(data, ImageError):
        return Failed(ref, StageSeconds(read.seconds), data)
    with stopwatch() as decoding:
        image = value_or_error(lambda: _unpack(decode(data, config, side_px)))
    cost = StageSeconds(read.seconds, decoding.seconds)
    if isinstance(image, ImageError):
        return Failed(ref, cost, image)
    return Loaded(ref, cost, *image)


def ahead(
    work: Callable[[In], Out], items: Iterable[In], threads: int, depth: int
) -> Iterator[Out]:
    """Yield `work(item)` in the items' order, computed by threads, at most `depth` items ahead."""
    pending: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                if len(pending) >= depth:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, item))
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _unpack(decoded: Decoded) -> tuple[Frame, torch.Tensor]:
    frame = Frame((decoded.height, decoded.width), decoded.exif_orientation)
    return frame, torch.from_numpy(np.ascontiguousarray(decoded.rgb.transpose(2, 0, 1)))
