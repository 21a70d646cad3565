"""The process of a worker, whether it annotates or trains a head: environment, threads, device.

This module does not import Ray, so that a run in this process does without it, and torch only where
it is used: `ovseg status` and its kin do without that.
"""

import logging
import os
import re
import resource
import sys
from pathlib import Path

from pipeline.job.monitoring.json_log import JsonFormatter
from pipeline.storage.retry import RETRY_DELAY_ENV, TIMEOUT_ENV
from schemas.config import RunConfig
from schemas.errors import ResourceError
from schemas.untrusted import LOG_FORMAT_ENV, LOG_LINE, LogFormatter, logs_json

RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # who wants usage statistics has set the variable
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; avoids a warning
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"^Task Worker\.",  # tracebacks on stdout; the driver logs them
}
"""Environment of Ray, where the user has not set it; read when Ray is imported."""
_ANY_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_ANSWERS_WITHIN_S = 5.0
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
"""glibc returns every large block to the system and requests it again for the next batch. Workers
that keep it are 9 % faster (CLIP-DIY, embedded models). 32 MiB is the largest value it accepts."""


def set_ray_environment() -> None:
    """Set `RAY_SETTINGS` where the user has not; to be called before Ray is imported.

    A cluster that `RAY_ADDRESS` names gets the token of this machine, if it wants one.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    # Not where it wants none: the workers of a cluster without tokens die of one.
    if has_ray_token() and _wants_token(ray_address()):
        send_ray_token()


def ray_address() -> str:
    """Return the address of the cluster that the environment names; empty: none."""
    address = os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def _wants_token(address: str) -> bool:
    """Return whether the head at `HOST:PORT` refuses a call without a token; False: unknown, too.

    Asked apart from Ray, which would repeat the call for 20 s and has no exception for it.
    """
    has_tls = os.environ.get("RAY_USE_TLS", "0") not in ("", "0")
    if has_tls or not re.fullmatch(r"[^/]+:\d+", address):
        return False
    import grpc  # Ray's own; here, as hardly anybody needs it

    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_ANY_CALL)(b"", timeout=_ANSWERS_WITHIN_S)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
    return False


def send_ray_token() -> None:
    """Make Ray send its token, which it does not by itself; to be called before Ray is imported.

    Nothing where there is no token, or the user has said by RAY_AUTH_MODE whether one is sent.
    """
    if has_ray_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def has_ray_token() -> bool:
    """Return whether Ray has a token here: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or its file."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (OSError, RuntimeError):  # no home
        return False


def worker_environment(run: RunConfig) -> dict[str, str]:
    """Return the environment variables that a worker's process is started with."""
    names = (TIMEOUT_ENV, RETRY_DELAY_ENV, LOG_FORMAT_ENV)
    given = {name: os.environ[name] for name in names if name in os.environ}
    return {"OMP_NUM_THREADS": str(run.threads_per_worker), **KEEP_MEMORY, **given}


def enter_worker_process(run: RunConfig, folder: str) -> None:
    """Set log, threads and folder of a worker's process; nothing in a local run.

    To be called by the worker's constructor: when Ray restarts an actor, it calls nothing else.

    Args:
        run: the worker's share of the machine.
        folder: the driver's current folder, where relative paths start; ignored where it is not.
    """
    if run.local:
        return
    handler = logging.StreamHandler()  # into Ray's files, which many may read
    handler.setFormatter(JsonFormatter() if logs_json() else LogFormatter(LOG_LINE))
    logging.basicConfig(handlers=[handler])
    import torch

    torch.set_num_threads(run.threads_per_worker)
    if Path(folder).is_dir():  # Ray starts workers elsewhere
        os.chdir(folder)


def peak_memory(device: str) -> int:
    """Return the most memory in bytes that this process has held at once.

    Args:
        device: `cpu`; `cuda`: the memory of the GPU that torch has reserved for it.
    """
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_reserved()
    try:
        # getrusage's is inherited from the process that forked this one.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return 1024 * int(peak.split()[1])
    except (OSError, StopIteration):  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def local_device(wanted: str) -> str:
    """Return the device of a run in this process, `cpu` or `cuda`.

    Args:
        wanted: `auto`, `cpu` or `cuda`.

    Raises:
        ResourceError: `cuda` is wanted and torch sees no GPU.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ResourceError(
            "run.device is `cuda`, but torch sees no GPU on this machine; set it to `auto` or `cpu`"
        )
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"
