"""The end of a training, and its exit code."""

from dataclasses import dataclass

from pipeline.job.termination import Termination
from schemas.errors import ExitCode


@dataclass(frozen=True)
class TrainingReport:
    """The end of a training.

    Attributes:
        out: the head's file, or the student's folder.
        steps: of the whole training.
        new_steps: done by this call.
        failed: images that could not be read, by error code.
        seconds: of this call.
        interrupted: stopped by Ctrl-C.
        exit_code: see `exit_code`.
    """

    out: str
    steps: int
    new_steps: int
    failed: dict[str, int]
    seconds: float
    interrupted: bool
    exit_code: ExitCode


def exit_code(
    stopped_by: Termination | None, failed: dict[str, int], num_images: int, max_error_share: float
) -> ExitCode:
    """Return the exit code of a training that raised no error.

    Args:
        stopped_by: the signals of the process, where one of them has stopped the training.
        failed: images that could not be read, by error code.
        num_images: that were to be learned.
        max_error_share: of them that may fail.

    Returns:
        DONE; INCOMPLETE: more images than that could not be read; INTERRUPTED or TERMINATED.
    """
    if stopped_by is not None:
        return ExitCode.TERMINATED if stopped_by.requested else ExitCode.INTERRUPTED
    too_many = sum(failed.values()) > max_error_share * num_images
    return ExitCode.INCOMPLETE if too_many else ExitCode.DONE
