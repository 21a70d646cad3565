"""Helper processes: the same results in the same order, whatever happens to one of them."""

import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.exporters import cvat, label_studio
from pipeline.exporters.shared import helper_processes
from pipeline.exporters.shared.helper_processes import (
    MANY_SEGMENTS,
    HelperProcesses,
    num_processes,
)
from schemas.errors import ResourceError
from tests.helpers.drawn_runs import make_run, odd_scenes


def children() -> set[psutil.Process]:
    """Return the children of this process; other tests may have left some."""
    return set(psutil.Process().children())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_map_yields_results_in_order_with_their_context(number):
    tasks = [(f"{size} bytes", bytes(size)) for size in (5, 300_000, 0, 7, 1, 2_000_000, 3)]
    with HelperProcesses(len, number) as helpers:
        results = list(helpers.map(tasks))
    assert results == [(context, len(task)) for context, task in tasks]


@pytest.mark.parametrize("number", [0, 2])
def test_map_raises_the_error_of_a_task_in_its_place(number):
    with HelperProcesses(operator.index, number) as helpers:
        results = helpers.map((None, task) for task in (1, 2, "three", 4))
        assert [next(results), next(results)] == [(None, 1), (None, 2)]
        with pytest.raises(TypeError, match="str"):
            next(results)


def test_map_raises_when_a_process_was_killed():
    before = children()

    def tasks():
        yield "first", 1
        (child,) = children() - before
        child.kill()
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        yield "second", 2

    with (
        HelperProcesses(operator.index, 1) as helpers,
        pytest.raises(ResourceError, match="exit code -9"),
    ):
        list(helpers.map(tasks()))


def test_processes_end_after_an_error_during_a_task():
    before = children()
    results, started = [], set()

    def interrupted():
        with HelperProcesses(time.sleep, 2) as helpers:
            started.update(children() - before)
            for result in helpers.map((None, seconds) for seconds in (0, 0, 60, 60)):
                results.append(result)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (len(results), len(started)) == (1, 2)
    assert not [child for child in started if child.is_running()]


def test_processes_end_when_their_parent_is_killed():
    script = """
import os, signal, time
import psutil
from pipeline.exporters.shared.helper_processes import HelperProcesses
helpers = HelperProcesses(time.sleep, 1)
next(helpers.map([(None, 0)]))
(child,) = psutil.Process().children()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(parent.stdout)):
        assert time.monotonic() < deadline, "the helper process is still there"
        time.sleep(0.02)


@pytest.mark.parametrize("exporter", [cvat, label_studio])
def test_export_with_helper_processes_writes_the_same_bytes(exporter, tmp_path, monkeypatch):
    run = make_run(tmp_path, odd_scenes())
    exporter.export(run, exporter.Options())
    names = run.folder.list(exporter.FOLDER)
    alone = {name: run.folder.read_bytes(name) for name in names}
    for name in names:
        run.folder.delete(name)
    monkeypatch.setattr(helper_processes, "MANY_SEGMENTS", 1)
    exporter.export(run, exporter.Options())
    assert {name: run.folder.read_bytes(name) for name in names} == alone


@pytest.mark.parametrize("exporter", [cvat, label_studio])
def test_failed_export_leaves_no_helper_process(exporter, tmp_path, monkeypatch):
    run = make_run(tmp_path, odd_scenes())
    part = run.done()[2].files["annotations"].name
    Path(run.folder.uri, part).write_bytes(b"x" * run.folder.size(part))
    monkeypatch.setattr(helper_processes, "MANY_SEGMENTS", 1)
    before = children()
    with pytest.raises(Exception, match=r"(?i)parquet") as error:
        exporter.export(run, exporter.Options())
    assert error.tb, "what the error still refers to must not keep them"
    assert not children() - before


def test_num_processes_is_zero_for_small_exports():
    assert num_processes(MANY_SEGMENTS - 1) == 0
    assert (num_processes(10**6) > 1) == ((os.cpu_count() or 1) > 1)
