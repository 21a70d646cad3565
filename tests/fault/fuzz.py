"""Mutated files against the real commands: each ends in its result or in one clear line.

    python -m tests.fault.fuzz --trials 20000 --seed 1 --out fuzz.json

A trial copies a small run folder and the files that tools made of it, changes one of them, and runs
one command in a process of its own. It fails if the process dies of a signal, ends in a traceback
or in an exit code that is not documented, takes over MAX_S seconds or MAX_BYTES of memory, opens
a file outside of the places that it was given, or connects to anything.
"""

import argparse
import copy
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.log import ReviewLog
from pipeline.exporters import coco, cvat, label_studio, semantic_png
from schemas import plugins
from schemas.errors import ExitCode
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run

MAX_S = 10
MAX_BYTES = 2 << 30
"""Of address space, above what the process had when it was forked."""
EXPORTERS = plugins.names("pipeline.exporters")
FORKS = multiprocessing.get_context("fork")
SECRET = "outside/secret.txt"
TEXTS = (
    *("", "\0", "x" * 100_000, "9" * 40, "-1", "NaN", "../../outside/secret.txt", "/etc/passwd"),
    *("..\\..\\x", "\x1b[2J\x07", "\u202egnp.exe", "line\nend", "http://127.0.0.1:9/x", "%2e%2e/x"),
    *("file:///etc/passwd", "s3://elsewhere/x", "C:/x", "simplecache::http://127.0.0.1:9/x"),
)
NUMBERS = (-1, 0, 1, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 10**30)
FLOATS = (float("nan"), float("inf"), -1.0, 1e308, 0.5)


@dataclass
class Trial:
    """One trial and what came of it.

    Attributes:
        file: that was changed, relative to the run folder's parent.
        mutation: in words.
        command: as typed, without the name of the program.
        exit_code: of the process; negative: the signal that ended it.
        seconds: that it took.
        problem: why the trial failed; empty: it did not.
    """

    file: str
    mutation: str
    command: str
    exit_code: int = 0
    seconds: float = 0.0
    problem: str = ""


def make_place(folder: Path) -> None:
    """Make the run, another one to compare it with, and the files of tools beside it."""
    scenes = [Scene(f"sub/{seed} é.png", label_map(seed)) for seed in range(5)]
    run = make_run(folder, scenes, RunSpec(shard_size=2))
    shutil.copytree(folder / "run", folder / "other")
    coco.export(run, coco.Options())
    cvat.export(run, cvat.Options())
    label_studio.export(run, label_studio.Options())
    semantic_png.export(run, semantic_png.Options())
    keys = [row["image_id"] for row in run.manifest().to_pylist()]
    log = ReviewLog(run)
    log.append([ReviewDecision(image_id=keys[0], action="accept", at_s=1.0)])
    log.append([ReviewDecision(image_id=keys[1], action="reject", at_s=2.0)])
    exports = folder / "run/exports"
    shutil.copy(exports / "coco/instances.json", folder / "coco.json")
    shutil.copy(exports / "cvat/annotations.xml", folder / "cvat.xml")
    tasks = json.loads((exports / "label_studio/tasks.json").read_text())
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    (folder / "label-studio.json").write_text(json.dumps(tasks))
    shutil.copytree(exports / "semantic_png/labels", folder / "truth")
    shutil.rmtree(exports)
    (folder / "cvat-2.xml").write_text((folder / "cvat.xml").read_text())
    rules = ImportRules(unchanged_means="reviewed", prefer="file")
    import_review(run, "cvat", str(folder / "cvat-2.xml"), rules)
    (folder / "cvat-2.xml").unlink()
    (folder / "outside").mkdir()
    (folder / SECRET).write_text("secret")


def run_trial(place: Path, seed: int, results: Path) -> Trial:
    """Copy a place, change a file, run a command; the same seed makes the same trial."""
    dice = random.Random(seed)
    folder = results / "place"
    shutil.copytree(place, folder)
    try:
        kinds: dict[str, list[Path]] = {}
        for file in sorted(file for file in folder.rglob("*") if _is_input(file)):
            kinds.setdefault(re.sub(r"\d.*", "", str(file.relative_to(folder))), []).append(file)
        file = dice.choice(kinds[dice.choice(sorted(kinds))])
        mutation = mutate(file, folder / "run", dice)
        arguments = _command(file.relative_to(folder).as_posix(), folder, dice)
        trial = Trial(str(file.relative_to(folder)), mutation, " ".join(arguments))
        _run(trial, arguments, folder, results / "log.txt")
        if (folder / SECRET).read_text() != "secret" or len(
            list((folder / "outside").iterdir())
        ) > 1:
            trial.problem = "it wrote outside of its folders"
        return trial
    finally:
        shutil.rmtree(folder)


def _is_input(file: Path) -> bool:
    return file.is_file() and not {"photos", "outside", "other"} & set(file.parts)


def _command(file: str, folder: Path, dice: random.Random) -> list[str]:
    """Return a command that reads the file."""
    run = str(folder / "run")
    tools = {"coco.json": "coco", "cvat.xml": "cvat", "label-studio.json": "label-studio"}
    if file in tools:
        truth = ["evaluate", run, "--truth", str(folder / file)]
        back = ["import-review", run, str(folder / file), "--from", tools[file], "--json"]
        return dice.choice([back, back, truth]) if file == "coco.json" else back
    if file.startswith("truth/"):
        return ["evaluate", run, "--truth", str(folder / "truth")]
    return dice.choice(
        [
            ["inspect", run, *dice.choice([[], ["--json"], ["--clean"]])],
            ["evaluate", run, "--truth", str(folder / "coco.json")],
            ["compare", run, str(folder / "other")],
            ["calibrate", run],
            ["import-review", run, str(folder / "coco.json"), "--from", "coco"],
            *(["export", run, "--to", name] for name in EXPORTERS),
        ]
    )


def mutate(file: Path, run: Path, dice: random.Random) -> str:
    """Change a file in place and return what was done, in words."""
    data = file.read_bytes()
    kinds: list[tuple[str, Callable[[bytes, random.Random], bytes]]] = [("bytes", _other_bytes)]
    if file.suffix == ".json":
        kinds += 3 * [("a value of the JSON", _other_json)]
    if file.suffix == ".yaml":
        kinds += 3 * [("a value of the YAML", _other_yaml)]
    if file.suffix == ".xml":
        kinds += 3 * [("a value of the XML", _other_xml)]
    if file.suffix == ".parquet":
        kinds += 6 * [("values of a column", _other_column)]
    words, change = dice.choice(kinds)
    file.write_bytes(change(data, dice))
    if dice.random() < 0.9:
        _fit_hashes(file, run)
        words += ", hashes fit"
    return words


def _other_bytes(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 4, 32))):
        place = dice.randrange(len(changed) + 1)
        kind = dice.randrange(4)
        if kind == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del changed[place : place + dice.choice((1, 8, 10**6))]
        elif kind == 2:
            changed[place:place] = changed[: dice.choice((4, 64, 4096))]
        else:
            changed[place:place] = dice.choice((b"\xff" * 8, bytes(64), b"[" * 9000, b"9" * 4000))
    return bytes(changed)


def _hostile(dice: random.Random) -> Any:
    nested: Any = []
    for _ in range(dice.choice((1, 50))):
        nested = [nested]
    return dice.choice(
        [dice.choice(TEXTS), dice.choice(NUMBERS), dice.choice(FLOATS), None, True, [], {}, nested]
    )


def _other_value(document: Any, dice: random.Random) -> Any:
    """Replace, remove or repeat one value of a document, anywhere in it."""
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        node = waiting.pop()
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            places.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    if not places or dice.random() < 0.03:
        return _hostile(dice)
    node, key = dice.choice(places)
    kind = dice.randrange(6)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(copy.deepcopy(node[key]))
    elif kind == 1:
        node[dice.choice(TEXTS)] = node[key]
    else:
        node[key] = _hostile(dice)
    return document


def _other_json(data: bytes, dice: random.Random) -> bytes:
    return json.dumps(_other_value(json.loads(data), dice)).encode()


def _other_yaml(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.1:
        bomb = "a0: &a0 [x, x]\n" + "".join(
            f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 28)
        )
        return bomb.encode() + data
    return yaml.safe_dump(_other_value(yaml.safe_load(data), dice), sort_keys=False).encode()


def _other_xml(data: bytes, dice: random.Random) -> bytes:
    text = data.decode()
    found = dice.choice(list(re.finditer(r'"[^"]*"|>[^<]+<', text)))
    value = str(_hostile(dice)).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f"{text[: found.start() + 1]}{value}{text[found.end() - 1 :]}".encode()


def _other_column(data: bytes, dice: random.Random) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    if not table.num_columns:
        return data
    name = dice.choice(table.column_names)
    values = table.column(name).to_pylist()
    kind = dice.randrange(5)
    if kind == 0:
        table = table.drop_columns([name])
    else:
        pool = dice.choice((TEXTS, NUMBERS[:-1], FLOATS, (None,)))
        if values and isinstance(values[0], str) and kind < 4:
            pool = (*TEXTS, "0" * 16, "PPYo0", values[-1], values[0][: len(values[0]) // 2])
        rows = range(len(values)) if kind == 1 else [dice.randrange(len(values) or 1)]
        for row in rows if values else ():
            values[row] = dice.choice(pool)
        kinds = (table.schema.field(name).type, None)
        table = table.drop_columns([name]).append_column(name, _array(values, kinds))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _array(values: list[Any], kinds: tuple[pa.DataType | None, ...]) -> pa.Array:
    for kind in kinds:
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeError):
            continue
    return pa.array([None if value is None else ascii(value) for value in values])


def _fit_hashes(file: Path, run: Path) -> None:
    """Write the file's size and hash where the run states them, as whoever shares it could."""
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if file == run / "manifest.parquet":
        text = (run / "run.yaml").read_text()
        text = re.sub("manifest_sha256: .*", f"manifest_sha256: {digest}", text)
        (run / "run.yaml").write_text(text)
    for marker_file in (run / "done").glob("*.json"):
        if marker_file == file:
            continue
        marker = json.loads(marker_file.read_text())
        for entry in marker["files"].values():
            if run / entry["name"] == file:
                entry |= {"sha256": digest, "size_bytes": len(data)}
        marker_file.write_text(json.dumps(marker))


def _run(trial: Trial, arguments: list[str], folder: Path, log: Path) -> None:
    started = time.monotonic()
    child = FORKS.Process(target=_be_the_command, args=(arguments, folder, log))
    child.start()
    child.join(MAX_S)
    trial.seconds = round(time.monotonic() - started, 2)
    if child.is_alive():
        child.kill()
        child.join()
    trial.exit_code = child.exitcode or 0
    text = log.read_text(errors="replace")
    if trial.seconds >= MAX_S:
        trial.problem = f"it took over {MAX_S} s"
    elif trial.exit_code not in set(ExitCode):
        trial.problem = f"it ended with {trial.exit_code}: {text[-1500:]}"
    elif "Traceback (most recent call last)" in text:
        trial.problem = f"a traceback: {text[-1500:]}"
    elif "FUZZ: " in text:
        trial.problem = text[text.index("FUZZ: ") :][:300]
    elif "\x1b" in text.replace("\x1b[", ""):
        trial.problem = "it wrote an escape to the terminal"


def _be_the_command(arguments: list[str], folder: Path, log: Path) -> None:
    """Be the command in this process, with limits, and with its doings written to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    os.environ.update(HOME=str(folder / "outside"), OVSEG_CACHE=str(folder / "cache"))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    ours = (*sys.path, sys.prefix, sys.base_prefix, tempfile.gettempdir())
    sys.addaudithook(_watcher(tuple(map(os.path.realpath, ours)), str(folder / "outside")))
    sys.argv = ["ovseg", *arguments]
    from jobs.cli import main

    main()


def _watcher(allowed: tuple[str, ...], outside: str) -> Callable[[str, tuple[Any, ...]], None]:
    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            os.write(2, f"FUZZ: it connects to {details[1]!r}\n".encode())
        elif event == "open" and isinstance(details[0], str | bytes):
            place = os.path.realpath(os.fsdecode(details[0]))
            system = ("/proc/", "/sys/", "/dev/", "/usr/", "/lib", "/etc/ld", "/etc/mime")
            if place.startswith(outside) or not place.startswith((*allowed, *system)):
                os.write(2, f"FUZZ: it opens {place!r}\n".encode(errors="replace"))

    return watch


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
        "longest_s": max(trial.seconds for trial in trials),
        "problems": [asdict(trial) for trial in failed],
    }
    flags.out.write_text(json.dumps(summary, indent=1) + "\n")
    sys.stdout.write(f"{len(trials)} trials, {len(failed)} failed; see {flags.out}\n")
    return 1 if failed else 0


def fuzz(num_trials: int, seed: int) -> list[Trial]:
    """Run trials one after the other and return them."""
    preload()
    with tempfile.TemporaryDirectory(prefix="ovseg-fuzz-") as folder:
        place, results = Path(folder, "honest"), Path(folder, "results")
        place.mkdir()
        results.mkdir()
        make_place(place)
        return [run_trial(place, seed * 1_000_003 + n, results) for n in range(num_trials)]


def preload() -> None:
    """Import what the commands use, so that each trial starts at once."""
    import pipeline.corrections.calibrate
    import pipeline.corrections.import_review
    import pipeline.evaluation.compare
    import pipeline.evaluation.evaluate  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
