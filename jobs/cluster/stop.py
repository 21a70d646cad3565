"""`ovseg stop`: end a job on a cluster, wait until its running shards are handed in."""

import time

from jobs import console
from jobs.cluster.known_jobs import JobServer
from jobs.cluster.upload import STOP_WAIT_S
from pipeline.job.progress import duration
from schemas.errors import ClusterError

_POLL_S = 0.5
_UNTIL_KILLED_S = STOP_WAIT_S + 30.0


def stop_job(address: str, job_id: str) -> None:
    """Send a job SIGTERM, wait for its end and say how to go on.

    Args:
        address: of the job server.
        job_id: of the job.

    Raises:
        ConfigError: the server does not know the job; the address is no job server's.
        ClusterError: nothing answers, or the job does not end.
        ResourceError: no job server answers, or it refuses.
    """
    server = JobServer(address)
    job = server.job(job_id)
    if job.is_over:
        console.line(f"job {job_id} had ended before: {job.state}")
        return
    began_s = time.monotonic()
    server.stop(job_id)
    console.error_line("it hands in the shards that are running ...")
    while not job.is_over:
        if time.monotonic() - began_s > _UNTIL_KILLED_S:
            raise ClusterError(
                f"job {job_id}: it was asked to end {_UNTIL_KILLED_S:.0f} s ago, and is still "
                f"{job.state}; the same command asks again"
            )
        time.sleep(_POLL_S)
        job = server.job(job_id)
    console.line(f"job {job_id} has ended after {duration(time.monotonic() - began_s)}")
    where = f" in {job.out}" if job.out else ""
    console.line(f"its finished shards stay{where}; the same `ovseg submit` goes on from there")
