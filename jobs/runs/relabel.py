"""`ovseg relabel`: other words for a run's images, from its stored features."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.annotate import annotate
from jobs.config import Fields, load_config
from pipeline.storage import uris
from pipeline.storage.waiting import importing
from schemas.config import JobConfig

if TYPE_CHECKING:
    from pipeline.run.folder import RunFolder

_OWN_FIELDS = ("out", "run", "features_of")
"""Fields of a job that the run before does not hand on."""


def relabel(
    run: str, flags: Mapping[str, Any], sets: Sequence[str], dry_run: bool, retry_errors: str = ""
) -> int:
    """Make a run of the same images with other words, or only show its plan.

    Args:
        run: folder of the run whose features are stored.
        flags: by dotted path of a field of the job, see `load_config`.
        sets: `dotted.key=value` each.
        dry_run: only print the plan.
        retry_errors: see `annotate`: images that failed are looked up in that run again.

    Returns:
        As `annotate`.

    Raises:
        UserError: the run has no such features, or the settings are not those that made them.
        WeightsError: this machine has not used the networks for the words, which the run folder
            names, and the user did not name them.
    """
    with importing():
        from pipeline.run.folder import RunFolder
        from pipeline.run.trust.named_weights import check_named_clip, names_for_scoring

    source = RunFolder.open(run)
    out = flags.get("out") or uris.beside(run.rstrip("/@"), "-relabelled")
    named = {**flags, "out": out, "features_of": run}
    config = load_config(JobConfig, flags=named, sets=sets, below=lambda _: _fields_of(source))
    given = [text.partition("=")[2] for text in sets]
    check_named_clip(source, config.clip, names_for_scoring(config), given)
    return annotate(config, dry_run, retry_errors=retry_errors)


def _fields_of(source: "RunFolder") -> Fields:
    """Return the job of the run before, with its images where they were."""
    info = source.info
    fields = {name: value for name, value in info.config.items() if name not in _OWN_FIELDS}
    return {**fields, "images": info.identity["images"]}
