"""The jobs that a cluster's job server knows, those of `ovseg submit`."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs import console
from pipeline.job.job_server import (
    answer_of,
    connect_to_server,
    is_unknown_job,
    joined_lines,
    lost_errors,
    server_address,
)
from schemas.errors import ClusterError, ConfigError, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

OWN_JOBS = "ovseg-"
"""How the ids of ovseg's jobs begin."""


@dataclass(frozen=True)
class KnownJob:
    """A job as its server tells it.

    Attributes:
        id: of the job.
        state: `pending`, `running`, `succeeded`, `failed` or `stopped`, as Ray says it.
        is_over: it does not run any more.
        exit_code: of the command; None: it runs, or was stopped.
        begun: when it was taken, in UTC; None: the server does not say.
        took_s: seconds since then, until now or its end.
        out: its run folder; empty: unknown.
        message: what Ray says of the state.
    """

    id: str
    state: str
    is_over: bool
    exit_code: int | None
    begun: datetime | None
    took_s: float
    out: str
    message: str

    @classmethod
    def of(cls, info: Any) -> "KnownJob":
        """Return a job of Ray's details of it."""
        end_s = time.time() if info.end_time is None else info.end_time / 1000
        begun_s = end_s if info.start_time is None else info.start_time / 1000
        return cls(
            id=info.submission_id,
            state=info.status.value.lower(),
            is_over=info.status.is_terminal(),
            exit_code=info.driver_exit_code,
            begun=None if info.start_time is None else datetime.fromtimestamp(begun_s, UTC),
            took_s=max(0.0, end_s - begun_s),
            out=(info.metadata or {}).get("out", ""),
            message=info.message or "",
        )


class JobServer:
    """A cluster's job server.

    Args:
        address: as it was typed.

    Raises:
        ConfigError: it is no job server's.
        ClusterError: nothing answers.
        ResourceError: no job server answers, or it refuses.
    """

    def __init__(self, address: str) -> None:
        self.address = server_address(address)
        self.client: JobSubmissionClient = connect_to_server(self.address)

    def jobs(self) -> list[KnownJob]:
        """Return ovseg's jobs, the last one first."""
        infos = self._answer(self.client.list_jobs)
        own = [info for info in infos if (info.submission_id or "").startswith(OWN_JOBS)]
        own.sort(key=lambda info: info.start_time or 0, reverse=True)
        return [KnownJob.of(info) for info in own]

    def job(self, job_id: str) -> KnownJob:
        """Return one job.

        Raises:
            ConfigError: the server does not know it.
        """
        return KnownJob.of(self._answer(self.client.get_job_info, job_id))

    def stop(self, job_id: str) -> None:
        """Ask for the end of a job that runs: SIGTERM."""
        self._answer(self.client.stop_job, job_id)

    def log(self, job_id: str) -> str:
        """Return the log of a job as far as it is written."""
        return self._answer(self.client.get_job_logs, job_id)

    def _answer(self, call: Any, *args: str) -> Any:
        try:
            return answer_of(call, *args)
        except lost_errors() as error:
            if is_unknown_job(error):
                raise ConfigError(
                    f"{self.address}: it knows no job {', '.join(args)}; `{console.program()} "
                    f"status --address {self.address}` lists those it knows (a head that was "
                    "started anew knows none of before)"
                ) from error
            kind = ClusterError if isinstance(error, OSError) else ResourceError
            raise kind(f"{self.address}: {joined_lines(error)}") from error
