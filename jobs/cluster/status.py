"""`ovseg status`: what a cluster's job server knows of ovseg's jobs, or of one of them."""

from jobs import console
from jobs.cluster.known_jobs import JobServer, KnownJob
from pipeline.job.progress import duration
from schemas.errors import ExitCode


def show_status(address: str, job_id: str = "", *, as_json: bool = False) -> None:
    """Print a table of the jobs, or all about one job and how to go on.

    Args:
        address: of the job server.
        job_id: of the one job; empty: all.
        as_json: print JSON in place of text.

    Raises:
        ConfigError: the server does not know the job; the address is no job server's.
        ClusterError: nothing answers.
        ResourceError: no job server answers, or it refuses.
    """
    server = JobServer(address)
    jobs = [server.job(job_id)] if job_id else server.jobs()
    if as_json:
        console.print_json(_described(jobs[0]) if job_id else list(map(_described, jobs)))
    elif job_id:
        _show_job(server.address, jobs[0])
    elif jobs:
        columns = ("job", "state", "exit code", "begun", "for", "run folder")
        rows = [
            (job.id, job.state, job.exit_code, _begun(job), duration(job.took_s), job.out)
            for job in jobs
        ]
        console.table(f"Jobs at {server.address}", columns, rows)
    else:
        console.line(f"{server.address} knows no job of `ovseg submit`")


def _show_job(address: str, job: KnownJob) -> None:
    console.facts(
        [
            ("job", job.id),
            ("state", f"{job.state}: {_meaning(job)}"),
            ("begun", _begun(job)),
            ("for", duration(job.took_s)),
            ("run folder", job.out),
        ]
    )
    how = f"{job.id} --address {address}"
    follow = "" if job.is_over else " --follow"
    console.line()
    console.line(f"its log      {console.program()} logs{follow} {how}")
    if not job.is_over:
        console.line(f"stop it      {console.program()} stop {how}")
    if job.out:
        console.line(f"its shards   {console.program()} inspect {job.out}")


def _meaning(job: KnownJob) -> str:
    if job.exit_code is None:
        goes_on = {
            "pending": "the cluster prepares it, or has no room for it yet",
            "running": "it annotates, or is about to",
            "stopped": "what it has finished stays; the same `submit` goes on",
        }
        return goes_on.get(job.state, " ".join(job.message.split())[:300])
    words: dict[int, str] = {
        ExitCode.DONE: "all done",
        ExitCode.USER_ERROR: "a mistake to be corrected, which its log names",
        ExitCode.INCOMPLETE: "it has ended, and something is missing, which its log names",
        ExitCode.OUTAGE: "a store or the cluster was away or full; the same `submit` goes on",
        ExitCode.INTERRUPTED: "it was interrupted; the same `submit` goes on",
        ExitCode.TERMINATED: "it was ended; the same `submit` goes on",
    }
    return f"exit code {job.exit_code}, {words.get(job.exit_code, 'see its log')}"


def _begun(job: KnownJob) -> str:
    return "" if job.begun is None else f"{job.begun.astimezone():%Y-%m-%d %H:%M:%S}"


def _described(job: KnownJob) -> dict[str, object]:
    return {
        "id": job.id,
        "state": job.state,
        "is_over": job.is_over,
        "exit_code": job.exit_code,
        "begun": None if job.begun is None else job.begun.isoformat(),
        "took_s": round(job.took_s, 3),
        "out": job.out,
        "message": job.message,
    }
