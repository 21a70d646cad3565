"""What `tests.fault.fuzz` changes: a small place with runs and the files of tools, and commands."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import yaml

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.log import ReviewLog
from pipeline.exporters import coco, cvat, label_studio, semantic_png
from pipeline.training.heads.job import train_head
from pipeline.training.progress import StepProgress, TrainingTally
from schemas import plugins
from schemas.config import HeadConfig
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run

SECRET = "outside/secret.txt"
EXPORTERS = plugins.names("pipeline.exporters")
_NEVER_CHANGED = {"outside", "other", "cache"}
_TRAINING = "training.yaml"
OWN_WORDS = ("job.yaml", _TRAINING, "photos.txt")
"""Files that say what their reader opens: opens are not watched where one of them was changed."""
_CHECKPOINT = "head.checkpoint.safetensors"


def make_place(folder: Path) -> None:
    """Make all files; paths in them are of this folder."""
    os.environ.update(HOME=str(folder / "outside"), OVSEG_CACHE=str(folder / "cache"))
    os.chdir(folder)
    scenes = [Scene(f"sub/{seed} é.png", label_map(seed)) for seed in range(5)]
    make_run(folder, scenes, RunSpec(shard_size=2, masks={"min_area_px": 40}))
    (folder / "run").rename(folder / "other")
    run = make_run(folder, scenes, RunSpec(shard_size=2))
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
    type_command(["compare", str(folder / "run"), str(folder / "other")])
    _make_annotated(folder)
    _make_training(folder)
    shutil.rmtree(folder / "cache")  # the runs are a stranger's
    (folder / "outside").mkdir(exist_ok=True)
    (folder / SECRET).write_text("secret")


def _make_annotated(folder: Path) -> None:
    """Make an unfinished run with the embedded models, and its job file."""
    job = {
        "images": str(folder / "photos"),
        "labels": list(LABELS),
        "out": str(folder / "annotated"),
        "clip": {"model": "embedded"},
        "shard_size": 3,
        "run": {"local": True, "device": "cpu"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    type_command(["annotate", str(folder / "job.yaml")])
    (folder / "annotated/done/00001.json").unlink()


def _make_training(folder: Path) -> None:
    """Make the file of a training, its list of images and its checkpoint after one step."""
    photos = sorted((folder / "photos").rglob("*.png"))
    (folder / "photos.txt").write_text("".join(f"{photo}\n" for photo in photos))
    training = {
        "images": str(folder / "photos.txt"),
        "out": str(folder / "head.safetensors"),
        "head": {"name": "found", "options": {"steps": 2, "batch": 2}},
        "clip": {"model": "embedded"},
        "vision": {"model": "embedded"},
        "checkpoint_every": 1,
        "run": {"local": True, "device": "cpu"},
    }
    (folder / _TRAINING).write_text(yaml.safe_dump(training))

    class KeptCheckpoint(StepProgress):
        def advance(self, tally: TrainingTally) -> None:
            super().advance(tally)
            if tally.step == 1:
                shutil.copy(folder / _CHECKPOINT, folder / "kept")

    train_head(HeadConfig.model_validate(training), KeptCheckpoint())
    (folder / "head.safetensors").unlink()
    (folder / "kept").rename(folder / _CHECKPOINT)


def type_command(arguments: list[str]) -> int:
    """Run a command in this process, and return its exit code."""
    from jobs.cli import main

    sys.argv = ["ovseg", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def inputs(folder: Path) -> list[str]:
    """Return the files that a stranger may have written, relative to the folder."""
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return sorted(file.as_posix() for file in files if file.parts[0] not in _NEVER_CHANGED)


def command_for(file: str, folder: Path, dice: random.Random) -> list[str]:
    """Return a command that reads the file."""
    run, photos = str(folder / "run"), str(folder / "photos")
    tools = {"coco.json": "coco", "cvat.xml": "cvat", "label-studio.json": "label-studio"}
    train = ["train-heads", str(folder / _TRAINING), "--local"]
    annotate = ["annotate", str(folder / "job.yaml")]
    kind = file.partition("/")[0]
    if file in tools:
        truth = ["evaluate", run, "--truth", str(folder / file)]
        back = ["import-review", run, str(folder / file), "--from", tools[file], "--json"]
        return dice.choice([back, back, truth]) if file == "coco.json" else back
    if kind == "truth":
        return ["evaluate", run, "--truth", str(folder / "truth")]
    if kind in (_TRAINING, _CHECKPOINT):
        return train
    if kind == "photos.txt":
        return dice.choice([train, ["annotate", "--dry-run", "--images", str(folder / file),
                                    "--labels", "cat", "--out", str(folder / "new"), "--local",
                                    "--set", "clip.model=embedded"]])  # fmt: skip
    if kind == "job.yaml":
        return [*annotate, "--dry-run"]
    pages = ["review", run, "--port", "0", "--images-root", photos]
    if kind == "photos":
        copies = ["export", run, "--to", "yolo_seg", "--set", "copy_images=true"]
        return dice.choice([pages, annotate, [*copies, "--images-root", photos]])
    if kind == "annotated":
        pages[1] = str(folder / "annotated")
        return dice.choice([annotate, pages, ["inspect", pages[1]]])
    other = str(folder / "other")
    return dice.choice(
        [
            ["inspect", run, *dice.choice([[], ["--json"], ["--clean"]])],
            ["evaluate", run, "--truth", dice.choice([str(folder / "coco.json"), "reviewed"])],
            dice.choice([["compare", run, other], ["compare", other, run]]),
            ["calibrate", run],
            ["import-review", run, str(folder / "coco.json"), "--from", "coco"],
            dice.choice([pages, pages[:4]]),
            *(["export", run, "--to", name] for name in EXPORTERS),
        ]
    )
