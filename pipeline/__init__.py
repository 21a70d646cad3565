"""The batch job: collections, shards, workers, run folders, exports; the only room with Ray.

From Python, `open_run` reads what a job wrote:

    from pipeline import open_run

    run = open_run("pets")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.opened_run import OpenedRun, open_run

__all__ = ["OpenedRun", "open_run"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: most of a job needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import opened_run

    return getattr(opened_run, name)


def __dir__() -> list[str]:
    return sorted(__all__)
