"""How a job ended: counts, speed and the exit code."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.annotate.bottleneck import Bottleneck
from pipeline.collection.changes import Changes
from pipeline.job.progress import brief
from schemas.base import counted
from schemas.config import ALL_SHARDS, ArrayTask, JobConfig
from schemas.errors import PASSING_CODES, ErrorCode, ExitCode, lasting_codes
from schemas.records import ShardDone
from schemas.untrusted import printable


@dataclass(frozen=True)
class RunReport:
    """The end of a job. Counts are of the whole run folder, earlier runs included.

    Of a task that shares a run with others they are of its own shards, and `whole` has those of the
    run folder.

    Attributes:
        out: the run folder.
        num_images: in the collection.
        num_new: images that this run has finished.
        errors: failed images by code.
        num_multi_frame: images whose files have several frames or pages.
        num_done: images with a row, failed ones included.
        num_segments: masks.
        failed_shards: shards that this run gave up, by index, and why.
        max_error_share: a larger share of failed images is not accepted.
        seconds: how long this run took, start of workers included.
        images_per_s: speed of this run, start of workers left out.
        interrupted: stopped by Ctrl-C or SIGTERM.
        has_begun: the run folder is there; False: stopped before.
        terminated: it was SIGTERM.
        bottleneck: what limited this run.
        stop_reason: why the job stopped before its end; empty: it did not.
        changes: of the collection since an earlier job listed it; None: not known.
        updated: the run has taken these changes up.
        task: which shards are counted.
        whole: of the run folder, for one of several tasks; without times.
    """

    out: str
    num_images: int
    max_error_share: float
    num_done: int = 0
    num_new: int = 0
    num_segments: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    num_multi_frame: int = 0
    failed_shards: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_s: float = 0.0
    bottleneck: Bottleneck = field(default_factory=Bottleneck)
    interrupted: bool = False
    has_begun: bool = True
    terminated: bool = False
    stop_reason: str = ""
    changes: Changes | None = None
    updated: bool = False
    task: ArrayTask = ALL_SHARDS
    whole: "RunReport | None" = None

    @property
    def num_left_to_others(self) -> int:
        """Images that are not done, of shards that other tasks own."""
        if self.whole is None:
            return 0
        return self.whole.num_images - self.whole.num_done - (self.num_images - self.num_done)

    @property
    def num_errors(self) -> int:
        """Failed images, all codes together."""
        return sum(self.errors.values())

    @property
    def waiting(self) -> dict[str, int]:
        """Images with a passing error, by code: the same command tries them again."""
        return {code: count for code, count in self.errors.items() if code in PASSING_CODES}

    @property
    def exit_code(self) -> ExitCode:
        """DONE; INCOMPLETE: images are missing or too many failed; INTERRUPTED or TERMINATED."""
        if self.interrupted:
            return ExitCode.TERMINATED if self.terminated else ExitCode.INTERRUPTED
        too_many = self.num_errors > self.max_error_share * self.num_images
        if too_many or self.num_done < self.num_images or self.stop_reason:
            return ExitCode.INCOMPLETE
        return ExitCode.DONE

    def summary(self) -> str:
        """Return the closing lines: what is done, what failed, what is missing and what to do."""
        number, num_tasks = self.task.number, self.task.num_tasks
        lines = [self._counts(f"task {number} of {num_tasks}: " if self.whole else "")]
        if self.num_new:
            some = f"{self.num_new:,} of them now, " if self.num_new < self.num_done else ""
            speed = f"{brief(self.images_per_s)} images/s"
            lines[0] += f"; {some}{speed}; {self.seconds:.1f} s with loading"
        elif not self.interrupted and self.num_done == self.num_images and not self.waiting:
            lines[0] += "; nothing was left to do"
        lines += self._changes()
        if self.bottleneck.suggestion:
            lines.append(self.bottleneck.advice())
        if self.errors:
            share = 100 * self.num_errors / self.num_images
            lines.append(
                f"{counted(self.num_errors, 'image')} failed ({brief(share)} %; "
                f"{100 * self.max_error_share:g} % are accepted): {_by_code(self.errors)}"
            )
        lines += self._frames()
        for index, reason in list(self.failed_shards.items())[:3]:
            lines.append(f"shard {index} failed: {reason}")
        if len(self.failed_shards) > 3:
            lines.append(f"{counted(len(self.failed_shards) - 3, 'more shard')} failed")
        if self.stop_reason:
            lines.append(f"stopped: {self.stop_reason}")
        lines += self._to_try_again()
        if not self.has_begun:
            lines.append("the run had not begun, and has no folder: the same command starts it")
        elif self.num_done < self.num_images:
            lines.append("the same command goes on from here")
        lines += self._others()
        return "\n".join(map(printable, lines))  # a name in a reason cannot forge a line

    def _counts(self, whose: str) -> str:
        return (
            f"{whose}{self.num_done:,} of {counted(self.num_images, 'image')} done, "
            f"{counted(self.num_segments, 'mask')}"
        )

    def _others(self) -> list[str]:
        """Return what became of the run that is shared with other tasks, and what ends it."""
        if self.whole is None:
            return []
        line = self.whole._counts("whole run: ")
        if failed := self.whole.num_errors:
            line += f", {counted(failed, 'image')} failed"
        if not (others := self.num_left_to_others):
            return [line]
        lines = [f"{line}; {counted(others, 'image')} left to the other tasks"]
        if self.num_done == self.num_images:
            lines.append(
                "when all tasks have ended: the same command without --shards does what they left, "
                "if anything, and reports the whole run"
            )
        return lines

    def _to_try_again(self) -> list[str]:
        lines: list[str] = []
        if self.interrupted:
            return lines
        if self.waiting:
            waiting = counted(sum(self.waiting.values()), "image")
            codes = _by_code(self.waiting)
            gone = ErrorCode.NOT_FOUND in self.waiting
            advice = "; what is gone for good leaves the run with --update" if gone else ""
            lines.append(f"to be tried again by the same command: {waiting} ({codes}){advice}")
        if codes := lasting_codes(self.errors):
            lines.append(f"once mended: the same command with --retry-errors {codes}")
        return lines

    def _changes(self) -> list[str]:
        changed = self.changes.describe() if self.changes else ""
        if self.updated:
            return [f"the run was updated: {changed or 'no image is new, changed or vanished'}"]
        if not changed:
            return []
        return [
            f"the collection has changed since the run listed it: {changed}; the same command with "
            "--update annotates what is new or changed"
        ]

    def _frames(self) -> list[str]:
        if not self.num_multi_frame:
            return []
        return [
            f"{counted(self.num_multi_frame, 'image')} of several frames or pages: the first "
            "frame, or the largest page, is annotated (column num_frames of images)"
        ]


def _by_code(counts: dict[str, int]) -> str:
    return ", ".join(f"{code} {count:,}" for code, count in sorted(counts.items()))


def sum_up(
    config: JobConfig,
    shard_sizes: NDArray[np.int64],
    done: dict[int, ShardDone],
    changes: Changes | None = None,
    *,
    updated: bool = False,
) -> RunReport:
    """Return the report of a job; without times.

    Args:
        config: the job.
        shard_sizes: (shards,) how many images of the collection each shard has.
        done: markers of the run's finished shards.
        changes: see `RunReport`.
        updated: likewise.
    """
    task = config.run.task
    whole = _count(config, int(shard_sizes.sum()), done.values())
    if task.num_tasks == 1:
        return replace(whole, changes=changes, updated=updated)
    own = [marker for shard, marker in done.items() if task.owns(shard)]
    num_images = int(shard_sizes[task.own].sum())
    counts = _count(config, num_images, own)
    return replace(counts, changes=changes, updated=updated, task=task, whole=whole)


def _count(config: JobConfig, num_images: int, done: Iterable[ShardDone]) -> RunReport:
    """Return the counts of some shards, which have so many images, given their done markers."""
    tallies = [marker.tally for marker in done]
    errors: Counter[str] = Counter()
    for tally in tallies:
        errors.update(tally.errors)
    return RunReport(
        out=config.out,
        num_images=num_images,
        max_error_share=config.run.max_error_share,
        num_done=sum(tally.num_images for tally in tallies),
        num_segments=sum(tally.num_segments for tally in tallies),
        errors=dict(sorted(errors.items())),
        num_multi_frame=sum(tally.num_multi_frame for tally in tallies),
    )
