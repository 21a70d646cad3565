"""How a job ended: counts, speed and the exit code."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.annotate.bottleneck import Bottleneck
from pipeline.collection.changes import Changes
from pipeline.job.progress import brief
from schemas.base import counted
from schemas.config import JobConfig
from schemas.errors import PASSING_CODES, ExitCode, lasting_codes
from schemas.records import ShardDone
from schemas.untrusted import printable


@dataclass(frozen=True)
class RunReport:
    """The end of a job. Counts are of the whole run folder, earlier runs included.

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
        terminated: it was SIGTERM.
        bottleneck: what limited this run.
        stop_reason: why the job stopped before its end; empty: it did not.
        changes: of the collection since an earlier job listed it; None: not known.
        updated: the run has taken these changes up.
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
    terminated: bool = False
    stop_reason: str = ""
    changes: Changes | None = None
    updated: bool = False

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
        lines = [
            f"{self.num_done:,} of {counted(self.num_images, 'image')} done, "
            f"{counted(self.num_segments, 'mask')}"
        ]
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
        if self.num_done < self.num_images:
            lines.append("the same command goes on from here")
        return "\n".join(map(printable, lines))  # a name in a reason cannot forge a line

    def _to_try_again(self) -> list[str]:
        lines: list[str] = []
        if self.interrupted:
            return lines
        if self.waiting:
            waiting = counted(sum(self.waiting.values()), "image")
            codes = _by_code(self.waiting)
            lines.append(f"to be tried again by the same command: {waiting} ({codes})")
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
    num_images: int,
    done: dict[int, ShardDone],
    changes: Changes | None = None,
    *,
    updated: bool = False,
) -> RunReport:
    """Return the report of a run folder, given its done markers; without times of this run."""
    errors: Counter[str] = Counter()
    for marker in done.values():
        errors.update(marker.tally.errors)
    return RunReport(
        out=config.out,
        num_images=num_images,
        max_error_share=config.run.max_error_share,
        num_done=sum(marker.tally.num_images for marker in done.values()),
        num_segments=sum(marker.tally.num_segments for marker in done.values()),
        errors=dict(sorted(errors.items())),
        num_multi_frame=sum(marker.tally.num_multi_frame for marker in done.values()),
        changes=changes,
        updated=updated,
    )
