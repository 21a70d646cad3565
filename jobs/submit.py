"""`ovseg submit`: the same job on a Ray cluster, followed from here; its exit code becomes ours."""

import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from schemas.config import JobConfig
from schemas.errors import ConfigError, ExitCode, ResourceError
from schemas.redact import redact

logger = logging.getLogger(__name__)
_POLL_S = 0.5
_PATIENCE_S = 10.0
ENTRYPOINT = "python -m jobs annotate job.yaml"
"""What the cluster runs, in the uploaded folder that holds nothing but `job.yaml`."""


def submit(config: JobConfig, address: str) -> int:
    """Run a checked job on a cluster and follow its log until it ends.

    Ctrl-C stops following and leaves the job running.

    Returns:
        The job's own exit code; 130 where following was interrupted.

    Raises:
        ConfigError: paths that mean nothing on another machine.
        ResourceError: no job server at the address, or one that refuses.
    """
    _check_paths(config)
    client = _client(address)
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
        return _exit_code(client, job_id)
    except KeyboardInterrupt:
        print(_how_to_go_on(address, job_id), file=sys.stderr)
        return ExitCode.INTERRUPTED


def _check_paths(config: JobConfig) -> None:
    """Refuse relative paths: on the cluster they would lie in a copy that is thrown away."""
    places = (("images", config.images), ("image.only", config.image.only), ("out", config.out))
    for key, path in places:
        if path and "://" not in path and not Path(path).is_absolute():
            raise ConfigError(
                f"{key}: {path!r} is relative to this machine; a cluster needs a URL such as "
                f"s3://bucket/{path.lstrip('./')}, or an absolute path that all its nodes share"
            )


def _client(address: str) -> Any:
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


async def _follow(client: Any, job_id: str) -> None:
    try:
        async for text in client.tail_job_logs(job_id):
            sys.stdout.write(redact(text))
            sys.stdout.flush()
    except (RuntimeError, OSError) as error:
        logger.warning("the log of job %s broke off (%s)", job_id, _first_line(error))


def _exit_code(client: Any, job_id: str) -> int:
    """Wait until the server knows how the job ended, and return the code it ended with."""
    waited_s = 0.0
    while not (info := _info(client, job_id)).status.is_terminal():
        # Usually a moment; long only where a proxy between cut the log's connection.
        time.sleep(_POLL_S)
        waited_s += _POLL_S
        if waited_s == _PATIENCE_S:
            logger.warning("no more log from job %s; waiting for it to end", job_id)
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    if info.status == "SUCCEEDED":
        return 0
    raise ResourceError(f"job {job_id}: {info.status}: {info.message}")


def _info(client: Any, job_id: str) -> Any:
    try:
        return client.get_job_info(job_id)
    except (ConnectionError, RuntimeError) as error:
        reason = _first_line(error)
        raise ResourceError(f"job {job_id}: the job server is gone ({reason})") from error


def _how_to_go_on(address: str, job_id: str) -> str:
    ray = f"--address {redact(address)} {job_id}"
    return (
        f"\nNo longer following; the job goes on.\n"
        f"follow it again   ray job logs --follow {ray}\n"
        f"stop it           ray job stop {ray}"
    )


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
