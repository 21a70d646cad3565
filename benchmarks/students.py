"""Students against their teacher on the drawn world: `make bench-students`.

    python -m benchmarks.students [ROW ...]

Trains every row of `students_rows.ROWS` on scenes that the teacher has labelled and measures it on
200 other scenes, 100 of pairs that were learned and 100 of pairs that no training scene shows; then
images a second. Given rows are trained again, the others keep their results. Writes
`benchmarks/results/students.json`, the tables in docs/students.md and its picture.
"""

import json
import os
import pickle
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.proxyclip import random_vit_b16
from benchmarks.quality import embedded_backbones
from benchmarks.students_rows import (
    ROWS,
    VOCABULARY,
    Row,
    data_of,
    student_at,
    trained,
    write_student,
)
from benchmarks.students_table import draw_picture, write_tables
from benchmarks.students_world import (
    HELD_OUT,
    SEEN,
    TEACHER,
    TrainingScene,
    calibrated,
    drawn,
    figure,
    labelled_by_teacher,
    tensor_of,
)
from ovseg_core.decision.decide import decide
from ovseg_core.methods import build_segmenter
from ovseg_core.segmenter import Segmenter, encode_images
from schemas.config import Calibration, NamedOptions
from schemas.vocabulary import Vocabulary

RESULTS = Path(__file__).parent / "results" / "students.json"
DOCS = Path(__file__).parents[1] / "docs"
NUM_SCENES, NUM_REVIEWED = 1000, 100
NUM_PROCESSES = 2
NUM_TIMED, NUM_TIMED_LARGE, ROUNDS = 8, 2, 3
_WORLD = "world"


def draw_world(folder: Path) -> None:
    """Draw the training scenes, let the teacher label them and keep them in the folder."""
    calibration = calibrated(list(labelled_by_teacher("reviewed", NUM_REVIEWED)))
    scenes = list(labelled_by_teacher("train", NUM_SCENES))
    (folder / _WORLD).write_bytes(pickle.dumps((scenes, calibration)))


@cache
def world(folder: Path) -> tuple[list[TrainingScene], Calibration]:
    """Return the training scenes, and the calibration from reviewed ones."""
    return pickle.loads((folder / _WORLD).read_bytes())


def measure(row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Train a row with a seed, write it to the folder and return its figures."""
    torch.set_num_threads(1)
    known = build_segmenter(TEACHER, embedded_backbones()).text_matrix(VOCABULARY)
    # Copies: tensors of inference mode cannot take part in a training.
    text = replace(known, rows_QD=known.rows_QD.clone(), class_index_Q=known.class_index_Q.clone())
    found = trained(row, seed, data_of(row, *world(folder)), text)
    file = student_file(folder, row.key, seed)
    write_student(file, row, found.pop("weights"), text)
    segmenter = student_at(file)
    found["seen"] = figure(segmenter, SEEN)
    # A student without a text head has no output for other words.
    found["held_out"] = figure(segmenter, HELD_OUT) if row.is_open else None
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found | {"peak_mib": round(peak_kib / 1024)}


def student_file(folder: Path, key: str, seed: int) -> Path:
    """Return where a trained student lies."""
    return folder / f"{re.sub('[^a-z0-9_]+', '-', key.lower())}-{seed}.safetensors"


def measure_rows(rows: Sequence[Row], folder: Path) -> None:
    """Train rows with all of their seeds, several at a time; each is saved as it ends."""
    processes = ProcessPoolExecutor(NUM_PROCESSES, get_context("spawn"))
    with processes as pool:
        futures = {
            pool.submit(measure, row, seed, folder): (row.key, str(seed))
            for row in rows
            for seed in row.seeds
        }
        for future in as_completed(futures):
            (key, seed), found = futures[future], future.result()
            results = read_results()
            results["rows"].setdefault(key, {})[seed] = found
            write_results(results)
            print(f"{key}, seed {seed}: {json.dumps(found)}", flush=True)


def read_results() -> dict[str, Any]:
    """Return the results so far."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"rows": {}}


def write_results(results: Mapping[str, Any]) -> None:
    """Write the results, rows in their order."""
    rows = {row.key: results["rows"][row.key] for row in ROWS if row.key in results["rows"]}
    RESULTS.write_text(json.dumps({**results, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def pace(student: Path) -> dict[str, dict[str, float]]:
    """Return images/s of a student, of its teacher, and of one of ViT-B/16's size.

    Once with 20 labels, as the other benchmarks, and once with its 82, where the decision takes
    most of a student's time.
    """
    ours = {
        "student": student_at(student),
        "teacher": build_segmenter(TEACHER, embedded_backbones()),
    }
    few = Vocabulary.model_validate(SEEN[:20])
    found = {
        "20 words": images_per_s(ours, few, NUM_TIMED),
        "82 words": images_per_s(ours, VOCABULARY, NUM_TIMED),
    }
    with tempfile.TemporaryDirectory() as folder:
        # Random weights have no objectness head; bare words, as templates take the tower minutes.
        part = NamedOptions(name="maskclip", options={"templates": "plain"})
        large = {"teacher_vit_b16": build_segmenter(part, random_vit_b16(Path(folder)))}
        found["20 words"] |= images_per_s(large, few, NUM_TIMED_LARGE)
    return found


def images_per_s(
    segmenters: Mapping[str, Segmenter[Any]], words: Vocabulary, num_images: int
) -> dict[str, float]:
    """Return images per CPU second of one thread: encode, score and decide; the ways in turns."""
    torch.set_num_threads(1)
    images = [tensor_of(drawn("test", 8 * number)) for number in range(num_images)]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    least = dict.fromkeys(segmenters, float("inf"))
    texts = {name: one.text_matrix(words) for name, one in segmenters.items()}
    for _ in range(ROUNDS):
        for name, segmenter in segmenters.items():
            began = time.process_time()
            decide(segmenter.score(encode_images(segmenter, images), texts[name]), sizes)
            least[name] = min(least[name], time.process_time() - began)
    return {name: round(num_images / seconds, 2) for name, seconds in least.items()}


def goals(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that the goals are about, as far as their rows were measured."""
    rows, teacher, pace = results["rows"], results["teacher"], results.get("images_per_s", {})

    def mean(key: str, part: str = "seen") -> float:
        return fmean(one[part] for one in rows[key].values())

    def ratio(words: str, other: str) -> float:
        return pace[words]["student"] / pace[words][other]

    ways: dict[str, Callable[[], float]] = {
        "student_minus_teacher_seen_miou": lambda: mean("student") - teacher["seen"],
        "student_minus_teacher_held_out_miou": lambda: (
            mean("student", "held_out") - teacher["held_out"]
        ),
        "student_over_teacher_images_per_s_b16": lambda: ratio("20 words", "teacher_vit_b16"),
        "student_over_teacher_images_per_s_embedded": lambda: ratio("20 words", "teacher"),
        "student_over_teacher_images_per_s_embedded_82_words": lambda: ratio("82 words", "teacher"),
        "self_training_gain_miou": lambda: (
            mean("half labelled, self-training") - mean("half labelled")
        ),
        "cleaning_gain_miou": lambda: mean("thresholds") - mean("student"),
        "text_minus_no_text_50_images_miou": lambda: (
            mean("text_fusion") - mean("text_fusion, no text")
        ),
    }
    found = {}
    for name, way in ways.items():
        with suppress(KeyError):
            found[name] = round(way(), 2)
    return found


def measure_in(folder: Path, keys: Sequence[str]) -> None:
    """Measure rows in a folder, and what hangs on them: the pace and the picture."""
    if not (folder / _WORLD).exists():
        draw_world(folder)
    results = read_results()
    teacher = build_segmenter(TEACHER, embedded_backbones())
    results["teacher"] = {"seen": figure(teacher, SEEN), "held_out": figure(teacher, HELD_OUT)}
    write_results(results)
    measure_rows([row for row in ROWS if row.key in keys], folder)
    results, first = read_results(), student_file(folder, "student", 0)
    if first.exists():
        results["images_per_s"] = pace(first)
        draw_picture(student_at(first), DOCS / "students.png")
    results["goals"] = goals(results)
    write_results(results)


def main(keys: Sequence[str]) -> int:
    """Measure the given rows, or all, and write results, tables and picture."""
    known = [row.key for row in ROWS]
    if unknown := set(keys) - set(known):
        print(f"unknown row {sorted(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that train
    began = time.perf_counter()
    if not keys:
        write_results({"rows": {}})
    with tempfile.TemporaryDirectory() as folder:
        measure_in(Path(folder), keys or known)
    results = read_results()
    if not keys:
        results["minutes"] = round((time.perf_counter() - began) / 60, 1)
        write_results(results)
    write_tables(results, DOCS / "students.md")
    print(f"written: {RESULTS.name}, docs/students.md and docs/students.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
