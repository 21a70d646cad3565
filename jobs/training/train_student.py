"""`ovseg train-student`: train a student on a run's masks, and print how to use it."""

import shlex

from jobs import console
from schemas.config import StudentConfig


def run_training(config: StudentConfig) -> int:
    """Train, and print counts and the next command.

    Returns:
        0 done; 3 done, but too many images could not be read; 130 interrupted.
    """
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
        ("mIoU of validation", "none" if report.miou is None else f"{report.miou:.3f}"),
        ("seconds", f"{report.seconds:.0f}"),
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
