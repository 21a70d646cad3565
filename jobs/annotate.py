"""`ovseg annotate`: show the plan, or run the job and print its results and the next command."""

import logging
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import console
from jobs.options import RETRY_ALL
from jobs.runs.estimate import MeasureFlags, show_estimate
from pipeline.job.monitoring.json_log import set_log_fields
from pipeline.storage.waiting import importing
from schemas.base import counted, did_you_mean
from schemas.config import JobConfig
from schemas.errors import ConfigError, ErrorCode
from schemas.redact import redact
from schemas.vocabulary import BACKGROUND

if TYPE_CHECKING:
    from ovseg_core.backbones.file_formats.needed_files import WeightsFile
    from pipeline.job.job import JobPlan
    from pipeline.job.report import RunReport

logger = logging.getLogger(__name__)

_SHOWN_LABELS = 12


def annotate(
    config: JobConfig,
    dry_run: bool,
    evaluate_flags: str = "",
    retry_errors: str = "",
    measured: MeasureFlags | None = None,
) -> int:
    """Run a job, or only show its plan.

    Args:
        config: the job.
        dry_run: only print the plan.
        evaluate_flags: for the `ovseg evaluate` to type next; empty: none is suggested.
        retry_errors: codes with commas between, or `all`: images that failed with these are tried
            again; those with passing errors always are.
        measured: what a dry run computes; None: nothing.

    Returns:
        0 all done; 3 finished, but shards or too many images failed; 130 or 143 interrupted.

    Raises:
        ConfigError: `retry_errors` has a code that does not exist.
    """
    set_log_fields(run=config.out)
    retry = _error_codes(retry_errors)
    with importing():
        from pipeline.job import job
        from pipeline.job.monitoring import webhook

    webhook_url = webhook.webhook_url(config.run)
    if dry_run:
        from pipeline.run.trust.named_weights import checked_files

        planned = job.plan(config, retry)
        with importing():
            files = checked_files(planned.config)
        show_plan(planned, files, under_protocol=bool(evaluate_flags))
        if measured is not None:
            show_estimate(planned, measured)
        was = "run or written" if measured is None else "written"
        console.line()
        console.line(f"Nothing was {was} (--dry-run).")
        return 0
    began_s = time.monotonic()
    try:
        with importing():
            caution = _without_background(config, under_protocol=bool(evaluate_flags))
        report = job.run(config, retry=retry, caution=caution)
    except Exception as error:
        webhook.tell_failure(webhook_url, config.out, error, time.monotonic() - began_s)
        raise
    webhook.tell_end(webhook_url, report)
    show_report(report, _cautions(config, report, has_no_background=bool(caution)))
    if evaluate_flags and not report.exit_code and not report.num_left_to_others:
        console.line(
            f"             {console.program()} evaluate {shlex.quote(report.out)} {evaluate_flags}"
        )
    return report.exit_code


def _cautions(config: JobConfig, report: "RunReport", *, has_no_background: bool) -> list[str]:
    """Return what to know before the masks are used.

    Args:
        config: of the job.
        report: of the job.
        has_no_background: what to set was said at the start; see `_without_background`.
    """
    if not report.num_done:
        return []
    from pipeline.run.folder import RunFolder
    from pipeline.run.images import RunImages

    embedded = config.uses_embedded_models
    note = RunImages(RunFolder.open(report.out)).note_on_models if embedded else ""
    everywhere = (
        "no objectness is used and no surroundings are named, as was said at the start: most "
        "pixels or all may have a label, whatever they show"
        if has_no_background
        else ""
    )
    return [caution for caution in (note, everywhere) if caution]


def _without_background(config: JobConfig, *, under_protocol: bool) -> str:
    """Return that nothing keeps the method from labelling every pixel.

    Empty: something does, or the protocol wants a label everywhere, as its background does not
    count.
    """
    if under_protocol and not config.vocabulary.background:
        return ""
    from pipeline.annotate.build import labels_every_pixel

    if not labels_every_pixel(config):
        return ""
    phrases = config.vocabulary.background
    only = f"nothing but the phrase {BACKGROUND!r}" if phrases else "nothing"
    loaded = "" if config.uses_embedded_models else " (which loads DINO and FOUND's head as well)"
    found = f"add --set method.options.objectness=found{loaded}, or "
    if config.features_of:  # which have no objectness but that of the run that keeps them
        found = ""
    return (
        f"{only} stands for the background, so that most pixels or all get a label. For objects "
        f"before a background {found}name what surrounds them: "
        "--set 'vocabulary.background=[background,wall,grass]'. A run that has begun keeps its "
        "settings: give another --out then"
    )


def _failed_images(number: int) -> str:
    return f"{counted(number, 'image')} that failed" if number else ""


def _error_codes(text: str) -> list[ErrorCode]:
    if text == RETRY_ALL:
        return list(ErrorCode)
    codes = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name not in list(ErrorCode):
            hint = did_you_mean(name, list(ErrorCode))
            raise ConfigError(f"--retry-errors: there is no error code {name!r}. {hint}")
        codes.append(ErrorCode(name))
    return codes


def show_plan(
    plan: "JobPlan", files: Sequence["WeightsFile"] = (), *, under_protocol: bool = False
) -> None:
    """Print what a run would do.

    Args:
        plan: of the run.
        files: the weights that it loads.
        under_protocol: whether a protocol decided what the job did not say.
    """
    from ovseg_core.embedded import EMBEDDED_NOTE
    from pipeline.collection.left_out import describe

    config = plan.config
    names, run = config.vocabulary.names, config.run
    more = f" and {len(names) - _SHOWN_LABELS:,} more" if len(names) > _SHOWN_LABELS else ""
    if run.local:
        flag = "--shards" if run.shards else "--local"
        workers = f"none: in this process ({flag})"
    else:
        most = f"at most {run.workers}" if run.workers else "as many as the resources allow"
        workers = f"{most}, {run.cpus_per_worker:g} CPU each, device {run.device}"
    task, done = plan.task, plan.num_own_shards - plan.num_shards_left
    own = f"{counted(plan.num_own_shards, 'shard')} ({counted(plan.num_own_images, 'image')})"
    console.facts(
        [
            ("images", f"{plan.num_images:,} in {config.images}"),
            ("not taken", describe(plan.left_out)),
            ("to be updated" if plan.updates else "changed since", _changes(plan)),
            ("labels", f"{len(names):,}: {', '.join(names[:_SHOWN_LABELS])}{more}"),
            ("background", ", ".join(config.vocabulary.background)),
            ("method", config.method.name),
            (
                "features",
                f"stored in {redact(config.features_of)}: no image is read, only words are scored"
                if config.features_of
                else "",
            ),
            *(("weights", file.describe()) for file in files),
            (
                "shards",
                f"{plan.num_shards:,} of up to {config.images_per_shard(plan.num_images):,} images",
            ),
            (
                "of this task",
                f"{own}, task {task.number} of {task.num_tasks}" if task.num_tasks > 1 else "",
            ),
            ("done", f"{counted(done, 'shard')} ({counted(plan.num_images_done, 'image')})"),
            ("left", counted(plan.num_shards_left, "shard")),
            ("tried again", _failed_images(sum(plan.num_to_retry.values()))),
            ("caution", EMBEDDED_NOTE if config.uses_embedded_models else ""),
            ("caution", _without_background(config, under_protocol=under_protocol)),
            ("workers", workers),
            ("run folder", config.out),
        ]
    )


def _changes(plan: "JobPlan") -> str:
    """Return what became of the collection of a run that goes on, and what is done about it."""
    changed = plan.changes.describe() if plan.changes else ""
    if plan.updates or not changed:
        return changed
    return f"{changed}; --update annotates what is new or changed"


def show_summary(report: "RunReport") -> None:
    """Print what is done, what failed, what is missing and what to do."""
    for text in report.summary().split("\n"):
        console.line(text)


def show_report(report: "RunReport", cautions: Sequence[str] = ()) -> None:
    """Print counts, errors by code, the run folder and the next commands.

    Of an interrupted run, or while other tasks have work left, the summary names the next command
    alone.

    Args:
        report: of the job.
        cautions: what to know before the masks are used.
    """
    ovseg, out = console.program(), shlex.quote(report.out)
    show_summary(report)
    if report.has_begun:
        console.line(f"run folder   {report.out}")
    for caution in cautions:
        console.line(f"caution      {caution}")
    if report.interrupted:
        return
    whole = report.whole or report
    if whole.errors or report.failed_shards:
        console.line(f"what failed  {ovseg} inspect {out}")
    if whole.num_segments and not report.num_left_to_others:
        console.line(f"next         {ovseg} review {out}   # look at the masks in a browser")
        console.line(f"             {ovseg} inspect {out}  # counts, failures, times")
        console.line(f"then         {ovseg} export {out} --to coco")
