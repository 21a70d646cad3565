"""The status of a job's shards: finished, failed and tried again, or given up."""

import logging
from collections import Counter

from pipeline.annotate.image_errors import error_summary
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from schemas.errors import StorageError
from schemas.records import Shard, ShardFailed, ShardTally

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often one run tries a shard that fails with an exception."""
MAX_CONSECUTIVE_FAILURES = 4
"""The job stops when this many shards are given up and none is finished between them."""


class ShardStatus:
    """Counts attempts and decides which shards are tried again and when the job stops.

    Args:
        run: where shards that are given up are noted.
        progress: shows the counts to a person.
    """

    def __init__(self, run: RunFolder, progress: Progress) -> None:
        self.run = run
        self.progress = progress
        self.failed: dict[int, str] = {}
        self._attempts: Counter[int] = Counter()
        self._consecutive_failures = 0

    @property
    def must_stop(self) -> bool:
        """Whether the same thing seems to be wrong with every shard, so that more work is waste."""
        return self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES

    def finish(self, tally: ShardTally) -> None:
        """Count a committed shard."""
        self._consecutive_failures = 0
        self.progress.add(tally)

    def retry(self, shard: Shard, error: BaseException) -> bool:
        """Count a failed attempt; return whether the shard is to be tried again in this run."""
        self._attempts[shard.index] += 1
        if self._attempts[shard.index] >= MAX_ATTEMPTS:
            self.give_up(shard, error)
            return False
        logger.warning("shard %d failed and is tried again: %s", shard.index, error_summary(error))
        return True

    def give_up(self, shard: Shard, error: BaseException) -> None:
        """Note a shard that this run cannot finish; the next run tries it again."""
        attempts, message = max(1, self._attempts[shard.index]), error_summary(error)
        logger.error("shard %d given up after %d attempts: %s", shard.index, attempts, message)
        self.failed[shard.index] = message
        self._consecutive_failures += 1
        self.progress.add_failed(len(shard.refs))
        try:
            self.run.fail(ShardFailed(shard=shard.index, attempts=attempts, message=message))
        except StorageError as error:  # the store that failed the shard may fail its note as well
            logger.warning("the failure of shard %d could not be noted: %s", shard.index, error)
        if self.must_stop:
            logger.error(
                "%d shards failed one after another; the job stops here", MAX_CONSECUTIVE_FAILURES
            )
