"""SIGKILL of a training, of the process that runs it and of its Ray worker: the same bits."""

import functools
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.head_trainings import heads_config, train, write_images
from tests.helpers.killed_processes import run_training


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos") / "images")


@pytest.fixture(scope="module")
def undisturbed_bytes(photos, tmp_path_factory):
    """What a head's training ends with if nothing goes wrong."""
    torch.set_num_threads(1)  # sums in another order are other bits

    @functools.cache
    def trained(heads, steps):
        file = tmp_path_factory.mktemp("undisturbed") / "h.safetensors"
        train(heads_config(photos, file, heads, options={"steps": steps}))
        return file.read_bytes()

    return trained


@pytest.mark.parametrize("heads", ["found", "dinoiser"])
@pytest.mark.parametrize(
    ("path", "nth", "kept"),
    [(r"\.checkpoint", 2, 2), (r"h\.safetensors", 1, 6)],
    ids=["second checkpoint", "head"],
)
def test_training_killed_while_it_writes(
    path, nth, kept, photos, heads, undisturbed_bytes, forks, tmp_path
):
    config = heads_config(photos, tmp_path / "h.safetensors", heads)
    environment = fault_environment(tmp_path, [Fault("os.rename", path, nth, action="kill")])
    process = forks.Process(target=run_training, args=(config, environment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not Path(config.out).exists()
    assert train(config).new_steps == 7 - kept
    assert Path(config.out).read_bytes() == undisturbed_bytes(heads, 7)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(600)  # a worker takes long to start on a busy machine
def test_killed_worker_resumes_from_its_checkpoint(
    photos, undisturbed_bytes, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # Long enough for the killer to come in time.
    work = {"options": {"steps": 200}, "run": {"local": False}}
    # A relative path: a restarted worker must find the checkpoint where the first one wrote it.
    config = heads_config(photos, Path("h.safetensors"), **work)
    killed = []
    killer = threading.Thread(target=_kill_at_checkpoint, args=(config.checkpoint, killed))
    killer.start()
    report = train(config)
    killer.join()
    assert report.exit_code == 0
    assert killed
    assert Path(config.out).read_bytes() == undisturbed_bytes("dinoiser", 200)


def _kill_at_checkpoint(checkpoint, killed):
    """Kill the actor as soon as it has written a checkpoint."""
    deadline = time.monotonic() + 300
    while not Path(checkpoint).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for process in psutil.Process().children(recursive=True):
        if "HeadWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
