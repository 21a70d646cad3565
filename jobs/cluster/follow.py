"""Follow a job on a cluster: its log comes here, its exit code too, an outage is waited out."""

import logging
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jobs import console
from pipeline.job.job_server import (
    ANSWER_S,
    JobLog,
    answer_of,
    is_unknown_job,
    joined_lines,
    lost_errors,
)
from pipeline.job.termination import Termination
from schemas.errors import ConfigError, ExitCode, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

PATIENCE_ENV = "OVSEG_SUBMIT_PATIENCE_S"
"""Environment variable: seconds for which a job server that does not answer is tried again."""
DEFAULT_PATIENCE_S = 300.0
_POLL_S = 2.0
_SAY_EVERY_S = 30.0
_END_OF_LOG_S = 10.0
OF_RAY = re.compile(r"\sINFO job_manager\.py:\d+ -- ")
"""The log's first line: Ray says that it prepares the job."""


def follow(
    client: "JobSubmissionClient",
    address: str,
    job_id: str,
    begin: Callable[[], None] | None = None,
) -> int:
    """Print the log of a job until it ends; Ctrl-C and SIGTERM stop following, not the job.

    Args:
        client: of the job server.
        address: its address, to be shown.
        job_id: of the job.
        begin: called first, it starts the job; the job may have begun when it is interrupted.

    Returns:
        The job's own exit code; 130 or 143 if following was stopped; 5 if the job server was lost.

    Raises:
        ConfigError: the environment gives a patience that is no number.
    """
    patience_s = _patience_s()
    state, code = "goes on", None
    with Termination() as termination:
        try:
            if begin is not None:
                state = "may have begun"
                begin()
                state = "goes on"
                console.error_line(f"job {job_id} runs at {address}")
            code = _follow(client, job_id, patience_s)
        except KeyboardInterrupt:
            console.error_line("")
            console.error_line(f"No longer following; the job {state}.")
            stopped = ExitCode.TERMINATED if termination.requested else ExitCode.INTERRUPTED
        else:
            stopped = ExitCode.DETACHED
    if code is not None:
        return code
    how = f"{job_id} --address {address}"
    console.error_line(f"follow it again   {console.program()} logs --follow {how}")
    console.error_line(f"stop it           {console.program()} stop {how}")
    return stopped


def _follow(client: "JobSubmissionClient", job_id: str, patience_s: float) -> int | None:
    """Print the log of a job until it ends, and return its exit code.

    A server that does not answer is asked again, and the log goes on where it was, until the
    patience is used up; then None is returned.
    """
    log, lost = JobLog(client, job_id), _Lost(job_id, patience_s)
    try:
        while True:
            _print(log, _POLL_S)
            try:
                info = answer_of(client.get_job_info, job_id)
            except lost_errors() as error:
                if not lost.may_try_again(error):
                    return None
                time.sleep(min(_POLL_S, patience_s))
                continue
            is_over = info.status.is_terminal()
            if (
                lost.answers_again()
                or (log.has_ended and not log.is_complete)
                or (log.has_ended and not is_over)
            ):
                log.restart()
            if is_over:
                _print(log, _END_OF_LOG_S)
                return _exit_code(info, job_id)
    finally:
        if begun := log.take_begun_line():
            console.foreign_line(begun)


def _patience_s() -> float:
    text = os.environ.get(PATIENCE_ENV, "")
    try:
        return float(text or DEFAULT_PATIENCE_S)
    except ValueError as error:
        raise ConfigError(f"{PATIENCE_ENV}: expected seconds, but got {text!r}") from error


def _print(log: JobLog, seconds: float) -> None:
    """Print the lines that the log has within some seconds, or until its end."""
    end_s = time.monotonic() + seconds
    while not log.has_ended and (left_s := end_s - time.monotonic()) > 0:
        for text in log.read_lines(left_s):
            if not OF_RAY.search(text):
                console.foreign_line(text)
    if log.has_ended and not log.is_complete:
        time.sleep(min(0.5, seconds))


class _Lost:
    """Since when the job server does not answer, and what was said of it."""

    def __init__(self, job_id: str, patience_s: float) -> None:
        self._job_id = job_id
        self._patience_s = patience_s
        self._since_s: float | None = None
        self._said_s = float("-inf")

    def may_try_again(self, error: Exception) -> bool:
        """Say that there was no answer; return whether patience is left."""
        now = time.monotonic()
        self._since_s = now if self._since_s is None else self._since_s
        waited_s, reason = now - self._since_s, joined_lines(error)[:300]
        if is_unknown := is_unknown_job(error):
            logger.error("job %s: the job server does not know it any more", self._job_id)
        elif waited_s >= self._patience_s:
            logger.error(
                "job %s: the job server has not answered for %.0f s (%s); the job may go on",
                self._job_id,
                waited_s + ANSWER_S * isinstance(error, TimeoutError),
                reason,
            )
        elif now - self._said_s >= _SAY_EVERY_S:
            self._said_s = now
            logger.warning(
                "job %s: the job server does not answer (%s); trying again for %.0f s",
                self._job_id,
                reason,
                self._patience_s - waited_s,
            )
        return waited_s < self._patience_s and not is_unknown

    def answers_again(self) -> bool:
        """Note an answer; return whether there was none before."""
        was_lost, self._since_s, self._said_s = self._since_s is not None, None, float("-inf")
        if was_lost:
            logger.info("job %s: the job server answers again", self._job_id)
        return was_lost


def _exit_code(info: Any, job_id: str) -> int:
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "SUCCEEDED":
        return ExitCode.DONE
    if info.status == "STOPPED":  # by SIGTERM; Ray keeps no exit code then
        return ExitCode.TERMINATED
    raise ResourceError(f"job {job_id}: {info.status}: {info.message}")
