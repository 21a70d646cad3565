"""`ovseg evaluate`: how well a run agrees with the truth, in words, as JSON and as a picture."""

import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs import show
from jobs.settings import dotlist
from schemas.base import validated
from schemas.errors import StorageError, UserError

LOG = logging.getLogger(__name__)
REPORT, PICTURE = "evaluation.json", "confusion.png"
"""What is written into the run folder."""
_SHOWN_CONFUSIONS = 10


@dataclass(frozen=True)
class Asked:
    """What to compare a run with: a truth, or a protocol and its data set's folder."""

    truth: str = ""
    protocol: str = ""
    data: str = ""


def evaluate_run(run: str, asked: Asked, overrides: Sequence[str], as_json: bool) -> None:
    """Compare, write the report into the run folder, print it.

    Raises:
        UserError: a wrong rule, no usable truth, or nothing to compare.
    """
    from pipeline.evaluation import reference
    from pipeline.evaluation.evaluate import Rules, measure
    from pipeline.run.folder import RunFolder

    rules = validated(Rules, dotlist(overrides))
    folder = RunFolder.open(run)
    if asked.protocol:
        measured_by = reference.of_protocol(folder, asked.protocol, asked.data)
    else:
        measured_by = reference.of_truth(folder, asked.truth, rules.crowd)
    evaluation = measure(folder, measured_by, rules)
    written = _write(folder, evaluation)
    if as_json:
        print(json.dumps(_plain(evaluation.report), indent=2, ensure_ascii=False))
        return
    show_evaluation(evaluation.report)
    for name in written:
        show.line(f"{folder.folder.uri}/{name}")


def show_evaluation(report: Any) -> None:
    """Print IoU by label, the means, what could not be compared, and what others report.

    Args:
        report: the `pipeline.evaluation.report.EvaluationReport`.
    """
    published = report.published.classes if report.published else ()
    columns = (
        "label",
        "IoU",
        *(f"%: {one.source}" for one in published),
        "true px",
        "predicted px",
    )
    rows = [
        (label.name, label.iou, *theirs, label.truth_px, label.predicted_px)
        for label in report.labels
        for theirs in [[one.iou.get(label.name) for one in published]]
    ]
    show.table("IoU by label", columns, rows)
    confused = [
        (pair.truth, pair.predicted, pair.share) for pair in report.confusions[:_SHOWN_CONFUSIONS]
    ]
    show.table("Most pixels lost", ("true", "taken for", "share of the true"), confused)
    show.line("")
    groups = [(f"mIoU of {name}", value) for name, value in report.groups.items()]
    show.facts([*groups, *_means(report), *_published(report)])


def _means(report: Any) -> Iterable[tuple[str, Any]]:
    seen = report.num_images + report.num_left_out
    whole = report.num_expected in (None, seen)
    has_background = report.foreground_iou is not None
    yield "mIoU", report.miou
    if has_background:
        yield "mIoU without background", report.label_miou
        yield "foreground IoU", report.foreground_iou
    yield "pixel accuracy", report.pixel_accuracy
    yield (
        "mean over",
        {"occurring": "", "in_truth": "classes in the truth"}.get(
            report.mean, "all classes, 0 for those that do not occur"
        ),
    )
    yield "images compared", report.num_images if whole else _part(report)
    yield "too little in the truth", report.num_left_out or ""
    yield "not in the truth", report.num_without_truth or ""
    yield "of another size", report.num_wrong_size or ""
    yield "failed", report.num_failed or ""
    yield "not annotated yet", report.num_left or ""
    yield "unknown categories", ", ".join(report.unknown_categories)


def _part(report: Any) -> str:
    return f"{report.num_images:,} of the protocol's {report.num_expected:,}"


def _published(report: Any) -> Iterable[tuple[str, Any]]:
    """Yield the measured figure and the published one, each with whose weights it is of."""
    if report.published is None:
        return
    measured = "-" if report.miou is None else f"{100 * report.miou:.2f}"
    theirs = report.published
    figure = "no figure" if theirs.miou is None else f"{theirs.miou:g}"
    yield "mIoU here, in percent", f"{measured} ({report.method}, CLIP {report.backbone})"
    yield "as published", f"{figure} ({theirs.method}, {theirs.weights})"
    for line in report.differences:
        yield "differs", line


def _write(run: Any, evaluation: Any) -> list[str]:
    """Write report and picture; a run folder that takes no files is not the evaluation's end."""
    from pipeline.evaluation import confusion_picture

    picture = io.BytesIO()
    confusion_picture.draw(evaluation.names, evaluation.counts).save(picture, "PNG")
    text = json.dumps(_plain(evaluation.report), indent=2, ensure_ascii=False) + "\n"
    try:
        run.folder.atomic_write(REPORT, text.encode())
        run.folder.atomic_write(PICTURE, picture.getvalue())
    except (UserError, StorageError) as error:
        LOG.warning("the evaluation is not kept in the run folder: %s", error)
        return []
    return [REPORT, PICTURE]


def _plain(report: Any) -> dict[str, Any]:
    return report.model_dump(mode="json")
