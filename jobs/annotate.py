"""`ovseg annotate`: show the plan, or run it and say what came of it and what to do next."""

import shlex
from typing import Any

from jobs import show
from schemas.config import JobConfig


def annotate(config: JobConfig, dry_run: bool) -> int:
    """Run a job, or only show its plan.

    Returns:
        0 all done; 3 finished, but shards or too many images failed.
    """
    from pipeline import job

    if dry_run:
        show_plan(config, job.plan(config, dry=True))
        return 0
    report = job.run(config)
    show_report(config, report)
    return report.exit_code


def show_plan(config: JobConfig, plan: Any) -> None:
    """Print what a run would do."""
    left = plan.num_shards - plan.num_done
    show.facts(
        [
            ("images", f"{plan.num_images} in {config.images}"),
            ("labels", ", ".join(config.vocabulary.names[:12]) + _more(config)),
            ("method", config.method.name),
            ("shards", f"{plan.num_shards} of {config.shard_size} images"),
            ("done", f"{plan.num_done} shards; {left} left"),
            ("weights", ", ".join(plan.weights)),
            ("workers", _workers(config)),
            ("run folder", config.out),
        ]
    )
    show.line("\nNothing was run or written (--dry-run).")


def show_report(config: JobConfig, report: Any) -> None:
    """Print counts, errors by code, where everything lies and the next command."""
    failed = sum(report.errors.values())
    show.facts(
        [
            ("images", f"{report.num_images} annotated, {failed} of them failed"),
            ("segments", report.num_segments),
            ("errors", show.counts(report.errors)),
            ("speed", f"{report.seconds:.1f} s, {report.images_per_s:.2f} images/s"),
            ("run folder", config.out),
        ]
    )
    out = shlex.quote(config.out)
    if failed or report.exit_code:
        show.line(f"\nWhat failed, and why:   ovseg inspect {out}")
    show.line(f"Next:                   ovseg export {out} --to coco")


def _more(config: JobConfig) -> str:
    hidden = len(config.vocabulary.names) - 12
    return f" and {hidden} more" if hidden > 0 else ""


def _workers(config: JobConfig) -> str:
    if config.run.local:
        return "none: in this process (--local)"
    return (
        f"at most {config.run.workers}" if config.run.workers else "as many as the resources allow"
    )
