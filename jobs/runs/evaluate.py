"""`ovseg evaluate`: agreement of a run with the truth, as tables, JSON and a picture."""

import io
import logging
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import console
from jobs.config import ProtocolFlags, load_config
from jobs.review import renamed_label
from schemas.errors import StorageError, UserError
from schemas.untrusted import printable_json

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.report import EvaluationReport
    from pipeline.run.folder import RunFolder

logger = logging.getLogger(__name__)

REPORT, PICTURE = "evaluation.json", "confusion.png"
"""Files that are written into the run folder."""
_SHOWN_CONFUSIONS = 10
_SHOWN_NAMES = 10


class TruthFlags(NamedTuple):
    """`--truth`, `--truth-background` and `--label` of the command line."""

    uri: str
    background: str = ""
    labels: Sequence[str] = ()


def evaluate_run(
    run: str,
    truth: TruthFlags,
    protocol: ProtocolFlags,
    sets: Sequence[str],
    as_json: bool,
) -> None:
    """Compare a run with the truth, write the report into the run folder, print it.

    Args:
        run: the run folder.
        truth: where the truth lies, and how its label images are read; unused with a protocol.
        protocol: the public data set to compare with; its name is empty: none.
        sets: rules of the comparison, `key=value` each.
        as_json: print JSON.

    Raises:
        UserError: a wrong rule, no usable truth, or nothing to compare.
    """
    from pipeline.evaluation.evaluate import EvaluationRules, evaluate_against
    from pipeline.evaluation.reference import protocol_reference, truth_reference
    from pipeline.run.folder import RunFolder

    given = {"truth_background": truth.background or None}
    rules = load_config(EvaluationRules, flags=given, sets=sets)
    folder = RunFolder.open(run)
    if protocol.name:
        reference = protocol_reference(folder, protocol.name, protocol.data)
    else:
        names = folder.info.job().vocabulary.names
        renamed = dict(renamed_label(text, names) for text in truth.labels)
        background = rules.truth_background
        reference = truth_reference(folder, truth.uri, rules.crowd, background, renamed)
    evaluation = evaluate_against(folder, reference, rules)
    report = evaluation.report.model_dump(mode="json")
    written = _write(folder, evaluation, report)
    if as_json:
        console.print_json(report)
        return
    show_evaluation(evaluation.report)
    for name in written:
        console.line(f"{folder.folder.uri}/{name}")


def show_evaluation(report: "EvaluationReport") -> None:
    """Print IoU by label, the means, what could not be compared, and published figures."""
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
    console.table("IoU by label", columns, rows)
    confused = [
        (pair.truth, pair.predicted, pair.share) for pair in report.confusions[:_SHOWN_CONFUSIONS]
    ]
    console.table("Most pixels lost", ("true", "taken for", "share of the true"), confused)
    console.line("")
    groups = [(f"mIoU of {name}", value) for name, value in report.groups.items()]
    console.facts([*groups, *_means(report), *_published(report)])
    _show_missing(report)
    console.damaged(report.damaged)
    console.notes(report.notes)


def _show_missing(report: "EvaluationReport") -> None:
    """Say which labels the truth has no name for, and how to give one."""
    for label, meant in list(report.missing_labels.items())[:_SHOWN_NAMES]:
        line = f"the truth has no {label!r}: it counts as found nowhere (IoU 0, or none)"
        if meant:
            flag = shlex.quote(f"{meant[0]}={label}")
            line += f"; its nearest names are {', '.join(meant)}: --label {flag}"
        elif report.unknown_categories:
            line += "; --label THEIRS=OURS says which of its names is the same"
        console.line(line)
    hidden = len(report.missing_labels) - _SHOWN_NAMES
    if hidden > 0:
        console.line(f"and {hidden} more labels that the truth does not have (--json lists them)")


def _unknown(names: Sequence[str]) -> str:
    """Return the first names, their number, and what it means that the run does not have them."""
    if not names:
        return ""
    hidden = len(names) - _SHOWN_NAMES
    shown = ", ".join(names[:_SHOWN_NAMES]) + (f" and {hidden} more" if hidden > 0 else "")
    return f"{len(names)} of the truth that the run was not asked for, taken as background: {shown}"


def _means(report: "EvaluationReport") -> Iterable[tuple[str, Any]]:
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
    part = f"{report.num_images:,} of the protocol's {report.num_expected or 0:,}"
    yield "images compared", report.num_images if whole else part
    yield "too little in the truth", report.num_left_out or ""
    yield "not in the truth", report.num_without_truth or ""
    yield "of another size", report.num_wrong_size or ""
    yield "failed", report.num_failed or ""
    yield "not annotated yet", report.num_left or ""
    yield "other categories", _unknown(report.unknown_categories)
    yield "values of label images", report.truth_values


def _published(report: "EvaluationReport") -> Iterable[tuple[str, Any]]:
    """Yield the measured and the published figure, each with method and weights."""
    if report.published is None:
        return
    measured = "-" if report.miou is None else f"{100 * report.miou:.2f}"
    theirs = report.published
    figure = "no figure" if theirs.miou is None else f"{theirs.miou:g}"
    yield "mIoU here, in percent", f"{measured} ({report.method}, CLIP {report.backbone})"
    yield "as published", f"{figure} ({theirs.method}, {theirs.weights})"
    for line in report.differences:
        yield "differs", line


def _write(run: "RunFolder", evaluation: "Evaluation", report: dict[str, Any]) -> list[str]:
    """Write report and picture and return their names; only warn if they cannot be written."""
    from pipeline.evaluation.confusion_picture import draw_confusion

    picture = io.BytesIO()
    draw_confusion(evaluation.names, evaluation.counts).save(picture, "PNG")
    text = printable_json(report) + "\n"
    try:
        run.folder.atomic_write(REPORT, text.encode())
        run.folder.atomic_write(PICTURE, picture.getvalue())
    except (UserError, StorageError) as error:
        logger.warning("the evaluation is not kept in the run folder: %s", error)
        return []
    return [REPORT, PICTURE]
