"""`ovseg submit`: run a job on a Ray cluster, follow its log, return its exit code."""

import logging
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobs import console
from pipeline.job.job_server import (
    ANSWER_S,
    JobLog,
    answer_of,
    connect_to_server,
    joined_lines,
    lost_errors,
    server_address,
)
from pipeline.job.termination import Termination
from pipeline.run.trust.confirmed import remember_folder
from pipeline.storage.retry import TIMEOUT_ENV
from schemas.config import JobConfig
from schemas.errors import ConfigError, ExitCode, ResourceError
from schemas.redact import places_of_secrets
from schemas.untrusted import LOG_FORMAT_ENV

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

ENTRYPOINT = "sh annotate.sh"
"""Command that the cluster runs in the uploaded folder: `job.yaml` and the script below."""
_SCRIPT = """\
# Annotates by the first interpreter of this node that has ovseg.
for python in python python3 {own}; do
  if "$python" -c 'import jobs.cli, ovseg_core, pipeline' 2>/dev/null; then
    exec "$python" -m jobs annotate job.yaml
  fi
done
echo "error: ovseg is not installed on the cluster's nodes: none of python and python3 on the" \\
  "PATH of $(hostname), and" {own} "has it. Install the same version on every node, and start" \\
  "Ray from that environment: activate it, then \\`ray start\\`" >&2
exit 1
"""
PATIENCE_ENV = "OVSEG_SUBMIT_PATIENCE_S"
"""Environment variable: seconds for which a job server that does not answer is tried again."""
DEFAULT_PATIENCE_S = 300.0
_PASSED_ON = (TIMEOUT_ENV, LOG_FORMAT_ENV)
"""Environment variables of this command that the cluster's gets, too."""
_POLL_S = 2.0
_SAY_EVERY_S = 30.0
_UPLOAD_S = 120.0
_END_OF_LOG_S = 10.0
_OF_RAY = re.compile(r"\sINFO job_manager\.py:\d+ -- ")
"""The log's first line: Ray says that it prepares the job."""


def submit(config: JobConfig, address: str) -> int:
    """Run a checked job on a cluster and follow its log until it ends.

    Ctrl-C and SIGTERM stop following and leave the job running.

    Returns:
        The job's own exit code; 130 or 143 if following was stopped; 5 if the job server was lost.

    Raises:
        ConfigError: relative paths, which do not exist on another machine; a wrong setting; an
            address that is no job server's.
        ClusterError: nothing answers at the address.
        ResourceError: no job server at the address, or one that refuses.
    """
    places = (("images", config.images), ("image.only", config.image.only), ("out", config.out))
    for key, path in places:
        if path and "://" not in path and not Path(path).is_absolute():
            # On the cluster it would lie in a copy that is thrown away.
            raise ConfigError(
                f"{key}: {path!r} is relative to this machine; a cluster needs a URL such as "
                f"s3://bucket/{path.lstrip('./')}, or an absolute path that all its nodes share"
            )
    if config.run.shards:
        raise ConfigError(
            f"run.shards: {config.run.shards!r} is one of several tasks that share a run without "
            "Ray; the workers of a cluster share it by themselves: leave it out"
        )
    if found := places_of_secrets(config.model_dump(mode="json")):
        raise ConfigError(
            *(
                f"{place}: it holds a password, token or signature, which every user of the "
                "cluster could read in the uploaded job; give the address without it, and the "
                "credentials by the cluster's environment"
                for place in found
            )
        )
    patience_s = _patience_s()
    address = server_address(address)
    client = connect_to_server(address)
    job_id = f"ovseg-{secrets.token_hex(6)}"  # ours, so that a lost answer loses no job
    state, code = "may have begun", None
    with Termination() as termination:
        try:
            _submit(client, config, address, job_id)
            state = "goes on"
            remember_folder(config.out, config)  # so that its images can be seen from here
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
    how = f"--address {address} {job_id}"
    # Ray's own commands send no token unless they are told.
    ray = "RAY_AUTH_MODE=token ray" if os.environ.get("RAY_AUTH_MODE") == "token" else "ray"
    console.error_line(f"follow it again   {ray} job logs --follow {how}")
    console.error_line(f"stop it           {ray} job stop {how}")
    return stopped


def _patience_s() -> float:
    text = os.environ.get(PATIENCE_ENV, "")
    try:
        return float(text or DEFAULT_PATIENCE_S)
    except ValueError as error:
        raise ConfigError(f"{PATIENCE_ENV}: expected seconds, but got {text!r}") from error


def cluster_script(own_python: str) -> str:
    """Return the shell script that finds the cluster's ovseg and runs `job.yaml` by it.

    Args:
        own_python: the interpreter of this machine, tried after those on the node's PATH: the head
            may run on this machine, or share its disk.
    """
    return _SCRIPT.format(own=shlex.quote(own_python))


def _submit(client: "JobSubmissionClient", config: JobConfig, address: str, job_id: str) -> None:
    """Upload and start the job."""
    with tempfile.TemporaryDirectory() as folder:
        job = config.model_dump(mode="json")
        text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True)
        (Path(folder) / "job.yaml").write_text(text, encoding="utf-8")
        script = cluster_script(sys.executable or "python")
        (Path(folder) / "annotate.sh").write_text(script, encoding="utf-8")
        runtime_env: dict[str, Any] = {"working_dir": folder}
        given = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if given:
            runtime_env["env_vars"] = given
        start = partial(
            client.submit_job,
            entrypoint=ENTRYPOINT,
            runtime_env=runtime_env,
            submission_id=job_id,
        )
        try:
            answer_of(start, limit_s=_UPLOAD_S)
        except OSError as error:  # the job may have started all the same
            logger.warning("%s: the answer to the job was lost (%s)", address, joined_lines(error))
        except lost_errors() as error:
            raise ResourceError(f"{address}: the job was refused: {joined_lines(error)}") from error


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


def _print(log: JobLog, seconds: float) -> None:
    """Print the lines that the log has within some seconds, or until its end."""
    end_s = time.monotonic() + seconds
    while not log.has_ended and (left_s := end_s - time.monotonic()) > 0:
        for text in log.read_lines(left_s):
            if not _OF_RAY.search(text):
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
        if is_unknown := _is_unknown(error):
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


def _is_unknown(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and "status code 404" in str(error)


def _exit_code(info: Any, job_id: str) -> int:
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "SUCCEEDED":
        return ExitCode.DONE
    if info.status == "STOPPED":  # `ray job stop` sends SIGTERM, and keeps no exit code
        return ExitCode.TERMINATED
    raise ResourceError(f"job {job_id}: {info.status}: {info.message}")
