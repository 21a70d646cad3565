"""The progress of a running job: a bar on a terminal, elsewhere a line every 30 seconds.

Computed from the tallies that workers return, never by reading the run folder.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from pipeline.annotate.bottleneck import Bottleneck, bottleneck_of
from schemas.records import STAGES, THREAD_TIMES, ShardTally
from schemas.untrusted import logs_json

logger = logging.getLogger(__name__)

LINE_EVERY_S = 30.0
IDLE_S = 45.0
"""After this time without an image that is done, the progress says so."""


class Progress:
    """Counts of a running job in words; this base shows nothing.

    Args:
        clock: monotonic seconds.
    """

    unit = "images"
    """What `total` and the other numbers count."""
    least_finished = 0
    """From so many on a time left is given."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: float | None = None
        self._changed = clock()
        self.total = 0
        self.resumed = 0
        self.finished = 0
        self.given_up = 0
        self.begun = 0
        """Images that are done of shards that are not."""
        self._batch_size = 1
        self._speed = 0.0
        """`images_per_s` when a batch or a shard last ended."""
        self.errors: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def start(self, total: int, resumed: int, batch_size: int = 1) -> None:
        """Set what is counted, before the models are loaded.

        Args:
            total: number of images.
            resumed: how many of them an earlier run has finished.
            batch_size: so many images are done within a moment, after the time of all of them.
        """
        self.total, self.resumed, self._batch_size = total, resumed, batch_size

    def begin(self) -> None:
        """Show the first counts and start the clock of the speed, once the models are loaded."""
        self._began = self._changed = self._clock()
        self.show()

    def add_image(self) -> None:
        """Count an image of a shard that is being annotated in this process."""
        self.begun += 1
        self._changed = self._clock()
        if self.begun % self._batch_size == 0:
            self._speed = self.images_per_s
        self.tick()

    def set_begun(self, num_images: int) -> None:
        """Note how many images are done of shards that are not; shown with the next count."""
        if num_images > self.begun:
            self._changed = self._clock()
        self.begun = num_images
        if num_images:
            self._speed = self.images_per_s

    def add(self, tally: ShardTally) -> None:
        """Count a finished shard; before that, `set_begun` without its images."""
        self._changed = self._clock()
        self.finished += tally.num_images
        self.errors.update(tally.errors)
        known = (name for name in (*STAGES, *THREAD_TIMES) if name in tally.seconds)
        self.seconds.update({name: tally.seconds[name] for name in known})
        self._speed = self.images_per_s
        self.tick()

    def add_failed(self, num_images: int) -> None:
        """Count the images of a shard that was given up."""
        self._changed = self._clock()
        self.given_up += num_images
        self.tick()

    def tick(self) -> None:
        """Show the counts again if it is time; called at least every few seconds."""

    def show(self) -> None:
        """Show the counts now."""

    def close(self) -> None:
        """Show the counts for the last time, unless the job never began."""
        self.begun = 0  # of a shard that was broken off
        if self._began is not None:
            self.show()

    @property
    def images_per_s(self) -> float:
        """Speed of this run since `begin`; in `unit`s per second."""
        elapsed = 0.0 if self._began is None else self._clock() - self._began
        return (self.finished + self.begun) / elapsed if elapsed > 0 else 0.0

    @property
    def done(self) -> int:
        """Images that are done, in earlier runs, in finished shards and in those that go on."""
        return min(self.total, self.resumed + self.finished + self.begun)

    @property
    def idle_s(self) -> float:
        """Seconds since an image was done or a shard has ended; 0 before `begin`."""
        return 0.0 if self._began is None else self._clock() - self._changed

    @property
    def bottleneck(self) -> Bottleneck:
        """What has limited this run so far."""
        return bottleneck_of(self.seconds, self.finished)

    def headline(self) -> str:
        """Return counts, speed and the time left."""
        done = self.done
        parts = [f"{done:,}/{self.total:,} {self.unit}"]
        speed = self._speed if self.begun else self.images_per_s
        if speed:
            parts.append(f"{brief(speed)} {self.unit}/s")
        left = self.total - done - self.given_up
        if speed and left and self.finished >= self.least_finished:
            parts.append(f"{duration(left / speed)} left")
        return ", ".join(parts)

    def details(self) -> str:
        """Return the limit and what is waited for; under `-v` milliseconds per image by stage."""
        parts = []
        if self.finished and logger.isEnabledFor(logging.DEBUG):
            costs = (
                f"{name} {brief(1000 * self.seconds[name] / self.finished)}"
                for name in (*STAGES, "write")
            )
            parts.append(f"ms/image: {', '.join(costs)}")
        if self.finished:
            parts += filter(None, [self.bottleneck.words()])
        if (idle_s := self.idle_s) >= IDLE_S:
            since = time.strftime("%H:%M:%S", time.localtime(time.time() - idle_s))
            text = f"no image since {since} ({duration(idle_s)})"
            if not self.finished and not self.begun and self._batch_size > 1:
                text += f": up to {self._batch_size} are computed together"
            parts.append(text)
        return "; ".join(parts)

    def failures(self) -> str:
        """Return the failed images by code, and those of failed shards; empty: there are none."""
        parts = []
        if self.errors:
            codes = ", ".join(f"{code} {count:,}" for code, count in self.errors.most_common(4))
            parts.append(f"failed images: {codes}")
        if self.given_up:
            parts.append(f"images of failed shards: {self.given_up:,}")
        return "; ".join(parts)


class LineProgress(Progress):
    """A line at the start, every 30 seconds and at the end; for logs and pipes.

    Args:
        stream: where the lines go.
        clock: monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._stream = stream
        self._shown = clock()
        self._last = ""

    def tick(self) -> None:
        """Write a line if the last one is 30 seconds old."""
        if self._clock() - self._shown >= LINE_EVERY_S:
            self.show()

    def show(self) -> None:
        """Write a line, unless it is the same as the last one."""
        self._shown = self._clock()
        parts = (self.headline(), self.details(), self.failures())
        line = "; ".join(part for part in parts if part)
        if line != self._last:
            self._write(line)
        self._last = line

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class LoggedProgress(LineProgress):
    """The same lines as records of the log, with the counts as their field `progress`."""

    def _write(self, line: str) -> None:
        counts = {
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "per_s": round(self.images_per_s, 3),
            "errors": dict(self.errors),
            "given_up": self.given_up,
        }
        logger.info("%s", line, extra={"progress": counts})


class _TwoLines(RichProgress):
    """A bar with a line of details under it."""

    details_line = ""
    failures = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        between = "; " if self.details_line and self.failures else ""
        details = (f"{self.details_line}{between}", "dim")
        yield Text.assemble(details, (self.failures, "bold red"))


class BarProgress(Progress):
    """A live bar with the same counts; for a terminal.

    Args:
        stream: the terminal.
        clock: monotonic seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._bar = _TwoLines(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            console=Console(file=stream),
        )
        self._task = self._bar.add_task("starting")

    def start(self, total: int, resumed: int, batch_size: int = 1) -> None:
        """Draw the bar already while the models are loaded."""
        super().start(total, resumed, batch_size)
        self.show()  # before the first frame, which has the true total then
        self._bar.start()

    def tick(self) -> None:
        """Draw the counts; rich limits how often it draws."""
        self.show()

    def show(self) -> None:
        """Draw the counts."""
        _, _, words = self.headline().partition(", ")
        self._bar.details_line, self._bar.failures = self.details(), self.failures()
        described = words or ("" if self._began else "starting")
        self._bar.update(self._task, completed=self.done, total=self.total, description=described)

    def close(self) -> None:
        """Leave the last state of the bar on the screen, unless the job never began."""
        super().close()
        self._bar.live.transient = self._began is None
        self._bar.stop()


def make_progress(stream: TextIO | None = None) -> Progress:
    """Return the progress that suits a stream (standard error if None)."""
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a process without standard error
        return Progress()
    if logs_json():
        return LoggedProgress(stream)
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)


def brief(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Return `2 h 5 min`, `5 min 10 s` or `10 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
