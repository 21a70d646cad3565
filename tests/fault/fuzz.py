"""Mutated files against the real commands: each ends in its result or in one clear line.

    OMP_NUM_THREADS=1 python -m tests.fault.fuzz --trials 20000 --seed 1 --out fuzz.json

A trial copies a small place with runs and the files of tools, changes one file and runs one
command. It fails if the process dies, the command ends in a traceback or in an exit code that is
not documented, takes over MAX_S seconds or MAX_BYTES of memory, opens a file outside of the places
that it was given, or connects to anything. One process runs up to TRIALS_OF_A_PROCESS trials one
after the other; a trial that fails is run again in a process of its own.
"""

import argparse
import gc
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import Any

from schemas.errors import ExitCode
from tests.fault.fuzz_pages import visit_pages
from tests.fault.fuzz_place import OWN_WORDS, SECRET, command_for, inputs, make_place, type_command
from tests.fault.mutations import mutate

MAX_S = 10
"""On a machine that does nothing else; more where its processors are shared, see `_patience_s`."""
MAX_BYTES = 2 << 30
"""Of address space, above what the process had before the command."""
TRIALS_OF_A_PROCESS = 500
FORKS = multiprocessing.get_context("fork")
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random", "/dev/nvidia")
MEMORY_DISK = Path("/dev/shm")


@dataclass
class Trial:
    """One trial and what came of it.

    Attributes:
        number: makes the trial; the same for the same trial.
        file: that was changed, relative to the place.
        mutation: in words.
        command: as typed, without the name of the program.
        exit_code: of the command; negative: the signal that ended its process.
        seconds: that the command took.
        problem: why the trial failed; empty: it did not.
        alone: why it failed when it was run again in a process of its own.
    """

    number: int
    file: str = ""
    mutation: str = ""
    command: str = ""
    exit_code: int = 0
    seconds: float = 0.0
    problem: str = ""
    alone: str = ""


def fuzz(num_trials: int, seed: int) -> list[Trial]:
    """Run trials one after the other and return them."""
    _preload()
    where = MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ovseg-fuzz-", dir=where) as name:
        folder = Path(name)
        maker = FORKS.Process(target=_make_place, args=(folder,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError(f"no place was made: {(folder / 'log.txt').read_text()[-2000:]}")
        waiting = [seed * 1_000_003 + number for number in range(num_trials)]
        done: list[Trial] = []
        while waiting:
            part = run_trials(folder, waiting[:TRIALS_OF_A_PROCESS])
            for trial in part:
                if trial.problem:
                    trial.alone = run_trials(folder, [trial.number])[0].problem or "no problem"
            done += part
            del waiting[: len(part)]
        return done


def _make_place(folder: Path) -> None:
    _log_to(folder / "log.txt")
    (folder / "place").mkdir()
    make_place(folder / "place")
    (folder / "place").rename(folder / "honest")


def run_trials(folder: Path, numbers: Sequence[int]) -> list[Trial]:
    """Run trials in one process, up to the first one that this does not outlive."""
    here, there = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=_be_the_commands, args=(folder, numbers, there))
    child.start()
    there.close()
    trials: list[Trial] = []
    begun: Trial | None = None
    try:
        while len(trials) < len(numbers):
            if not here.poll(_patience_s()):
                child.kill()
            trial, is_over = here.recv()
            begun = None if is_over else trial
            trials += [trial] if is_over else []
    except EOFError:
        child.join()
        lost = begun or Trial(numbers[len(trials)])
        lost.exit_code = child.exitcode or 0
        text = (folder / "log.txt").read_text(errors="replace")
        was_killed = lost.exit_code == -9
        how = "it took too long" if was_killed else f"it died: {lost.exit_code}"
        lost.problem = f"{how}: {text[-1500:]}"
        trials.append(lost)
    child.join(MAX_S)
    child.kill()  # a thread of a command may still run
    child.join()
    return trials


def _patience_s() -> float:
    """Return MAX_S times the number of processes that want one processor."""
    return MAX_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _be_the_commands(folder: Path, numbers: Sequence[int], results: Connection) -> None:
    from pipeline.review.server import Listening

    gc.freeze()  # what was imported is not looked through again and again
    Listening.serve = visit_pages  # the pages' requests come from this process
    place = folder / "place"
    os.environ.update(HOME=str(place / "outside"), OVSEG_CACHE=str(place / "cache"))
    ours = (
        *sys.path,
        sys.prefix,
        sys.base_prefix,
        tempfile.gettempdir(),
        f"{place}/",
        str(folder / "log.txt"),
    )
    watched = threading.Event()
    watch = _watcher(tuple(map(os.path.realpath, ours)), str(place / "outside"))
    sys.addaudithook(lambda event, details: watch(event, details) if watched.is_set() else None)
    files = inputs(folder / "honest")
    for number in numbers:
        os.chdir(folder)
        shutil.rmtree(place, ignore_errors=True)
        trial, arguments = make_trial(folder, files, number)
        results.send((trial, False))
        if trial.file not in OWN_WORDS:  # in those the user says himself what is opened
            watched.set()
        text = run_trial(trial, arguments, folder)
        watched.clear()
        trial.problem = _problem(trial, text, place)
        results.send((trial, True))


def make_trial(folder: Path, files: Sequence[str], number: int) -> tuple[Trial, list[str]]:
    """Copy the place and change a file; return the command to run. The same number: the same."""
    dice, place = random.Random(number), folder / "place"
    shutil.copytree(folder / "honest", place)
    kinds: dict[str, list[str]] = {}
    for file in files:
        kinds.setdefault(re.sub(r"\d.*", "", file), []).append(file)
    names = sorted(kinds)
    shares = [1 if name.startswith("annotated") else 2 for name in names]  # commands that take long
    file = dice.choice(kinds[dice.choices(names, shares)[0]])
    mutation = mutate(place / file, place / file.partition("/")[0], dice)
    arguments = command_for(file, place, dice)
    return Trial(number, file, mutation, " ".join(arguments).replace(f"{place}/", "")), arguments


def run_trial(trial: Trial, arguments: list[str], folder: Path) -> str:
    """Run the command with its limits; return what it printed."""
    _log_to(folder / "log.txt")
    os.chdir(folder / "place")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, resource.RLIM_INFINITY))
    started = time.monotonic()
    try:
        trial.exit_code = type_command(arguments)
    except BaseException:  # noqa: BLE001 - whatever it is, it is the trial's result
        traceback.print_exc()
        trial.exit_code = -1
    trial.seconds = round(time.monotonic() - started, 2)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    logging.getLogger().handlers.clear()
    sys.stdout.flush()
    sys.stderr.flush()
    return (folder / "log.txt").read_text(errors="replace")


def _log_to(log: Path) -> None:
    """Let what this process prints go into an empty file."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _problem(trial: Trial, text: str, place: Path) -> str:
    outside = {file.name for file in (place / "outside").iterdir()}
    if (place / SECRET).read_text() != "secret" or outside != {Path(SECRET).name}:
        return f"it wrote outside of its folders: {sorted(outside)}"
    if "Traceback (most recent call last)" in text:
        return f"a traceback: {text[-1500:]}"
    if trial.exit_code not in set(ExitCode):
        return f"it ended with {trial.exit_code}: {text[-1500:]}"
    if "FUZZ: " in text:
        return text[text.index("FUZZ: ") :][:300]
    if "\x1b" in text.replace("\x1b[", ""):
        return "it wrote an escape to the terminal"
    return ""


def _watcher(allowed: tuple[str, ...], outside: str) -> Callable[[str, tuple[Any, ...]], None]:
    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            os.write(2, f"FUZZ: it connects to {details[1]!r}\n".encode())
        elif event == "open" and isinstance(details[0], str | bytes):
            place = os.path.realpath(os.fsdecode(details[0]))
            system = ("/proc/", "/sys/", *DEVICES, "/usr/", "/lib", "/etc/ld", "/etc/mime")
            if place.startswith(outside) or not place.startswith((*allowed, *system)):
                os.write(2, f"FUZZ: it opens {place!r}\n".encode(errors="replace"))

    return watch


def _preload() -> None:
    """Import what the commands use, so that each process starts at once."""
    import pipeline.corrections.calibrate
    import pipeline.evaluation.compare
    import pipeline.evaluation.evaluate
    import pipeline.job.job
    import pipeline.review.try_session  # noqa: F401


def main() -> int:
    """Run the trials, write the summary; 1 if a trial failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz.json"))
    flags = parser.parse_args()
    trials = fuzz(flags.trials, flags.seed)
    failed = [trial for trial in trials if trial.problem]
    summary = {
        "trials": len(trials),
        "failed": len(failed),
        "by_command": Counter(" ".join(trial.command.split()[:1]) for trial in trials),
        "by_file": Counter(re.sub(r"\d.*", "", trial.file) for trial in trials),
        "exit_codes": Counter(trial.exit_code for trial in trials),
        "mean_s": _means(trials),
        "longest_s": max(trial.seconds for trial in trials),
        "problems": [asdict(trial) for trial in failed],
    }
    flags.out.write_text(json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(f"{len(trials)} trials, {len(failed)} failed; see {flags.out}\n")
    return 1 if failed else 0


def _means(trials: Sequence[Trial]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for trial in trials:
        seconds.setdefault(trial.command.split()[0], []).append(trial.seconds)
    return {name: round(fmean(values), 3) for name, values in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
