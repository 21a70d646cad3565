"""`ovseg submit`: run a job on a Ray cluster, follow its log, return its exit code."""

import logging
import secrets
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cluster.follow import follow
from jobs.cluster.known_jobs import OWN_JOBS
from jobs.cluster.upload import ENTRYPOINT, write_upload
from pipeline.job.job_server import (
    answer_of,
    connect_to_server,
    joined_lines,
    lost_errors,
    server_address,
)
from pipeline.run.trust.confirmed import remember_folder
from schemas.config import JobConfig
from schemas.errors import ConfigError, ResourceError
from schemas.redact import places_of_secrets

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)

_UPLOAD_S = 120.0
_UPLOAD_CODE_S = 900.0


def submit(config: JobConfig, address: str, *, ship: bool = False) -> int:
    """Run a checked job on a cluster and follow its log until it ends.

    Ctrl-C and SIGTERM stop following and leave the job running.

    Args:
        config: the job.
        address: of the cluster's job server, as it was typed.
        ship: the cluster runs the ovseg of this machine, which is sent along.

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
    address = server_address(address)
    client = connect_to_server(address)
    job_id = f"{OWN_JOBS}{secrets.token_hex(6)}"  # ours, so that a lost answer loses no job

    def begin() -> None:
        _start(client, config, address, job_id, ship=ship)
        remember_folder(config.out, config)  # so that its images can be seen from here

    return follow(client, address, job_id, begin)


def _start(
    client: "JobSubmissionClient", config: JobConfig, address: str, job_id: str, *, ship: bool
) -> None:
    """Upload and start the job."""
    with tempfile.TemporaryDirectory() as folder:
        start = partial(
            client.submit_job,
            entrypoint=ENTRYPOINT,
            runtime_env=write_upload(config, Path(folder), ship=ship),
            submission_id=job_id,
            metadata={"out": config.out},
        )
        try:
            answer_of(start, limit_s=_UPLOAD_CODE_S if ship else _UPLOAD_S)
        except OSError as error:  # the job may have started all the same
            logger.warning("%s: the answer to the job was lost (%s)", address, joined_lines(error))
        except lost_errors() as error:
            raise ResourceError(f"{address}: the job was refused: {joined_lines(error)}") from error
