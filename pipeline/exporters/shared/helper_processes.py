"""Processes that compute parts of a large export; results keep their order, few wait in memory.

Each is a plain Python child that reads pickled tasks from its standard input and writes pickled
results to its standard output. It ends when its parent is gone, however that ended, because its
input ends then. Neither multiprocessing nor loky does both of what is needed here: in a script
without an `if __name__ == "__main__"` guard multiprocessing would run the user's script again in
each child, and loky, when it was tried here, left processes behind.
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

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

MANY_SEGMENTS = 20_000
"""An export of fewer segments ends before helper processes would have started."""
_MAX_PROCESSES = 3
"""More would wait for the one process that reads the run and writes the files."""


def num_processes(num_segments: int) -> int:
    """Return how many helper processes an export of this size should have on this machine."""
    num_cores = os.cpu_count() or 1
    if num_cores == 1 or num_segments < MANY_SEGMENTS or not sys.executable:
        return 0
    return min(_MAX_PROCESSES, num_cores)


class HelperProcesses(Generic[Task, Result]):
    """Calls a function in other processes, or in this one if there are none; a context manager.

    Args:
        work: a function of a module; its argument and result are pickled.
        number: of processes; 0: the function is called here.
    """

    def __init__(self, work: Callable[[Task], Result], number: int) -> None:
        self._work = work
        self._processes = [_HelperProcess() for _ in range(number)]

    def __enter__(self) -> "HelperProcesses[Task, Result]":
        """Return itself; the processes run already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the processes, even in the middle of a task."""
        for process in self._processes:
            process.end()

    def map(self, tasks: Iterable[tuple[Context, Task]]) -> Iterator[tuple[Context, Result]]:
        """Yield the result of every task, in order; each process has one task at a time.

        Args:
            tasks: with each a context, which stays in this process and is yielded with the result.

        Raises:
            ResourceError: a process was killed.
            Exception: whatever the function raises.
        """
        if not self._processes:
            yield from ((context, self._work(task)) for context, task in tasks)
            return
        idle, busy = list(self._processes), deque[tuple[_HelperProcess, Context]]()
        for context, task in tasks:
            if idle:
                process = idle.pop()
                process.send(self._work, task)
                busy.append((process, context))
                continue
            process, oldest = busy.popleft()
            result = process.receive()
            process.send(self._work, task)  # before the result is used: the process stays busy
            busy.append((process, context))
            yield oldest, result
        for process, context in busy:
            yield context, process.receive()


class _HelperProcess:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._tasks: Any = self._process.stdin
        self._results: Any = self._process.stdout

    def send(self, work: Callable[[Any], Any], task: Any) -> None:
        try:
            pickle.dump((work, task), self._tasks, pickle.HIGHEST_PROTOCOL)
            self._tasks.flush()
        except BrokenPipeError:
            raise self._killed() from None

    def receive(self) -> Any:
        try:
            has_result, result = pickle.load(self._results)
        except EOFError:
            raise self._killed() from None
        if not has_result:
            raise result
        return result

    def _killed(self) -> ResourceError:
        return ResourceError(
            f"a helper process of the export ended with exit code {self._process.wait()} "
            "(-9 is usually a lack of memory): free some memory and export again"
        )

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # closing flushes what was not sent
            self._tasks.close()
        self._results.close()


def serve() -> None:
    """Work on tasks until the input ends: the main function of a helper process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its helpers on Ctrl-C
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints goes to standard error, not among the results
    with suppress(EOFError, BrokenPipeError):
        while True:
            work, task = pickle.load(sys.stdin.buffer)
            try:
                answer = True, work(task)
            except Exception as error:  # noqa: BLE001 - raised again in the parent
                answer = False, error
            pickle.dump(answer, results, pickle.HIGHEST_PROTOCOL)
            results.flush()
