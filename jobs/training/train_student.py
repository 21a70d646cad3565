"""`ovseg train-student`: train a student on a run's masks, and print how to use it.

The run is there already, or a job file says how it is made: then it is made first. The teacher so
reads an image once; labels that are made for each view of a step would be made many times.
"""

import shlex
from typing import TYPE_CHECKING

from jobs import console
from schemas.config import JobConfig, StudentConfig
from schemas.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from pipeline.training.students.job import StudentReport

TEACHER = "teacher"
"""Folder of the teacher's run in the student's, where the job file names no `out`."""
_JOB_FILES = (".yaml", ".yml")


def run_training(config: StudentConfig) -> int:
    """Train, after the teacher's run where a job file says it, and print counts and what is next.

    Returns:
        0 done; 3 done, but too many images could not be read; 130 interrupted.

    Raises:
        ConfigError: a wrong job file, or settings that do not go with one.
    """
    from pipeline.storage import uris
    from pipeline.training.students.setup import check_config

    check_config(config)  # before hours of annotation
    if uris.without_query(config.teacher).lower().endswith(_JOB_FILES):
        job = _teachers_job(config)
        code = _made_run(job)
        if code:
            return code
        config = config.model_copy(update={"teacher": job.out})
    return _trained(config)


def _teachers_job(config: StudentConfig) -> JobConfig:
    """Return the job of the teacher's run; what `--local` and the like say counts for it too."""
    from jobs.config import load_config, run_flags
    from pipeline.storage import uris

    if config.limit:
        raise ConfigError(
            f"limit is {config.limit}, but all images of a job file would be annotated for it: set "
            f"image.limit or image.only in {config.teacher}, or learn from a run that is there"
        )
    if config.masks == "reviewed":
        raise ConfigError(
            f"masks: nobody has reviewed the run that {config.teacher} will make: annotate and "
            "review it first, then name its folder in place of the job file"
        )
    run = config.run
    flags = run_flags(run.local, run.images_roots, run.allow_private_addresses)
    out = {"out": uris.join(config.out, TEACHER)}
    return load_config(JobConfig, config.teacher, flags, below=lambda _: out)


def _made_run(job: JobConfig) -> int:
    """Make the teacher's run, or what is left of it; return a code that ends the command, or 0."""
    from jobs.annotate import show_report
    from pipeline.job.job import run

    report = run(job)
    show_report(report)
    console.line()
    if report.exit_code == ExitCode.INCOMPLETE:
        console.line(
            "no student was trained, as the run is not whole; to learn from what is there: "
            f"ovseg train-student {shlex.quote(job.out)}"
        )
    return report.exit_code


def _trained(config: StudentConfig) -> int:
    from pipeline.storage import uris
    from pipeline.training.progress import make_step_progress
    from pipeline.training.students.job import train_student
    from pipeline.training.students.store import STUDENT

    report = train_student(config, make_step_progress())
    left_out = {k: n for k, n in report.counts.items() if not k.startswith(("learned", "kept"))}
    steps = f"{report.steps:,}, {report.new_steps:,} of them now"
    if report.stopped_at is not None:
        steps += f"; stopped at {report.stopped_at:,}, as the mIoU did not rise any more"
    facts = [
        ("images", f"{report.counts.get('learned', 0):,} learned, "
         f"{report.counts.get('kept for validation', 0):,} kept for validation"),
        ("left out", ", ".join(f"{n:,} {what}" for what, n in left_out.items()) or "none"),
        ("not readable", console.counts(report.failed) if report.failed else "none"),
        ("steps", steps),
        ("mIoU of validation", _miou(report)),
        ("seconds", f"{report.seconds:.0f}"),
        ("speed, memory", _costs(report)),
    ]  # fmt: skip
    if not report.interrupted:
        file = uris.join(config.out, STUDENT)
        use = (
            "ovseg annotate ... --set method.name=student "
            f"--set method.options.weights={shlex.quote(file)}"
        )
        facts += [("student", file), ("use it", use)]
    console.facts(facts)
    return report.exit_code


def _miou(report: "StudentReport") -> str:
    """Return the figure of the weights that are kept: the best ones, not always the last ones."""
    if report.miou is None:
        return "none"
    kept = "the best so far" if report.interrupted else "which is kept"
    return f"{report.miou:.3f} (of step {report.step_of_weights:,}, {kept})"


def _costs(report: "StudentReport") -> str:
    if report.images_per_s is None:
        return ""
    from pipeline.job.progress import brief

    speed = f"{brief(report.images_per_s)} images/s"
    return f"{speed} without validations, at most {report.peak_bytes / 2**20:,.0f} MiB a worker"
