"""What the workers of a training tell its driver.

This module imports no torch: the actor on Ray that holds the board then starts in a moment.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from pipeline.training.progress import TrainingTally


@dataclass(frozen=True)
class StudentTally(TrainingTally):
    """The state of a student's training.

    Attributes:
        counts: images by what became of them, in words.
        best_miou: of the best validation so far; None: there was none, or the student is finished.
        best_step: step of that validation.
        images_per_s: speed of training, over all workers; None: not known yet.
        peak_bytes: the most memory of this worker's process, or of its GPU.
    """

    counts: dict[str, int] = field(default_factory=dict)
    best_miou: float | None = None
    best_step: int = 0
    images_per_s: float | None = None
    peak_bytes: int = 0


class TrainingBoard:
    """What the workers of one group tell the driver, and it tells them; an actor."""

    def __init__(self) -> None:
        self._tally: StudentTally | None = None
        self._begun: list[StudentTally] = []
        self._failed: dict[int, dict[str, int]] = {}
        self._is_stopped = False

    def put(self, rank: int, tally: StudentTally) -> bool:
        """Note the state of a worker; return whether it has to stop."""
        self._failed[rank] = tally.failed
        if rank == 0:
            if self._tally is None:
                self._begun = [tally]
            self._tally = tally
        return self._is_stopped

    def take(self) -> list[StudentTally]:
        """Return the first worker's newest state, with the unreadable images of all.

        The first call returns the state in which the training began as well: what is done by this
        call of the command counts from there.
        """
        if self._tally is None:
            return []
        begun, self._begun = self._begun, []
        failed = sum(map(Counter, self._failed.values()), Counter())
        return [*begun, replace(self._tally, failed=dict(failed))]

    def stop(self) -> None:
        """Let the first worker end the training at its next report."""
        self._is_stopped = True
