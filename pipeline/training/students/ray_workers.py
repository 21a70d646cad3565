"""A student's training on the workers of Ray Train; importing this imports Ray."""

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pipeline.job.worker_process import set_ray_environment, worker_environment
from pipeline.training.students.board import StudentTally, TrainingBoard
from pipeline.training.students.setup import check_config
from pipeline.training.students.worker import StudentSetup, StudentWorker
from schemas.config import StudentConfig
from schemas.errors import OvsegError, ResourceError

set_ray_environment()  # before Ray is imported

import ray  # noqa: E402

from pipeline.job import cluster  # noqa: E402

logger = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Groups of workers that are started before the training is given up."""
_LOOK_EVERY_S = 0.5
_STOPS_WITHIN_S = 20.0


class _StoppedError(Exception):
    """The driver has asked for the end."""


@contextmanager
def ray_tallies(config: StudentConfig) -> Iterator[Iterator[StudentTally]]:
    """Train on a Ray cluster and give the states of the training; errors are raised here.

    Raises:
        ResourceError: Ray Train is not installed, the cluster is too small, or workers die again
            and again.
        ClusterError: no cluster, or it went away.
    """
    try:
        import ray.train.torch  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            f"Ray Train is not installed ({error}): pip install 'ovseg[train]', or train in this "
            "process with --local"
        ) from error
    with cluster.connected():
        cluster.wait_for_machine(config.run)
        device = cluster.cluster_device(config.run)
        demand = cluster.worker_demand(config.run, device)
        cluster.check_capacity(demand)
        num_workers = _num_workers(config, demand)
        yield _tallies(StudentSetup(config, device, num_workers=num_workers), demand)


def _num_workers(config: StudentConfig, demand: dict[str, float]) -> int:
    """Return how many workers share a batch: as configured, or as many as there is room for."""
    room = cluster.capacity(demand)
    if config.run.workers > room:
        raise ResourceError(
            f"run.workers is {config.run.workers}, but the Ray cluster has room for {room}: "
            f"{cluster.free_resources(demand)}"
        )
    return config.run.workers or min(room, check_config(config).batch)


def _tallies(setup: StudentSetup, demand: dict[str, float]) -> Iterator[StudentTally]:
    """Start groups of workers until one comes to the end."""
    for attempt in range(1, _ATTEMPTS + 1):
        board: Any = ray.remote(num_cpus=0)(TrainingBoard).remote()
        group = _Group(setup, demand, board)
        try:
            yield from group.tallies()
            return
        except _WorkersDiedError as error:
            if attempt == _ATTEMPTS:
                raise ResourceError(
                    f"the workers died {_ATTEMPTS} times ({error}), most often for lack of memory; "
                    "the same command goes on from the last checkpoint; use a smaller "
                    "student.options.batch, or more memory"
                ) from error
            logger.warning("a worker died (%s); a new group resumes from the checkpoint", error)
        finally:
            group.end()
            ray.kill(board)


class _WorkersDiedError(Exception):
    """A group of workers ended without an error of ovseg's."""


class _Group:
    """One group of Ray Train's workers, followed from this thread while another one waits for it.

    Args:
        setup: of the workers, apart from their rank.
        demand: resources of one, see `worker_demand`.
        board: the actor `TrainingBoard`.
    """

    def __init__(self, setup: StudentSetup, demand: dict[str, float], board: Any) -> None:
        self._setup = setup
        self._demand = demand
        self._board = board
        self._error: BaseException | None = None
        self._shown: StudentTally | None = None
        self._folder = tempfile.mkdtemp(prefix="ovseg-train-")
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)

    def tallies(self) -> Iterator[StudentTally]:
        """Yield the state of the training as it changes; raise what ends it too early.

        After Ctrl-C or SIGTERM the last state comes before the exception.
        """
        head = cluster.ClusterHead.joined()
        self._thread.start()
        try:
            while self._thread.is_alive():
                self._thread.join(_LOOK_EVERY_S)
                head.wait_now_and_then()
                yield from self._changes()
        except KeyboardInterrupt:
            self.end()  # the first worker tells the steps since its last report, then it stops
            yield from self._changes()
            raise
        yield from self._changes()
        if self._error is not None:
            raise self._error

    def _changes(self) -> Iterator[StudentTally]:
        for tally in ray.get(self._board.take.remote()):
            if tally != self._shown:
                self._shown = tally
                yield tally

    def end(self) -> None:
        """Stop the workers if they run, and remove what Ray Train has written."""
        if self._thread.is_alive():
            self._board.stop.remote()
            self._thread.join(_STOPS_WITHIN_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fit(self) -> None:
        """Run the group to its end; not in the main thread, whose signals Ray would take over."""
        from ray.runtime_env import RuntimeEnv
        from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        setup = self._setup
        on_gpu = setup.device == "cuda"
        trainer = TorchTrainer(
            train_on_worker,
            train_loop_config={"setup": setup, "board": self._board},
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=setup.num_workers,
                use_gpu=on_gpu,
                resources_per_worker={key: value for key, value in self._demand.items() if value},
            ),
            run_config=RunConfig(
                name="student",
                storage_path=self._folder,  # for its own notes: no checkpoint is kept there
                failure_config=FailureConfig(max_failures=0),
                logging_config=LoggingConfig(log_level="ERROR"),
                worker_runtime_env=RuntimeEnv(env_vars=worker_environment(setup.config.run)),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001 - raised again in the other thread
            self._error = _cause(error)


def _cause(error: BaseException) -> BaseException:
    """Return ovseg's own error where one of the workers has raised it."""
    from ray.train import TrainingFailedError

    if not isinstance(error, TrainingFailedError):
        return error
    failures: list[BaseException] = list(getattr(error, "worker_failures", {}).values())
    for failure in failures:
        if isinstance(failure, OvsegError):
            return failure
    for failure in failures:
        # A worker whose neighbour has died gets a RuntimeError of torch's process group.
        if not isinstance(failure, RuntimeError) and not _is_rays(failure):
            return failure
    first = failures[0] if failures else error
    lines = str(first).strip().splitlines() or [""]
    return _WorkersDiedError(f"{type(first).__name__}: {lines[0]}"[:300])


def _is_rays(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] == "ray"


def train_on_worker(config: dict[str, Any]) -> None:
    """Train as one worker of a group: the function that Ray Train calls on each."""
    import ray.train

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    setup: StudentSetup = replace(config["setup"], rank=rank, num_workers=size)
    every = setup.config.checkpoint_every
    worker = StudentWorker(setup)
    tally = worker.prepare()
    _check_same_step(tally.step, size)
    while True:
        if ray.get(config["board"].put.remote(rank, tally)):
            raise _StoppedError
        if tally.is_finished:
            return
        tally = worker.advance()
        if tally.step % every == 0 and not tally.is_finished:  # all workers are at this step now
            ray.train.report({"step": tally.step, "loss": tally.loss, "miou": tally.miou})


def _check_same_step(step: int, size: int) -> None:
    """Check that all workers have read the same checkpoint.

    Raises:
        ResourceError: they see different files.
    """
    if size == 1:
        return
    import torch

    steps = torch.tensor([step, -step])
    if torch.cuda.is_available() and torch.distributed.get_backend() == "nccl":
        steps = steps.cuda()
    torch.distributed.all_reduce(steps, op=torch.distributed.ReduceOp.MAX)
    if int(steps[0]) != -int(steps[1]):
        raise ResourceError(
            "the workers read different checkpoints: the student's folder must be one that all "
            "machines see, such as a bucket or a shared file system"
        )
