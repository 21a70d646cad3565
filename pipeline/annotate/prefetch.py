"""What threads do beside the one that computes: load an image, and work ahead in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from ovseg_core.images.decoding.decode import DecodedImage, decode
from pipeline.annotate.image_errors import value_or_error
from pipeline.annotate.observer import Observer
from pipeline.annotate.rows import FailedImage, StageSeconds
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.collection.read_ahead import ReadAhead
from pipeline.storage.waiting import StorageThreads
from schemas.config import ImageConfig
from schemas.errors import ImageError
from schemas.records import ImageRef

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class LoadedImage:
    """One image in memory, perhaps reduced by the decoder, and the seconds that it took so far.

    Its file had `size_bytes`, which may not be what the listing has.
    """

    ref: ImageRef
    seconds: StageSeconds
    image: DecodedImage
    size_bytes: int


def load_image(
    ref: ImageRef, config: ImageConfig, ahead: ReadAhead, side_px: int, observer: Observer
) -> LoadedImage | FailedImage:
    """Read and decode one image; its failures are returned, not raised.

    The same as `image_source.read_image`, with the seconds of each stage.
    """
    with Stopwatch() as read:
        data = value_or_error(ahead.read_bytes, ref, config.max_bytes)
    if isinstance(data, ImageError):
        return FailedImage(ref, StageSeconds(read.seconds), data)
    observer.image_read(len(data))
    with Stopwatch() as decoding:
        image = value_or_error(decode, data, config, side_px)
    seconds = StageSeconds(read.seconds, decoding.seconds)
    if isinstance(image, ImageError):
        return FailedImage(ref, seconds, image)
    return LoadedImage(ref, seconds, image, len(data))


def map_ahead(
    work: Callable[[In], Out],
    items: Iterable[In],
    threads: int,
    depth: int,
    waited: Stopwatch | None = None,
) -> Iterator[Out]:
    """Yield `work(item)` in the items' order, computed by threads, at most `depth` items ahead.

    Args:
        work: what the threads do.
        items: in order.
        threads: their number.
        depth: most items whose results have not been yielded.
        waited: counts the seconds in which the caller waits for a result.
    """
    waited = waited or Stopwatch()

    def first_result() -> Out:
        with waited:
            return pending.popleft().result()

    pending: deque[Future[Out]] = deque()
    with StorageThreads(threads, "prefetch") as pool:
        try:
            for item in items:
                if len(pending) >= depth:
                    yield first_result()
                pending.append(pool.submit(work, item))
            while pending:
                yield first_result()
        finally:
            for future in pending:
                future.cancel()
