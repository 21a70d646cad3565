"""`ovseg submit`: run a job on a Ray cluster, follow its log, return its exit code."""

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from schemas.config import JobConfig
from schemas.errors import ConfigError, ExitCode, ResourceError
from schemas.redact import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

ENTRYPOINT = "python -m jobs annotate job.yaml"
"""Command that the cluster runs in the uploaded folder, which holds only `job.yaml`."""
_POLL_S = 0.5
_LONG_WAIT_S = 10.0


def submit(config: JobConfig, address: str) -> int:
    """Run a checked job on a cluster and follow its log until it ends.

    Ctrl-C stops following and leaves the job running.

    Returns:
        The job's own exit code; 130 if following was interrupted.

    Raises:
        ConfigError: relative paths, which do not exist on another machine.
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
    client = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        job = config.model_dump(mode="json")
        text = yaml.safe_dump(job, sort_keys=False, allow_unicode=True)
        (Path(folder) / "job.yaml").write_text(text, encoding="utf-8")
        try:
            job_id = client.submit_job(entrypoint=ENTRYPOINT, runtime_env={"working_dir": folder})
        except RuntimeError as error:
            raise ResourceError(f"{address}: the job was refused: {_first_line(error)}") from error
    print(f"job {job_id} runs at {redact(address)}", file=sys.stderr)
    try:
        asyncio.run(_follow(client, job_id))
        return _wait_for_exit_code(client, job_id)
    except KeyboardInterrupt:
        ray = f"--address {redact(address)} {job_id}"
        print(
            f"\nNo longer following; the job goes on.\n"
            f"follow it again   ray job logs --follow {ray}\n"
            f"stop it           ray job stop {ray}",
            file=sys.stderr,
        )
        return ExitCode.INTERRUPTED


def _connect(address: str) -> "JobSubmissionClient":
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise ResourceError(
            f"{address}: no Ray job server answers ({_first_line(error)}); "
            "expected the address of the head's dashboard, such as http://head:8265"
        ) from error


async def _follow(client: "JobSubmissionClient", job_id: str) -> None:
    """Print the log of a job until it ends or the connection breaks."""
    try:
        async for text in client.tail_job_logs(job_id):
            sys.stdout.write(redact(text))
            sys.stdout.flush()
    except (RuntimeError, OSError) as error:
        logger.warning("the log of job %s broke off (%s)", job_id, _first_line(error))


def _wait_for_exit_code(client: "JobSubmissionClient", job_id: str) -> int:
    """Return the exit code of a job as soon as the server knows it.

    That is usually a moment after the log's end; longer if a proxy cut the log's connection.
    """
    waited_s = 0.0
    while True:
        try:
            info = client.get_job_info(job_id)
        except (ConnectionError, RuntimeError) as error:
            raise ResourceError(
                f"job {job_id}: the job server no longer answers ({_first_line(error)})"
            ) from error
        if info.status.is_terminal():
            break
        time.sleep(_POLL_S)
        waited_s += _POLL_S
        if waited_s == _LONG_WAIT_S:
            logger.warning("no more log from job %s; waiting for it to end", job_id)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "SUCCEEDED":
        return ExitCode.DONE
    raise ResourceError(f"job {job_id}: {info.status}: {info.message}")


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
