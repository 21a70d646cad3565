"""The Ray cluster of a job: start or join it, see what it has, and leave nothing behind."""

import logging
import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources

from pipeline.job.worker_process import ray_address, worker_environment
from pipeline.storage.waiting import waiting
from schemas.config import RunConfig
from schemas.errors import ClusterError, ResourceError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
"""Only image references and tallies are stored there; Ray's default takes a third of the memory."""
HEAD_ANSWERS_S = 10.0
"""A cluster's head that does not answer within this time is not there; Ray waits for minutes."""
LOOK_EVERY_S = 5.0
"""How often a running job looks whether the head still answers."""
ASK_FOR_NODE_EVERY_S = 20.0
"""How often it asks the head whether this machine is still part of the cluster."""
_RECONNECT_ENV = "RAY_gcs_rpc_server_reconnect_timeout_s"
_RECONNECT_S, _SHARE_OF_IT = 60.0, 0.6
"""So long Ray itself waits for a head that is gone, then it ends the process from C++, without an
exception; a job waits for a share of that time."""
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The beginning of every gRPC connection, with empty settings; a server answers with its own."""
_MEMORY = re.compile(
    r"Memory on the node \(IP: (?P<ip>[^,)]+)[^)]*\) was (?P<used>\S+) used / (?P<limit>\S+) limit"
)
NOTES = "notes"
"""The group of an actor's methods that answer while another one runs."""
MAX_RESTARTS = 5
"""How often Ray itself restarts a worker; then the driver learns why it dies, and replaces it."""


def is_given() -> bool:
    """Return whether `connected` joins a cluster that is there, whose nodes are other machines."""
    return ray.is_initialized() or bool(ray_address())


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names (Ray sets it inside a job), else start one here.

    A Ray that the caller has started already is used and left running.

    Raises:
        ClusterError: no cluster at the address.
        ResourceError: none could be started.
    """
    if ray.is_initialized():
        yield
        return
    address = ray_address() or "local"
    answers = False
    try:
        answers = _check_head(address, HEAD_ANSWERS_S)
        _start(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address != "local":
            problem = (
                f"the Ray cluster at RAY_ADDRESS={address} does not let this process in ({error}): "
                "it may ask for another token (RAY_AUTH_MODE, RAY_AUTH_TOKEN, ~/.ray/auth_token) "
                "or have another version of Ray"
                if answers
                else f"no Ray cluster answers at RAY_ADDRESS={address} ({error})"
            )
            raise ClusterError(f"{problem}; unset RAY_ADDRESS to run on this machine") from error
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


class ClusterHead:
    """The head of a cluster: nearly all calls of Ray need it, and do not return while it is away.

    Args:
        address: `HOST:PORT`; empty: not known, and not looked at.
        node_id: Ray's name of this process's own node, through which it gives work to others;
            empty: not known, and not looked at.
    """

    def __init__(self, address: str, node_id: str = "") -> None:
        self._address = address
        self._node_id = node_id
        self._looked_s = self._asked_s = time.monotonic()

    @classmethod
    def joined(cls) -> "ClusterHead":
        """Return the head of the cluster that this process has joined."""
        try:
            context = ray.get_runtime_context()
            return cls(context.gcs_address, context.get_node_id())
        except (AttributeError, RuntimeError):  # a client, ray://, has errors of its own
            return cls("")

    def wait(self) -> None:
        """Return when the head answers, most often at once.

        Raises:
            ClusterError: it does not, for about 40 s.
        """
        patience_s = _SHARE_OF_IT * float(os.environ.get(_RECONNECT_ENV) or _RECONNECT_S)
        with waiting(f"the head of the Ray cluster at {self._address}") as wait:
            while True:
                self._looked_s = time.monotonic()
                try:
                    _check_head(self._address, LOOK_EVERY_S)
                except OSError as error:
                    wait.detail = str(error)
                else:
                    return
                waited_s = time.monotonic() - wait.began_s
                if waited_s >= patience_s:
                    raise ClusterError(
                        f"the head of the Ray cluster at {self._address} has not answered for "
                        f"{waited_s:.0f} s ({wait.detail}): what is committed stays, the same "
                        "command goes on when there is a cluster again"
                    )
                time.sleep(1.0)

    def wait_now_and_then(self) -> None:
        """Do what `wait` does, every few seconds; for loops.

        Raises:
            ClusterError: see `wait`; or the cluster has lost this machine.
        """
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
            self.wait()
        if self._node_id and time.monotonic() - self._asked_s >= ASK_FOR_NODE_EVERY_S:
            self._asked_s = time.monotonic()
            self._check_own_node()

    def _check_own_node(self) -> None:
        """Check that Ray still counts on this machine; a node that was given up never comes back.

        Raises:
            ClusterError: without a word of Ray's, all work would stand still for ever.
        """
        alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
        if not alive.get(self._node_id, True):
            raise ClusterError(
                "the Ray cluster has lost the machine on which this job was started (its raylet "
                f"ended, or did not answer in time; {sum(alive.values())} of {len(alive)} machines "
                "are left): what is committed stays, the same command goes on when the cluster is "
                "started anew"
            )


def _check_head(address: str, limit_s: float) -> bool:
    """Check that a Ray head answers at `HOST:PORT` or `ray://HOST:PORT`.

    Args:
        address: of the head.
        limit_s: seconds until the connection is made, and until there is an answer.

    Returns:
        Whether the head was called; an address of another form, such as `auto`, is not.

    Raises:
        OSError: why not.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return False
    with socket.create_connection((host.strip("[]"), int(port)), limit_s) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return True
        connection.sendall(_HTTP2_PREFACE)
        try:
            answer = connection.recv(1)
        except TimeoutError:
            raise TimeoutError(f"no answer within {limit_s:g} s") from None
        if not answer:
            raise ConnectionError("the connection was closed")
    return True


def _start(address: str) -> None:
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    what = "Ray to start here" if address == "local" else f"the Ray cluster at {address}"
    try:
        with waiting(what):
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


def wait_for_machine(run: RunConfig) -> None:
    """Wait until a machine of the cluster can hold a worker, at most `run.wait_for_machine_s`.

    Ray's autoscaler is asked for one; where there is no autoscaler, none comes.

    Raises:
        ClusterError: the head is lost.
    """
    device = "cuda" if run.device == "cuda" else cluster_device(run)
    demand = {kind: amount for kind, amount in worker_demand(run, device).items() if amount}
    if not (run.wait_for_machine_s and ray_address()) or capacity(demand):
        return
    head, end_s = ClusterHead.joined(), time.monotonic() + run.wait_for_machine_s
    wanted = " and ".join(f"{amount:g} {kind}" for kind, amount in demand.items())
    with waiting(f"a machine with {wanted}, for which the cluster was asked"):
        request_resources(bundles=[demand])
        while time.monotonic() < end_s and not capacity(demand):
            head.wait_now_and_then()
            time.sleep(1.0)
        request_resources(bundles=[])  # from now on the workers ask for theirs


def cluster_device(run: RunConfig) -> str:
    """Return the device of the workers, `cpu` or `cuda`.

    Raises:
        ResourceError: `cuda` is wanted and the cluster has no GPU.
    """
    num_gpus = sum(node.get("GPU", 0.0) for node in _nodes())
    if run.device == "cuda" and not num_gpus:
        raise ResourceError(
            "run.device is `cuda`, but the Ray cluster has no GPU; "
            f"set run.device to `auto` or `cpu`, or join a cluster with GPUs{_or_wait()}"
        )
    return "cpu" if run.device == "cpu" or not num_gpus else "cuda"


def _or_wait() -> str:
    how = "run.wait_for_machine_s waits for a machine, if the cluster starts some when asked"
    return f"; {how}" if ray_address() else ""


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
                f"more than {most:g} {kind}s; lower it{_or_wait()}"
            )


def free_resources(demand: dict[str, float]) -> str:
    """Return what a worker needs and what the cluster has: `a worker needs 1 CPU; free: 0 of 2`."""
    total, free = ray.cluster_resources(), ray.available_resources()
    parts = [
        f"{amount:g} {kind} (free: {free.get(kind, 0.0):g} of {total.get(kind, 0.0):g})"
        for kind, amount in demand.items()
        if amount
    ]
    return f"a worker needs {', '.join(parts)}"


def lack_of_memory(error: BaseException) -> str:
    """Return Ray's numbers where its memory monitor killed a worker; empty: it did not."""
    found = _MEMORY.search(str(error))
    if found is None:
        return ""
    return (
        f"Ray kills them for lack of memory ({found['used']} of {found['limit']} are used on "
        f"{found['ip']}; RAY_memory_usage_threshold sets from which share on)"
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
        "max_restarts": MAX_RESTARTS,
        "max_task_retries": 2,
        "concurrency_groups": {NOTES: 1},
        "runtime_env": {"env_vars": worker_environment(run)},
    }
    return ray.remote(**options)(worker).remote(setup)


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
