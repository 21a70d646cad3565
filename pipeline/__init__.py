"""The batch job: collections, shards, workers, run folders, exports; the only room with Ray.

From Python, `open_run` reads what a job wrote:

    from pipeline import open_run

    run = open_run("pets")
"""

from typing import TYPE_CHECKING

from schemas import lazy_names

if TYPE_CHECKING:
    from pipeline.run.inspection.opened_run import OpenedRun, open_run

__all__ = ["OpenedRun", "open_run"]

_OPENED_RUN = "pipeline.run.inspection.opened_run"
__getattr__, __dir__ = lazy_names(dict.fromkeys(("OpenedRun", "open_run"), _OPENED_RUN))
