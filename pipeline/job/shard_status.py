"""The status of a job's shards: finished, failed and tried again, or given up."""

import logging
import time
from collections import Counter

from pipeline.annotate.image_errors import error_summary
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.storage.retry import retry_delay_s
from schemas.errors import ErrorCode, OvsegError, StorageError
from schemas.records import Shard, ShardFailed, ShardTally
from schemas.untrusted import shown_text

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often one run tries a shard that fails with an exception."""
MAX_CONSECUTIVE_FAILURES = 4
"""The job stops when this many shards are given up and none is finished between them."""
MAX_PAUSES = 4
"""So many times in a row the job waits for images that cannot be read, then it stops."""
_PAUSE_RETRIES = 10
"""The first pause in units of storage's first retry delay; each further one is twice as long."""


class ShardStatus:
    """Counts attempts and decides which shards are tried again and when the job stops.

    Args:
        run: where shards that are given up are noted.
        progress: shows the counts to a person.
        num_shards: that the job has to do.

    Attributes:
        finished: shards that are committed, by index.
        failed: shards that were given up, by index, and why.
    """

    def __init__(self, run: RunFolder, progress: Progress, num_shards: int = 0) -> None:
        self.run = run
        self.num_shards = num_shards
        self.finished: set[int] = set()
        self.progress = progress
        self.failed: dict[int, str] = {}
        self.stop_reason = ""
        self._attempts: Counter[int] = Counter()
        self._consecutive_failures = 0
        self._tried_again: set[int] = set()
        self._num_pauses = 0
        self._paused_until = 0.0

    @property
    def must_stop(self) -> bool:
        """Whether the same thing seems to be wrong with every shard, so that more work is waste."""
        return bool(self.stop_reason)

    @property
    def pause_s(self) -> float:
        """Seconds to wait before more work is begun, as the images cannot be read; 0: none."""
        return max(0.0, self._paused_until - time.monotonic())

    def finish(self, shard: Shard, tally: ShardTally) -> bool:
        """Count a committed shard.

        Args:
            shard: which one.
            tally: of the images that were annotated now.

        Returns:
            Whether images of it wait, and are to be tried once more in this run.
        """
        self._consecutive_failures = 0
        self.finished.add(shard.index)
        self._look_for_outage(shard, tally)
        if tally.num_waiting and shard.index not in self._tried_again:
            self._tried_again.add(shard.index)
            self.progress.add(tally.without_waiting())
            return not self.must_stop
        self.progress.add(tally)
        return False

    def _look_for_outage(self, shard: Shard, tally: ShardTally) -> None:
        """Pause, and in the end stop, if no image of the shards can be read any more.

        Single images that are tried again may be gone for good: among them, only failures of the
        store count.
        """
        is_whole = tally.num_images == len(shard.refs)
        counted = tally.num_waiting if is_whole else tally.errors.get(ErrorCode.STORAGE_ERROR, 0)
        if not counted or counted < tally.num_images:
            if tally.num_images > tally.num_waiting:
                self._num_pauses = 0
            return
        if self.pause_s:  # it was begun before the pause
            return
        self._num_pauses += 1
        codes = ", ".join(sorted(tally.errors))
        if self._num_pauses > MAX_PAUSES:
            self.stop_reason = (
                f"images cannot be read ({codes}): whole shards have failed, also after "
                f"{MAX_PAUSES} pauses; see that their store can be reached, then the same command "
                f"goes on{self._example(shard)}"
            )
            logger.error("the job stops here: %s", self.stop_reason)
            return
        pause_s = _PAUSE_RETRIES * retry_delay_s() * 2 ** (self._num_pauses - 1)
        self._paused_until = time.monotonic() + pause_s
        logger.warning(
            "no image of shard %d can be read (%s): a pause of %.3g s",
            shard.index,
            codes,
            pause_s,
            extra={"shard": shard.index},
        )

    def _example(self, shard: Shard) -> str:
        """Return why the first image of a committed shard failed; empty: it cannot be told."""
        try:
            marker = self.run.marker(shard.index)
            rows = self.run.shard_table(marker, "images", ["error_message"]) if marker else None
        except OvsegError:
            return ""
        messages = rows["error_message"].to_pylist() if rows is not None else []
        first = next(filter(None, messages), "")
        return f" (for example: {shown_text(first)})" if first else ""

    def retry(self, shard: Shard, error: BaseException) -> bool:
        """Count a failed attempt; return whether the shard is to be tried again in this run."""
        self._attempts[shard.index] += 1
        if self._attempts[shard.index] >= MAX_ATTEMPTS:
            self.give_up(shard, error)
            return False
        logger.warning(
            "shard %d failed and is tried again: %s",
            shard.index,
            error_summary(error),
            extra={"shard": shard.index},
        )
        return True

    def give_up(self, shard: Shard, error: BaseException) -> None:
        """Note a shard that this run cannot finish; the next run tries it again."""
        attempts, message = max(1, self._attempts[shard.index]), error_summary(error)
        logger.error(
            "shard %d given up after %d attempts: %s",
            shard.index,
            attempts,
            message,
            extra={"shard": shard.index},
        )
        self.failed[shard.index] = message
        self._consecutive_failures += 1
        self.progress.add_failed(len(shard.refs))
        try:
            self.run.fail(ShardFailed(shard=shard.index, attempts=attempts, message=message))
        except StorageError as error:  # the store that failed the shard may fail its note as well
            logger.warning("the failure of shard %d could not be noted: %s", shard.index, error)
        if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
            self.stop_reason = f"{MAX_CONSECUTIVE_FAILURES} shards failed one after another"
            logger.error("%s; the job stops here", self.stop_reason)
