"""Random faults against the real command: typed again, it must end in the same tables.

    python -m tests.fault.soak --trials 200 --ray-trials 24 --seed 1 --out soak.json

A trial runs `ovseg annotate` in a process of its own and lets one fault happen at a random moment:
a signal, an answer of the store, images that are away for a while, a full disk. Then the same
command is repeated, without a fault, until its exit code is 0. A trial fails if the images, scores
or annotations differ from those of an undisturbed run, if a call ends in a traceback, in an exit
code that is not documented or not at all, or if more than MAX_CALLS calls are needed.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import psutil

from jobs.demo.draw import draw_scenes
from pipeline.job.worker import Worker
from schemas.errors import ExitCode
from tests.helpers.colour_segmenter import table_rows
from tests.helpers.failing_proxy import FailingProxy, Rule

LABELS = "red checkered cross,cyan striped square,blue dotted heart"
NUM_IMAGES = 12
SHARD_SIZE = 2
MAX_CALLS = 4
MAX_CALL_S = 240.0
"""A call that takes longer is killed, and the trial fails."""
STORAGE_TIMEOUT_S = 4
PRELOADED = ["jobs.cli", "pipeline.job.job", "open_clip", "s3fs"]
EXIT_CODES = {code.value for code in ExitCode} | {-signal.SIGKILL, -signal.SIGTERM}
"""The last one: of a process that was stopped before the command began."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OVSEG_RETRY_DELAY_S": "0.02",
    "OVSEG_STORAGE_TIMEOUT_S": str(STORAGE_TIMEOUT_S),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Place = Literal["disk", "bucket", "ray"]


@dataclass
class Trial:
    """One trial and what came of it.

    Attributes:
        place: where images and run are; `ray`: on the disk, annotated by Ray workers.
        fault: in words, with its moment.
        exit_codes: of the calls, in order.
        silence_s: the longest silence of a call on its output.
        problem: why the trial failed; empty: it did not.
    """

    place: Place
    fault: str
    exit_codes: list[int] = field(default_factory=list)
    silence_s: float = 0.0
    problem: str = ""


@dataclass
class Fault:
    """What goes wrong in the first call of a trial.

    Attributes:
        text: in words.
        begin: makes it happen; takes the process of the command, None before it is started.
        end: makes the world whole again.
        at_s: when it begins, seconds after the start; None: before the start.
        for_s: how long it lasts; None: until the call has ended.
    """

    text: str
    begin: Callable[[BaseProcess | None], object]
    end: Callable[[], object] = lambda: None
    at_s: float | None = None
    for_s: float | None = None


class Soak:
    """A collection on the disk and in a bucket, and trials on it.

    Args:
        folder: empty; everything is made below it.
        s3_endpoint: of a store without faults; empty: no trials in a bucket.
        ray_address: of a running cluster; empty: no trials on Ray.
    """

    def __init__(self, folder: Path, s3_endpoint: str = "", ray_address: str = "") -> None:
        self._folder = folder
        self._images = folder / "images"
        self._environment = ENVIRONMENT | {"OVSEG_CACHE": str(folder / "cache")}
        self._environment |= {"RAY_ADDRESS": ray_address} if ray_address else {}
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(PRELOADED)
        self._undisturbed: dict[Place, tuple[dict[str, list[dict]], float]] = {}
        self._images.mkdir(parents=True)
        draw_scenes(self._images, NUM_IMAGES, seed=0)
        self._proxy: FailingProxy | None = None
        if s3_endpoint:
            self._fill_bucket(s3_endpoint)

    def run(self, place: Place, seed: int) -> Trial:
        """Run one trial; the same seed draws the same fault."""
        dice = random.Random(seed)
        expected, call_s = self._rows_undisturbed(place)
        out = self._out(place, f"run-{place}-{seed}")
        log = self._folder / f"{place}-{seed}.log"
        fault = self._draw(place, dice, call_s, Path(out))
        trial = Trial(place, fault.text)
        while not trial.problem and 0 not in trial.exit_codes:
            if len(trial.exit_codes) == MAX_CALLS:
                trial.problem = f"not done after {MAX_CALLS} calls"
                break
            self._call(place, out, log, trial, None if trial.exit_codes else fault)
        if "Traceback (most recent call last)" in log.read_text(errors="replace"):
            trial.problem = trial.problem or f"a traceback, see {log}"
        if not trial.problem:
            trial.problem = _difference(expected, table_rows(out))
        if os.path.ismount(Path(out).parent):
            subprocess.run(["umount", str(Path(out).parent)], check=True)
        if not trial.problem:
            log.unlink()
            if place != "bucket":
                shutil.rmtree(out, ignore_errors=True)
        return trial

    def close(self) -> None:
        """Stop the proxy."""
        if self._proxy:
            self._proxy.close()

    def _rows_undisturbed(self, place: Place) -> tuple[dict[str, list[dict]], float]:
        """Return the rows of a run without a fault, and the seconds that it took."""
        if place not in self._undisturbed:
            out, trial = self._out(place, f"undisturbed-{place}"), Trial(place, "none")
            started = time.monotonic()
            self._call(place, out, self._folder / f"undisturbed-{place}.log", trial, None)
            if trial.exit_codes != [0]:
                raise RuntimeError(f"the undisturbed run ended with {trial.exit_codes}")
            self._undisturbed[place] = table_rows(out), time.monotonic() - started
        return self._undisturbed[place]

    def _out(self, place: Place, name: str) -> str:
        return f"s3://soak/{name}" if place == "bucket" else str(self._folder / name / "run")

    def _call(self, place: Place, out: str, log: Path, trial: Trial, fault: Fault | None) -> None:
        """Type the command once, with or without a fault, and wait for its end."""
        images = "s3://soak/photos" if place == "bucket" else str(self._images)
        arguments = ["--images", images, "--labels", LABELS, "--out", out]
        arguments += ["--set", "clip.model=embedded", "--set", f"shard_size={SHARD_SIZE}"]
        # So that the code is 0 only when no image waits any more.
        arguments += ["--set", "run.max_error_share=0"]
        arguments += ["--workers", "2"] if place == "ray" else ["--local"]
        log.touch()
        process = self._processes.Process(
            target=_annotate, args=(arguments, self._environment, str(log))
        )
        waiting = [fault] if fault else []
        going: list[Fault] = []
        if fault and fault.at_s is None:
            fault.begin(None)
            waiting, going = [], [fault]
        process.start()
        started = spoke = time.monotonic()
        length = log.stat().st_size
        while process.is_alive():
            process.join(0.02)
            now = time.monotonic()
            if log.stat().st_size != length:
                spoke, length = now, log.stat().st_size
            trial.silence_s = max(trial.silence_s, now - spoke)
            if waiting and now - started >= (waiting[0].at_s or 0.0):
                going.append(waiting.pop())
                going[0].begin(process)
            if going and going[0].for_s is not None and now - started >= _end_s(going[0]):
                going.pop().end()
            if now - started > MAX_CALL_S:
                process.kill()
                trial.problem = f"a call takes more than {MAX_CALL_S:.0f} s, see {log}"
        for fault_left in going:
            fault_left.end()
        trial.exit_codes.append(process.exitcode or 0)
        if process.exitcode not in EXIT_CODES:
            trial.problem = trial.problem or f"exit code {process.exitcode}, see {log}"

    def _draw(self, place: Place, dice: random.Random, call_s: float, out: Path) -> Fault:
        """Draw a fault that can happen at a place."""
        kinds = {
            "disk": (self._signal, self._images_away, self._full_disk),
            "bucket": (self._signal, self._bad_answer, self._bad_answer, self._bad_answer),
            "ray": (self._signal, self._signal_to_worker, self._signal_to_worker),
        }
        return dice.choice(kinds[place])(dice, call_s, out)

    def _signal(self, dice: random.Random, call_s: float, out: Path) -> Fault:
        number, at_s = dice.choice((signal.SIGKILL, signal.SIGTERM)), dice.uniform(0, call_s)

        def begin(process: BaseProcess | None) -> None:
            if process and process.pid and process.is_alive():
                os.kill(process.pid, number)

        return Fault(f"{number.name} of the driver after {at_s:.2f} s", begin, at_s=at_s)

    def _signal_to_worker(self, dice: random.Random, call_s: float, out: Path) -> Fault:
        number, at_s = dice.choice((signal.SIGKILL, signal.SIGTERM)), dice.uniform(0, call_s)

        def begin(process: BaseProcess | None) -> None:
            workers = _ray_workers()
            if workers:
                dice.choice(workers).send_signal(number)

        return Fault(f"{number.name} of a worker after {at_s:.2f} s", begin, at_s=at_s)

    def _images_away(self, dice: random.Random, call_s: float, out: Path) -> Fault:
        at_s, for_s = dice.uniform(0, call_s), dice.choice((0.3, 2.0, None))
        away = self._images.with_name("away")
        lasting = f"for {for_s} s" if for_s else "until the call ends"
        return Fault(
            f"images away after {at_s:.2f} s {lasting}",
            lambda _: self._images.rename(away),
            lambda: away.rename(self._images),
            at_s,
            for_s,
        )

    def _full_disk(self, dice: random.Random, call_s: float, out: Path) -> Fault:
        kilobytes = dice.randrange(16, 160, 4)

        def begin(process: BaseProcess | None) -> None:
            out.parent.mkdir(parents=True)
            _mount(f"size={kilobytes}k", out.parent)

        return Fault(
            f"a disk of {kilobytes} kB", begin, lambda: _mount("remount,size=64m", out.parent)
        )

    def _bad_answer(self, dice: random.Random, call_s: float, out: Path) -> Fault:
        assert self._proxy
        method, most = dice.choice((("GET", 40), ("PUT", 24), ("LIST", 6)))
        answers = ["503", "400:ExpiredToken", "403:AccessDenied", "reset", "hang"]
        answer = dice.choice([*answers, "truncate"] if method == "GET" else answers)
        skip, times = dice.randrange(most), dice.choice((1, 6, None))
        rule, proxy = Rule(method, answer, skip=skip, times=times), self._proxy
        text = f"{answer} for {times or 'all'} {method} after {skip}"
        return Fault(text, lambda _: proxy.fail(rule), proxy.fail)

    def _fill_bucket(self, s3_endpoint: str) -> None:
        import s3fs

        keys = {name: ENVIRONMENT[name] for name in ENVIRONMENT if name.startswith("AWS_")}
        os.environ.update(keys)  # so that this process can read the tables, too
        os.environ["AWS_ENDPOINT_URL"] = s3_endpoint
        store = s3fs.S3FileSystem()
        store.mkdir("soak")
        for image in self._images.iterdir():
            store.put_file(str(image), f"soak/photos/{image.name}")
        self._proxy = FailingProxy(s3_endpoint)
        self._environment["AWS_ENDPOINT_URL"] = self._proxy.endpoint


def _annotate(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run `ovseg annotate` in this process, which writes to the log."""
    os.environ.update(environment)
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["ovseg", "annotate", *arguments]
    from jobs.cli import main

    main()


def _end_s(fault: Fault) -> float:
    return (fault.at_s or 0.0) + (fault.for_s or 0.0)


def _ray_workers() -> list[psutil.Process]:
    """Return the processes of this machine that hold a Ray worker of a job.

    Ray's own agents have titles like `ray::DashboardAgent`; without one of them a node ends.
    """
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith(f"ray::{Worker.__name__}"):
            found.append(process)
    return found


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def _difference(expected: dict[str, list[dict]], found: dict[str, list[dict]]) -> str:
    for table, rows in expected.items():
        if found[table] != rows:
            return f"other rows in {table}: {len(found[table])}, expected {len(rows)}"
    return ""


def main() -> int:
    """Run the trials, print each, write the summary; 1 if a trial failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=40, help="on the disk and in a bucket")
    parser.add_argument("--ray-trials", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ovseg-soak-") as folder:
        trials = _trials(Path(folder), flags)
    failed = [trial for trial in trials if trial.problem]
    summary = {
        "trials": len(trials),
        "failed": len(failed),
        "by_fault": Counter(trial.fault.split(" after ")[0] for trial in trials),
        "calls": Counter(len(trial.exit_codes) for trial in trials),
        "first_exit_code": Counter(trial.exit_codes[0] for trial in trials),
        "longest_silence_s": round(max(trial.silence_s for trial in trials), 1),
        "problems": [asdict(trial) for trial in failed],
    }
    flags.out.write_text(json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(flags.out.read_text())
    return 1 if failed else 0


def _trials(folder: Path, flags: argparse.Namespace) -> list[Trial]:
    """Run all trials with a store and, where asked for, a Ray cluster of their own."""
    import ray
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    address = ""
    if flags.ray_trials:
        os.environ |= {key: ENVIRONMENT[key] for key in ENVIRONMENT if key.startswith("RAY_")}
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        address = ray.get_runtime_context().gcs_address
    soak = Soak(folder, f"http://{host}:{port}", address)
    places: list[Place] = ["disk", "bucket"] * (flags.trials // 2) + ["ray"] * flags.ray_trials
    trials = []
    for number, place in enumerate(places):
        trial = soak.run(place, seed=flags.seed * 1_000_003 + number)
        trials.append(trial)
        result = trial.problem or "ok"
        line = f"{number:4d} {place:6s} {trial.fault}: {trial.exit_codes} {result}"
        sys.stdout.write(f"{line}, silent for {trial.silence_s:.1f} s at most\n")
        sys.stdout.flush()
    soak.close()
    store.stop()
    return trials


if __name__ == "__main__":
    sys.exit(main())
