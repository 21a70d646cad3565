"""The Ray cluster of a job: start or join it, see what it has, and leave nothing behind."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.job.worker_process import worker_environment
from schemas.config import RunConfig
from schemas.errors import ResourceError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""Only image references and tallies are stored there; Ray's default takes a third of the memory."""


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names (Ray sets it inside a job), else start one here.

    A Ray that the caller has started already is used and left running.

    Raises:
        ResourceError: no cluster at the address, or none could be started.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        _start(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address != "local":
            raise ResourceError(
                f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); "
                "unset RAY_ADDRESS to run on this machine"
            ) from error
        logger.warning("Ray did not start (%s); trying once more", error)
        ray.shutdown()
        try:
            _start(address)
        except (ConnectionError, RuntimeError, ValueError, OSError) as again:
            raise ResourceError(
                f"Ray does not start on this machine ({again}); `run.local=true` works without it"
            ) from again
    try:
        yield
    finally:
        ray.shutdown()


def _start(address: str) -> None:
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address,
            **(own if address == "local" else {}),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        # On a busy machine a node may start too slowly; Ray says so by a plain Exception.
        if type(error) is not Exception:
            raise
        raise ConnectionError(str(error)) from error


def cluster_device(run: RunConfig) -> str:
    """Return the device of the workers, `cpu` or `cuda`.

    Raises:
        ResourceError: `cuda` is wanted and the cluster has no GPU.
    """
    num_gpus = sum(node.get("GPU", 0.0) for node in _nodes())
    if run.device == "cuda" and not num_gpus:
        raise ResourceError(
            "run.device is `cuda`, but the Ray cluster has no GPU; "
            "set run.device to `auto` or `cpu`, or join a cluster with GPUs"
        )
    return "cpu" if run.device == "cpu" or not num_gpus else "cuda"


def worker_demand(run: RunConfig, device: str) -> dict[str, float]:
    """Return the resources of one worker, by Ray's names for them."""
    gpus = run.gpus_per_worker if device == "cuda" else 0.0
    return {"CPU": run.cpus_per_worker, "GPU": gpus}


def capacity(demand: dict[str, float]) -> int:
    """Return how many workers the living nodes hold together."""
    return sum(workers_on(node, demand) for node in _nodes())


def check_capacity(demand: dict[str, float]) -> None:
    """Check that some node can hold a worker.

    Raises:
        ResourceError: names the setting that is too high.
    """
    for kind, amount in demand.items():
        most = max((node.get(kind, 0.0) for node in _nodes()), default=0.0)
        if amount > most:
            raise ResourceError(
                f"run.{kind.lower()}s_per_worker is {amount:g}, but no machine of the cluster has "
                f"more than {most:g} {kind}s; lower it"
            )


def workers_on(node: dict[str, float], demand: dict[str, float]) -> int:
    """Return how many workers one node holds; resources with a demand of 0 do not count."""
    shares = [node.get(kind, 0.0) / amount for kind, amount in demand.items() if amount > 0]
    return math.floor(min(shares) + 1e-6)


def start_actor(worker: type, setup: object, run: RunConfig, demand: dict[str, float]) -> Any:
    """Start a worker as a Ray actor, which Ray restarts when it dies, and return its handle.

    Args:
        worker: the class.
        setup: the constructor's argument.
        run: the worker's share of the machine.
        demand: its resources, see `worker_demand`.
    """
    options = {
        "num_cpus": demand["CPU"],
        "num_gpus": demand["GPU"],
        "max_restarts": -1,
        "max_task_retries": 2,
        "runtime_env": {"env_vars": worker_environment(run)},
    }
    return ray.remote(worker).options(**options).remote(setup)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
