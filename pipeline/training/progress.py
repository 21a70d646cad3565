"""The progress of a training: the same bar, or the same lines, in steps."""

import sys
from dataclasses import dataclass
from typing import TextIO

from pipeline.job.progress import BarProgress, LineProgress, LoggedProgress, Progress
from schemas.untrusted import logs_json


@dataclass(frozen=True)
class TrainingTally:
    """The state of a training.

    Attributes:
        step: steps done.
        loss: mean over the steps since the last tally; None where there were none.
        failed: images that could not be read, by error code.
        miou: of the last validation; None: there was none yet.
        is_finished: the result is written; also before the last step, if it has stopped early.
    """

    step: int
    loss: float | None
    failed: dict[str, int]
    miou: float | None = None
    is_finished: bool = False


class StepProgress(Progress):
    """Counts of a training in words; this base shows nothing.

    Attributes:
        loss: mean over the last steps; None before the first ones.
        miou: of the last validation; None: there was none.
        failed: images that could not be read, by error code.
    """

    unit = "steps"
    least_finished = 20  # the first steps are slow
    loss: float | None = None
    miou: float | None = None
    failed: dict[str, int] = {}

    def advance(self, tally: TrainingTally) -> None:
        """Count the steps done; fewer than before where a worker died after its checkpoint."""
        self.finished = tally.step - self.resumed
        self.failed = tally.failed
        self.loss = tally.loss if tally.loss is not None else self.loss
        self.miou = tally.miou if tally.miou is not None else self.miou
        self.tick()

    def details(self) -> str:
        """Return the loss, the mIoU of the last validation, and images that could not be read."""
        parts = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        parts += [] if self.miou is None else [f"mIoU {self.miou:.3f}"]
        if self.failed:
            codes = ", ".join(f"{code} {count:,}" for code, count in self.failed.items())
            parts.append(f"images left out: {codes}")
        return "; ".join(parts)


class StepLines(StepProgress, LineProgress):
    """A line every 30 seconds, for logs and pipes."""


class LoggedSteps(StepProgress, LoggedProgress):
    """The same lines as records of the log."""


class StepBar(StepProgress, BarProgress):
    """A live bar, for a terminal."""


def make_step_progress(stream: TextIO | None = None) -> StepProgress:
    """Return the progress that suits a stream (standard error if None)."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a process without standard error
        return StepProgress()
    if logs_json():
        return LoggedSteps(stream)
    return StepBar(stream) if stream.isatty() else StepLines(stream)
