"""`ovseg annotate`: show the plan, or run it and say what came of it and what to do next."""

import shlex
from typing import Any

from jobs import show
from schemas.config import EMBEDDED, JobConfig

_SHOWN_LABELS = 12


def annotate(config: JobConfig, dry_run: bool, then: str = "") -> int:
    """Run a job, or only show its plan.

    Args:
        config: the job.
        dry_run: only show.
        then: arguments of the `ovseg evaluate` that fits it; empty: none.

    Returns:
        0 all done; 3 finished, but shards or too many images failed; 130 interrupted.
    """
    from pipeline.job import job

    if dry_run:
        show_plan(job.plan(config))
        return 0
    report = job.run(config)
    show_report(report)
    if then and not report.exit_code:
        show.line(f"then         ovseg evaluate {shlex.quote(report.out)} {then}")
    return report.exit_code


def show_plan(plan: Any) -> None:
    """Print what a run would do.

    Args:
        plan: a `pipeline.job.job.JobPlan`.
    """
    config: JobConfig = plan.config
    done = plan.num_shards - plan.num_shards_left
    show.facts(
        [
            ("images", f"{plan.num_images:,} in {config.images}"),
            ("labels", _labels(config)),
            ("method", config.method.name),
            ("weights", _weights(config)),
            (
                "shards",
                f"{plan.num_shards:,} of up to {config.images_per_shard(plan.num_images):,} images",
            ),
            ("done", f"{done:,} shards ({plan.num_images_done:,} images)"),
            ("left", f"{plan.num_shards_left:,} shards"),
            ("workers", _workers(config)),
            ("run folder", config.out),
        ]
    )
    show.line("\nNothing was run or written (--dry-run).")


def show_report(report: Any) -> None:
    """Print counts, errors by code, where everything lies and the next command.

    Args:
        report: the `pipeline.job.report.RunReport`.
    """
    out = shlex.quote(report.out)
    for text in report.summary().splitlines():
        show.line(text)
    show.line(f"run folder   {report.out}")
    if report.errors or report.failed_shards:
        show.line(f"what failed  ovseg inspect {out}")
    if report.num_segments:
        show.line(f"next         ovseg export {out} --to coco")


def _labels(config: JobConfig) -> str:
    names = config.vocabulary.names
    hidden = len(names) - _SHOWN_LABELS
    more = f" and {hidden:,} more" if hidden > 0 else ""
    return f"{len(names):,}: {', '.join(names[:_SHOWN_LABELS])}{more}"


def _weights(config: JobConfig) -> str:
    clip = config.clip
    tag = "" if clip.model == EMBEDDED or clip.model.startswith("local-dir:") else clip.pretrained
    return f"CLIP {clip.model} {tag}".strip() + f"; where the method asks: {config.vision_model}"


def _workers(config: JobConfig) -> str:
    run = config.run
    if run.local:
        return "none: in this process (--local)"
    most = f"at most {run.workers}" if run.workers else "as many as the resources allow"
    return f"{most}, {run.cpus_per_worker:g} CPU each, device {run.device}"
