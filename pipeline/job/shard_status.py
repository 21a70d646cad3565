"""What has become of each shard: counts the finished, decides on the failed, ends hopeless jobs."""

import logging
from collections import Counter

from pipeline.annotate.image_errors import describe
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from schemas.errors import StorageError
from schemas.records import Shard, ShardFailed, ShardTally

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often one run tries a shard that fails with an exception."""
HOPELESS = 4
"""So many shards given up one after another, and none done between them, end the job."""


class ShardStatus:
    """The job's accounts; the driver and the local loop tell it what happened.

    Args:
        run_dir: where shards that are given up are noted.
        progress: what a person sees.
    """

    def __init__(self, run_dir: RunFolder, progress: Progress) -> None:
        self.run_dir = run_dir
        self.progress = progress
        self._attempts: Counter[int] = Counter()
        self._failed_in_a_row = 0
        self.failed: dict[int, str] = {}

    @property
    def hopeless(self) -> bool:
        """Whether the same thing seems to be wrong with every shard, so that going on is waste."""
        return self._failed_in_a_row >= HOPELESS

    def done(self, tally: ShardTally) -> None:
        """Count a committed shard."""
        self._failed_in_a_row = 0
        self.progress.add(tally)

    def try_again(self, shard: Shard, error: BaseException) -> bool:
        """Count a failure; return whether the shard deserves one more attempt in this run."""
        self._attempts[shard.index] += 1
        if self._attempts[shard.index] < MAX_ATTEMPTS:
            log.warning("shard %d failed and is tried again: %s", shard.index, describe(error))
            return True
        self.give_up(shard, error)
        return False

    def give_up(self, shard: Shard, error: BaseException) -> None:
        """Note a shard that this run cannot do; the next run tries it again."""
        attempts, message = max(1, self._attempts[shard.index]), describe(error)
        log.error("shard %d given up after %d attempts: %s", shard.index, attempts, message)
        self.failed[shard.index] = message
        self._failed_in_a_row += 1
        self.progress.add_failed(len(shard.refs))
        note = ShardFailed(shard=shard.index, attempts=attempts, message=message)
        try:
            self.run_dir.fail(note)
        except StorageError as error:  # the store that failed the shard may fail its note as well
            log.warning("the failure of shard %d could not be noted: %s", shard.index, error)
        if self.hopeless:
            log.error("%d shards failed one after another; the job stops here", HOPELESS)
