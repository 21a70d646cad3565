"""`ovseg logs`: the log of a job on a cluster, as far as it is written, or until it ends."""

from jobs import console
from jobs.cluster.follow import OF_RAY, follow
from jobs.cluster.known_jobs import JobServer
from schemas.errors import ExitCode


def show_log(address: str, job_id: str, *, is_followed: bool = False) -> int:
    """Print the log of a job.

    Args:
        address: of the job server.
        job_id: of the job.
        is_followed: go on until the job ends, as `ovseg submit` does.

    Returns:
        0; of a followed job its own exit code, or 130, 143 or 5 if it is not followed any more.

    Raises:
        ConfigError: the server does not know the job; the address is no job server's.
        ClusterError: nothing answers.
        ResourceError: no job server answers, or it refuses.
    """
    server = JobServer(address)
    server.job(job_id)  # so that an unknown one is a mistake, not a lost server
    if is_followed:
        return follow(server.client, server.address, job_id)
    for text in server.log(job_id).splitlines():
        if not OF_RAY.search(text):
            console.foreign_line(text)
    return ExitCode.DONE
