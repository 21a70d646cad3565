"""A worker without networks for tests of the driver on Ray; it may die of an image it reads."""

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.config import JobConfig
from schemas.records import ImageRef, Shard, ShardRows, ShardTally


@dataclass(frozen=True)
class LightSetup:
    """What such a worker needs to know; stands in the place of `WorkerSetup`."""

    config: JobConfig
    device: str
    dies_reading: str
    """Path of an image."""


class LightWorker:
    """Commits the rows of `imageless_runs`; dies as soon as it reads one image."""

    def __init__(self, setup: LightSetup) -> None:
        self._setup = setup

    def prepare(self) -> dict[str, str]:
        return {}

    def annotate(self, shard: Shard, then: Sequence[ImageRef] = ()) -> ShardTally:
        rows = self.annotate_rows(shard, then)
        # Here, so that one that dies has not imported them.
        from pipeline.run.folder import RunFolder
        from tests.helpers.imageless_runs import make_tally

        run = RunFolder.open(self._setup.config.out)
        return run.commit(shard.index, "light", rows, make_tally(rows)).tally

    def annotate_rows(self, shard: Shard, then: Sequence[ImageRef] = ()) -> ShardRows:
        if any(ref.path == self._setup.dies_reading for ref in (*shard.refs, *then)):
            os.kill(os.getpid(), signal.SIGKILL)
        from tests.helpers.imageless_runs import make_rows

        return make_rows(shard)

    def close(self) -> None:
        pass

    def waits(self) -> str:
        return ""

    def images_done(self) -> tuple[int, int]:
        return -1, 0
