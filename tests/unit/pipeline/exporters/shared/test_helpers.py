"""Helper processes: the same answers in the same order, whatever happens to one of them."""

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
from pipeline.exporters.shared import helpers
from pipeline.exporters.shared.helpers import Helpers
from schemas.errors import ResourceError
from tests.helpers.drawn_runs import make_run, odd_scenes


def children() -> set[psutil.Process]:
    """Return all of this process's; other tests may have left some."""
    return set(psutil.Process().children())


@pytest.mark.parametrize("number", [0, 1, 3])
def test_answers_come_in_order_with_what_was_kept(number):
    questions = [(f"kept {size}", bytes(size)) for size in (5, 300_000, 0, 7, 1, 2_000_000, 3)]
    with Helpers(len, number) as helpers:
        answers = list(helpers.answers(questions))
    assert answers == [(kept, len(question)) for kept, question in questions]


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_is_raised_where_the_question_came_from(number):
    with Helpers(operator.index, number) as helpers:
        answers = helpers.answers((None, question) for question in (1, 2, "three", 4))
        assert [next(answers), next(answers)] == [(None, 1), (None, 2)]
        with pytest.raises(TypeError, match="str"):
            next(answers)


def test_a_helper_that_was_killed_is_told():
    before = children()

    def questions():
        yield "first", 1
        (child,) = children() - before
        child.kill()
        while child.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        yield "second", 2

    with (
        Helpers(operator.index, 1) as helpers,
        pytest.raises(ResourceError, match="exit code -9"),
    ):
        list(helpers.answers(questions()))


def test_no_helper_is_left_after_an_error_in_the_middle():
    before = children()
    answers, started = [], set()

    def interrupted():
        with Helpers(time.sleep, 2) as helpers:
            started.update(children() - before)
            for answer in helpers.answers((None, second) for second in (0, 0, 60, 60)):
                answers.append(answer)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (len(answers), len(started)) == (1, 2)
    assert not [child for child in started if child.is_running()]


def test_helpers_do_not_outlive_a_killed_parent():
    script = """
import os, signal, time
from pipeline.exporters.shared.helpers import Helpers
helpers = Helpers(time.sleep, 1)
next(helpers.answers([(None, 0)]))
print(helpers._helpers[0]._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while psutil.pid_exists(int(parent.stdout)):
        assert time.monotonic() < deadline, "the helper is still there"
        time.sleep(0.02)


@pytest.mark.parametrize("exporter", [cvat, label_studio])
def test_an_export_with_helpers_writes_the_same_bytes(exporter, tmp_path, monkeypatch):
    run = make_run(tmp_path, odd_scenes())
    exporter.export(run, exporter.Options())
    names = [name for name in run.folder.list() if name.startswith(exporter.FOLDER)]
    alone = {name: run.folder.read_bytes(name) for name in names}
    for name in names:
        run.folder.delete(name)
    monkeypatch.setattr(helpers, "MANY_SEGMENTS", 0)
    exporter.export(run, exporter.Options())
    assert {name: run.folder.read_bytes(name) for name in names} == alone


@pytest.mark.parametrize("exporter", [cvat, label_studio])
def test_a_failed_export_leaves_no_helper(exporter, tmp_path, monkeypatch):
    run = make_run(tmp_path, odd_scenes())
    part = run.done()[2].files["annotations"].name
    Path(run.folder.uri, part).write_bytes(b"x" * run.folder.size(part))
    monkeypatch.setattr(helpers, "MANY_SEGMENTS", 0)
    before = children()
    with pytest.raises(Exception, match=r"(?i)parquet") as error:
        exporter.export(run, exporter.Options())
    assert error.tb, "what the error still refers to must not keep them"
    assert not children() - before


def test_small_exports_start_no_process():
    assert helpers.wanted(helpers.MANY_SEGMENTS - 1) == 0
    assert (helpers.wanted(10**6) > 1) == ((os.cpu_count() or 1) > 1)
