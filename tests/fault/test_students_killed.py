"""SIGKILL of a student's training at random points: the same weights.

That of a worker on Ray: `tests/unit/pipeline/training/students/test_ray_workers.py`.
"""

import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.fault_plan import Fault, fault_environment
from tests.helpers.killed_processes import run_training
from tests.helpers.student_trainings import STEPS, colour_run, student_config, train

CHANCE = random.Random(12)
POINTS = [
    *(("open", r"photos/\d\.png", CHANCE.randrange(1, 4 * STEPS)) for _ in range(3)),
    *(("os.rename", r"student/.*", CHANCE.randrange(2, 3 * STEPS // 2)) for _ in range(2)),
]
"""System calls at which the process is killed: while it reads images ahead, and while it writes."""
CHANGES = {"ema_decay": 0.9, "run": {"prefetch_threads": 1}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return colour_run(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    """The weights of a training in which nothing goes wrong."""
    torch.set_num_threads(1)  # sums in another order are other bits
    out = tmp_path_factory.mktemp("undisturbed") / "student"
    train(student_config(run, out, **CHANGES))
    return load_file(out / "student.safetensors")


def assert_same_weights(out, expected):
    found = load_file(out / "student.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("call", "path", "nth"), POINTS, ids=[f"{c}-{n}" for c, _, n in POINTS])
def test_training_killed_at_a_random_point(call, path, nth, run, undisturbed, forks, tmp_path):
    out = tmp_path / "student"
    config = student_config(run, out, **CHANGES)
    environment = fault_environment(tmp_path, [Fault(call, path, nth, action="kill")])
    process = forks.Process(target=run_training, args=(config, environment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "student.safetensors").exists()
    assert train(config).exit_code == 0
    assert_same_weights(out, undisturbed)
    assert not (out / "checkpoint.safetensors").exists()
