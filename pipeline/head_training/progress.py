"""What a person sees while a head is trained: the same bar, or the same lines, in steps."""

import sys
from typing import TextIO

from pipeline.head_training.worker import HeadsTally
from pipeline.job.progress import BarProgress, LineProgress, Progress


class StepProgress(Progress):
    """Counts of a training in words; this base shows nothing."""

    loss: float | None = None
    failed: dict[str, int] = {}

    def advance(self, tally: HeadsTally) -> None:
        """Take what is done; less than before where a worker died after its checkpoint."""
        self.finished = tally.step - self.resumed
        self.failed = tally.failed
        self.loss = tally.loss if tally.loss is not None else self.loss
        self.tick()

    def headline(self) -> str:
        """Return steps, speed and the time left."""
        return super().headline().replace(" images", " steps")

    def details(self) -> str:
        """Return the loss, and the images that could not be read."""
        parts = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        if self.failed:
            codes = ", ".join(f"{code} {count:,}" for code, count in self.failed.items())
            parts.append(f"images left out: {codes}")
        return "; ".join(parts)


class StepLines(StepProgress, LineProgress):
    """A line now and then, for logs and pipes."""


class StepBar(StepProgress, BarProgress):
    """A live bar, for a terminal."""


def make_step_progress(stream: TextIO | None = None) -> StepProgress:
    """Return the progress that suits a stream (standard error if None)."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a process without standard error
        return StepProgress()
    return StepBar(stream) if stream.isatty() else StepLines(stream)
