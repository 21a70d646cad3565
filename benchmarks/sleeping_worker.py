"""A worker for `benchmarks.scaling` that sleeps instead of segmenting; its process has no torch."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.run.folder import RunFolder
from schemas.config import JobConfig
from schemas.records import ImageRef, ImageResult, Shard, ShardRows, ShardTally


@dataclass(frozen=True)
class SleepingSetup:
    """All that such a worker needs to know; stands in the place of `WorkerSetup`."""

    config: JobConfig
    device: str
    folder: str
    seconds_per_image: float


class SleepingWorker:
    """Sleeps through a shard and commits rows without segments."""

    def __init__(self, setup: SleepingSetup) -> None:
        self._setup = setup
        os.chdir(setup.folder)
        self._run: RunFolder | None = None

    def prepare(self) -> dict[str, str]:
        """Return no weights, as nothing is loaded."""
        return {}

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> ShardTally:
        """Take the time of a shard, then commit it; nothing is read ahead."""
        start = time.perf_counter()
        self._run = self._run or RunFolder.open(self._setup.config.out)
        time.sleep(self._setup.seconds_per_image * len(shard.refs))
        rows = ShardRows(
            images=tuple(
                ImageResult(image_id=ref.image_id, path=ref.path, uri=ref.uri, height=1, width=1)
                for ref in shard.refs
            ),
            annotations=(),
            scores=(),
        )
        wall_s = time.perf_counter() - start
        tally = ShardTally(num_images=len(shard.refs), num_segments=0, seconds={"wall": wall_s})
        return self._run.commit(shard.index, f"pid{os.getpid()}", rows, tally).tally

    def close(self) -> None:
        """Nothing is to be ended."""

    def waits(self) -> str:
        """Return that nothing is waited for."""
        return ""

    def images_done(self) -> tuple[int, int]:
        """Return that it does not count."""
        return -1, 0
