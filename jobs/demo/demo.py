"""`ovseg demo`: the whole product on drawn scenes, with the embedded models."""

import json
import shlex
import time

import yaml

from jobs import console
from jobs.annotate import show_summary
from jobs.demo.folder import DemoFolder, prepare_folder
from schemas.config import JobConfig
from schemas.errors import ConfigError

_SHEET_ROWS = 24
_NUM_SHARDS = 4
"""Two for each of the two workers."""
_INSTANCE_OPTIONS = {
    "proposals": "sam",
    "region_vote": False,
    "objectness": "found",
    "short_side_px": 160,
    "window_px": 64,
    "stride_px": 32,
    "top_k_labels": 8,
    "area_threshold": 0.03,
}
"""SCLIP at twice its published size, as in docs/quality.md, with proposals."""


def demo(out: str, num_scenes: int, seed: int) -> int:
    """Draw scenes, annotate them with two Ray workers, evaluate and export.

    Args:
        out: the demo's own folder; an earlier demo in it is replaced.
        num_scenes: 2 or more; the second half shows colour-shape pairs that were not trained on.
        seed: of the scenes.

    Returns:
        The exit code of the annotation.

    Raises:
        RunFolderError: the folder holds files that are not the demo's.
    """
    from jobs.demo.draw import draw_scenes
    from pipeline.job import job

    started = time.monotonic()
    folder = prepare_folder(out)
    scenes = draw_scenes(folder.scenes, num_scenes, seed)
    for file, truth in ((folder.truth, scenes.truth), (folder.shape_truth, scenes.shape_truth)):
        file.write_text(json.dumps(truth, indent=1), encoding="utf-8")
    console.line(f"drew {num_scenes} scenes with {len(scenes.labels)} different phrases")
    config = _config(folder, scenes.labels, num_scenes)
    console.line(f"one mask per phrase, by {config.method.name}")
    report = job.run(config)
    show_summary(report)
    if report.exit_code:
        return report.exit_code
    _show_agreement(folder, scenes.seen, scenes.held_out)
    has_instances = _find_instances(folder, scenes.labels)
    _make_pictures(folder, has_instances)
    _show_places(folder, has_instances)
    console.line()
    console.line(f"done in {time.monotonic() - started:.0f} s; now review the masks:")
    console.line(f"  {console.program()} review {shlex.quote(str(folder.run))}")
    return 0


def _config(folder: DemoFolder, labels: tuple[str, ...], num_scenes: int) -> JobConfig:
    """Return the job, and write it to the demo's folder as a job file."""
    job = {
        "images": f"{folder.scenes}/scene_*.png",
        "out": str(folder.run),
        "labels": list(labels),
        "method": "clip_diy",
        "clip": {"model": "embedded"},
        "shard_size": -(-num_scenes // _NUM_SHARDS),
        "run": {"workers": 2, "device": "cpu"},
    }
    text = yaml.safe_dump(job, sort_keys=False, width=100)
    head = (
        f"# The demo's job: ovseg annotate {folder.config}\n"
        "# `labels` and `method` are short for vocabulary.labels and method.name.\n"
    )
    folder.config.write_text(f"{head}{text}", "utf-8")
    return JobConfig.model_validate(job)


def _find_instances(folder: DemoFolder, labels: tuple[str, ...]) -> bool:
    """Annotate the scenes once more, one mask for each object; return whether it could be done."""
    import torch

    from pipeline.job import job

    torch.set_num_threads(1)  # networks as small as these crawl in two on a busy machine
    part = {
        "images": f"{folder.scenes}/scene_*.png",
        "out": str(folder.instances),
        "labels": list(labels),
        "method": {"name": "sclip", "options": _INSTANCE_OPTIONS},
        "masks": {"segments": "instances"},
        "clip": {"model": "embedded"},
        "run": {"local": True, "device": "cpu"},
    }
    config = JobConfig.model_validate(part)
    console.line()
    console.line(f"one mask per object (instances), by {config.method.name} and SAM's proposals")
    try:
        report = job.run(config)
    except ConfigError as error:  # without the library that SAM needs
        console.line(f"no instances: {error}")
        return False
    show_summary(report)
    return not report.exit_code


def _show_agreement(folder: DemoFolder, seen: tuple[str, ...], held_out: tuple[str, ...]) -> None:
    """Evaluate, and print the means of phrases with trained and with held-out pairs."""
    from pipeline.evaluation.evaluate import EvaluationRules, evaluate
    from pipeline.run.folder import RunFolder

    groups = {"seen": seen, "held-out": held_out}
    rules = EvaluationRules(groups={name: labels for name, labels in groups.items() if labels})
    report = evaluate(RunFolder.open(str(folder.run)), str(folder.truth), rules)
    console.line()
    console.line("agreement with the drawn truth, 0 to 1: IoU, but the last")
    means = report.groups
    console.facts(
        [
            ("foreground (all objects)", report.foreground_iou),
            (f"{len(seen)} phrases of trained colour-shape pairs", means.get("seen")),
            (f"{len(held_out)} phrases of pairs never seen", means.get("held-out")),
            ("pixel accuracy", report.pixel_accuracy),
        ]
    )


def _make_pictures(folder: DemoFolder, has_instances: bool) -> None:
    """Export COCO and the gallery, and draw the contact sheet."""
    from pipeline.evaluation.contact_sheet import contact_sheet, sheet_rows, with_instances
    from pipeline.run.folder import RunFolder
    from schemas import plugins

    run = RunFolder.open(str(folder.run))
    for name in ("coco", "gallery"):
        exporter = plugins.load_plugin("pipeline.exporters", name)
        exporter.export(run, exporter.Options())
    rows = sheet_rows(run, str(folder.truth), limit=_SHEET_ROWS)
    if has_instances:
        others = sheet_rows(RunFolder.open(str(folder.instances)), limit=_SHEET_ROWS)
        rows = with_instances(rows, others)
    contact_sheet(rows, run.info.job().vocabulary.names).save(folder.sheet, optimize=True)


def _show_places(folder: DemoFolder, has_instances: bool) -> None:
    """Print the paths of the results and the next commands."""
    from jobs.demo.shapes import SHAPES

    run = shlex.quote(str(folder.run))
    console.line("")
    console.facts(
        [
            ("contact sheet", folder.sheet),
            ("gallery", folder.run / "exports" / "gallery" / "index.html"),
            ("COCO masks", folder.run / "exports" / "coco" / "instances.json"),
            *([("run of instances", folder.instances)] if has_instances else []),
            ("scenes", folder.scenes),
            ("true masks", folder.truth.parent),
            ("job file", folder.config),
        ]
    )
    config, other = shlex.quote(str(folder.config)), shlex.quote(str(folder.root / "shapes"))
    labels, ovseg = shlex.quote(",".join(SHAPES)), console.program()
    console.line()
    console.line(
        "next: inspect the run, compare it label by label, annotate the scenes with other labels "
        "and compare those"
    )
    console.line(f"  {ovseg} inspect {run}")
    console.line(f"  {ovseg} evaluate {run} --truth {shlex.quote(str(folder.truth))}")
    console.line(f"  {ovseg} annotate {config} --labels {labels} --out {other}")
    console.line(f"  {ovseg} evaluate {other} --truth {shlex.quote(str(folder.shape_truth))}")
