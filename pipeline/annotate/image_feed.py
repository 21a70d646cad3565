"""Batches of loaded images: read and decoded by threads, while the batch before is computed.

A network computes images of one shape in one pass, so these are put into one batch, as far as a
look-ahead reaches. What is in memory is bounded by count and by bytes: it depends neither on the
size of a shard nor on that of its images.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from pipeline.annotate.prefetch import LoadedImage
from pipeline.annotate.rows import FailedImage
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.storage.waiting import StorageThreads
from schemas.records import ImageRef

Loaded = LoadedImage | FailedImage
Batch = list[tuple[int, Loaded]]
"""Images with their places in the shard; those of one shape side by side."""

BATCHES_AHEAD = 2
"""Batches read and decoded while one is computed: three in memory at most."""
MAX_BYTES = 256 << 20
"""Pixels that are loaded ahead, and pixels of one batch; a single image may have more."""


class ImageFeed:
    """Loads the images of one shard after another.

    Which images make a batch is a function of their shapes alone, not of what the threads have done
    in time, so that a run can be repeated.

    Args:
        load: reads and decodes one image; its failures are returned.
        threads: that do so.
        batch_size: most images in a batch.
        max_bytes: see `MAX_BYTES`.
    """

    def __init__(
        self,
        load: Callable[[ImageRef], Loaded],
        threads: int,
        batch_size: int,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._load = load
        self._threads = threads
        self._batch_size = batch_size
        self._max_bytes = max_bytes
        self._ahead = BATCHES_AHEAD * batch_size
        self._pool = StorageThreads(threads, "prefetch")
        self._line: Sequence[ImageRef] = ()
        self._next = 0  # place in the line of the image that is loaded next
        self._loads: dict[int, Future[Loaded]] = {}  # by place, in order
        self._largest: int | None = None  # bytes of the largest image so far

    def batches(
        self, refs: Sequence[ImageRef], then: Sequence[ImageRef], waited: Stopwatch
    ) -> Iterator[Batch]:
        """Yield all images of a shard once; the oldest that is left is in the next batch.

        Args:
            refs: of the shard.
            then: images that are probably asked for next: when all of `refs` are loaded or being
                loaded, the threads begin with them.
            waited: counts the seconds in which the caller waits for images.
        """
        self._continue_with([*refs, *then])
        try:
            while next(self._left(len(refs)), None) is not None:
                yield self._next_batch(len(refs), waited)
        except BaseException as error:
            self._end(error)
            raise
        self._line = self._line[len(refs) :]
        self._next -= len(refs)
        self._loads = {place - len(refs): load for place, load in self._loads.items()}

    @property
    def num_loaded(self) -> int:
        """Images that are loaded or being loaded, and are in no batch yet."""
        return len(self._loads)

    def close(self) -> None:
        """End the threads; what they do now is not waited for."""
        self._end(GeneratorExit())

    def _continue_with(self, line: Sequence[ImageRef]) -> None:
        """Set what is to be loaded; keep what is loaded of it already."""
        same = all(line[place : place + 1] == [self._line[place]] for place in self._loads)
        if not same:
            for load in self._loads.values():
                load.cancel()
            self._loads = {}
        self._line, self._next = line, len(self._loads)
        self._load_more()

    def _next_batch(self, num_refs: int, waited: Stopwatch) -> Batch:
        """Return the images to compute next.

        If the next ones have one shape, those; else the look-ahead is waited for.
        """
        size = self._batch_size
        shapes: dict[tuple[int, ...], list[int]] = {}
        batch: Batch = []
        num_images = num_bytes = 0
        for place in self._left(num_refs):
            is_full = num_images >= (size if len(shapes) == 1 else self._ahead)
            if is_full or num_bytes >= self._max_bytes:
                break
            with waited:
                image = self._loaded(place)
            if isinstance(image, FailedImage):
                batch.append((place, image))
                del self._loads[place]
                continue
            num_images, num_bytes = num_images + 1, num_bytes + image.image.rgb.nbytes
            shapes.setdefault(image.image.rgb.shape, []).append(place)
        by_shape = [place for places in shapes.values() for place in places]
        batch += [(place, self._loads.pop(place).result()) for place in by_shape[:size]]
        self._load_more()
        return batch

    def _left(self, num_refs: int) -> Iterator[int]:
        """Yield the places of a shard's images that are in no batch yet."""
        not_begun = self._next  # as it is now: more may be begun meanwhile
        yield from [place for place in self._loads if place < num_refs]
        yield from range(not_begun, num_refs)

    def _loaded(self, place: int) -> Loaded:
        if place not in self._loads:
            self._submit()
        result = self._loads[place].result()
        self._largest = max(self._largest or 0, _num_bytes(result))
        self._load_more()
        return result

    def _load_more(self) -> None:
        while self._next < len(self._line) and self._has_room():
            self._submit()

    def _submit(self) -> None:
        self._loads[self._next] = self._pool.submit(self._load, self._line[self._next])
        self._next += 1

    def _has_room(self) -> bool:
        if len(self._loads) >= self._ahead:
            return False
        if self._largest is None:  # how large images are is not known yet
            return len(self._loads) < self._threads
        done = [it for it in self._loads.values() if it.done() and it.exception() is None]
        known = sum(_num_bytes(it.result()) for it in done)
        to_come = self._largest * (len(self._loads) - len(done) + 1)
        return known + to_come <= self._max_bytes

    def _end(self, error: BaseException) -> None:
        """Cancel what is not begun; the next shard finds new threads."""
        self._pool.__exit__(type(error), error, error.__traceback__)
        self._pool = StorageThreads(self._threads, "prefetch")
        self._line, self._next, self._loads = (), 0, {}


def _num_bytes(image: Loaded) -> int:
    return image.image.rgb.nbytes if isinstance(image, LoadedImage) else 0
