"""Other processes that make the texts of masks; the order stays, and little waits in memory.

They are plain children that take pickles through their input. `multiprocessing` would run the
user's own script once more in each of them. A child whose parent is gone, however it went, reads
the end of its input and ends.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, TypeVar

from schemas.errors import ResourceError

Kept = TypeVar("Kept")
Question = TypeVar("Question")
Answer = TypeVar("Answer")

MANY_SEGMENTS = 20_000
"""Fewer are exported before helpers would have started."""
_MOST = 3
"""More would wait for the one process that reads the run and writes the files."""


def wanted(num_segments: int) -> int:
    """Return how many helpers an export of so many segments is worth on this machine."""
    processors = os.cpu_count() or 1
    if processors == 1 or num_segments < MANY_SEGMENTS or not sys.executable:
        return 0
    return min(_MOST, processors)


class Helpers(Generic[Question, Answer]):
    """A function in other processes, or in this one where there are none; a context manager.

    Args:
        work: a function of a module, of pickled questions and with pickled answers.
        number: of processes.
    """

    def __init__(self, work: Callable[[Question], Answer], number: int) -> None:
        self._work = work
        self._helpers = [_Helper() for _ in range(number)]

    def __enter__(self) -> "Helpers[Question, Answer]":
        """Return itself; the processes are there already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the processes, at work or not."""
        for helper in self._helpers:
            helper.end()

    def answers(self, questions: Iterable[tuple[Kept, Question]]) -> Iterator[tuple[Kept, Answer]]:
        """Yield the answers in order, each with what was kept here; one is on its way in each.

        Raises:
            ResourceError: a process was ended from outside.
            Exception: whatever the function raises.
        """
        if not self._helpers:
            yield from ((kept, self._work(question)) for kept, question in questions)
            return
        idle, asked = list(self._helpers), deque[tuple[_Helper, Kept]]()
        for kept, question in questions:
            if idle:
                helper = idle.pop()
                helper.ask(self._work, question)
                asked.append((helper, kept))
                continue
            helper, before = asked.popleft()
            answer = helper.answer()
            helper.ask(self._work, question)  # it is busy again before the answer is used
            asked.append((helper, kept))
            yield before, answer
        for helper, kept in asked:
            yield kept, helper.answer()


class _Helper:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._questions: Any = self._process.stdin
        self._answers: Any = self._process.stdout

    def ask(self, work: Callable[[Any], Any], question: Any) -> None:
        try:
            pickle.dump((work, question), self._questions, pickle.HIGHEST_PROTOCOL)
            self._questions.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self) -> Any:
        try:
            went_well, answer = pickle.load(self._answers)
        except EOFError:
            raise self._gone() from None
        if not went_well:
            raise answer
        return answer

    def _gone(self) -> ResourceError:
        return ResourceError(
            f"a helper process of the export ended with exit code {self._process.wait()}; "
            "-9 is a lack of memory: free some and export again"
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # what was not flushed
            self._questions.close()
        self._answers.close()


def serve() -> None:
    """Answer questions until there are no more: what a helper process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its helpers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that is printed gets among the answers
    with suppress(EOFError, BrokenPipeError):
        while True:
            work, question = pickle.load(sys.stdin.buffer)
            pickle.dump(_tried(work, question), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


def _tried(work: Callable[[Any], Any], question: Any) -> tuple[bool, Any]:
    try:
        return True, work(question)
    except Exception as error:  # noqa: BLE001 - it is raised again where the question came from
        return False, error
