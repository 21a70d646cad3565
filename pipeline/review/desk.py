"""The run that is reviewed, and what was last read of it."""

import hashlib
from threading import Lock

from pipeline.corrections.log import ReviewLog
from pipeline.review.session import Table
from pipeline.run.folder import RunFolder


class Desk:
    """One run, on a table that is replaced as a whole: a request works on one `table`.

    Args:
        run: at any place.
    """

    def __init__(self, run: RunFolder) -> None:
        """Read the index and the decisions made so far."""
        self.run = run
        identity = f"{run.fingerprint} {run.folder.uri}"
        self.key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        """Names the run to the pages that show it, without telling where it lies."""
        self._log = ReviewLog(run)
        self._refreshing = Lock()
        self.table = Table(run, self._log, self.key)

    def refresh(self) -> None:
        """Take in what others have decided or imported, and images that were annotated since."""
        with self._refreshing:
            if self.table.is_stale():
                self._log.refresh()
                # What the old one is told meanwhile is in the log, and taken in the next time.
                self.table = Table(self.run, self._log, self.key)
            else:
                self.table.decisions.refresh()
