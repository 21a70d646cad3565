"""`ovseg evaluate`: agreement of a run with the truth, as tables, JSON and a picture."""

import io
import json
import logging
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import console
from jobs.config import ProtocolFlags, load_config
from jobs.runs.review import caution_of_unchanged, renamed_labels
from schemas.errors import StorageError, UserError
from schemas.untrusted import printable_json
from schemas.vocabulary import BACKGROUND

if TYPE_CHECKING:
    from pipeline.evaluation.evaluate import EvaluationRules
    from pipeline.evaluation.instances.report import InstanceReport
    from pipeline.evaluation.reference import Reference
    from pipeline.evaluation.report import EvaluationReport
    from pipeline.run.folder import RunFolder

logger = logging.getLogger(__name__)

REPORT, PICTURE, INSTANCES_REPORT = "evaluation.json", "confusion.png", "evaluation_instances.json"
"""Files that are written into the run folder."""
_SHOWN_CONFUSIONS = 10
_SHOWN_NAMES = 10
_MAX_REPORT_BYTES = 64 << 20


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
    """Compare a run's label maps with the truth, write the report into the run folder, print it.

    Args:
        run: the run folder.
        truth: where the truth lies, and how its label images are read; unused with a protocol.
        protocol: the public data set to compare with; its name is empty: none.
        sets: rules of the comparison, `key=value` each.
        as_json: print JSON.

    Raises:
        UserError: a wrong rule, no usable truth, or nothing to compare.
    """
    from pipeline.evaluation.confusion_picture import draw_confusion
    from pipeline.evaluation.evaluate import EvaluationRules, evaluate_against
    from pipeline.run.folder import RunFolder

    given = {"truth_background": truth.background or None}
    rules = load_config(EvaluationRules, flags=given, sets=sets)
    folder = RunFolder.open(run)
    reference = _reference(folder, truth, protocol, rules)
    evaluation = evaluate_against(folder, reference, rules)
    report = evaluation.report.model_dump(mode="json")
    replaced = _other_truth(folder, REPORT, report)
    picture = io.BytesIO()
    draw_confusion(evaluation.names, evaluation.counts).save(picture, "PNG")
    written = _write(folder, {REPORT: _as_text(report), PICTURE: picture.getvalue()})
    if as_json:
        console.print_json(report)
        return
    show_evaluation(evaluation.report)
    _show_renamed(folder, truth)
    _show_caution(reference)
    _show_written(folder, written, replaced)


def evaluate_run_instances(
    run: str, truth: TruthFlags, protocol: ProtocolFlags, sets: Sequence[str], as_json: bool
) -> None:
    """Compare a run's segments with true objects; else as `evaluate_run`, without a picture."""
    from pipeline.evaluation.evaluate import EvaluationRules
    from pipeline.evaluation.instances.evaluate import InstanceRules, evaluate_instances
    from pipeline.run.folder import RunFolder

    rules = load_config(InstanceRules, sets=sets)
    folder = RunFolder.open(run)
    reference = _reference(folder, truth, protocol, EvaluationRules())
    found = evaluate_instances(folder, reference, rules)
    report = found.model_dump(mode="json")
    replaced = _other_truth(folder, INSTANCES_REPORT, report)
    written = _write(folder, {INSTANCES_REPORT: _as_text(report)})
    if as_json:
        console.print_json(report)
        return
    show_instances(found)
    _show_renamed(folder, truth)
    _show_caution(reference)
    _show_written(folder, written, replaced)


def _reference(
    run: "RunFolder", truth: TruthFlags, protocol: ProtocolFlags, rules: "EvaluationRules"
) -> "Reference":
    from pipeline.evaluation.reference import protocol_reference, truth_reference

    if protocol.name:
        return protocol_reference(run, protocol.name, protocol.data)
    names = run.info.job().vocabulary.names
    renamed = renamed_labels(truth.labels, names)
    return truth_reference(run, truth.uri, rules.crowd, rules.truth_background, renamed)


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
        (pair.truth, pair.predicted, pair.pixels, pair.share)
        for pair in report.confusions[:_SHOWN_CONFUSIONS]
    ]
    columns = ("true", "taken for", "px", "share of the true")
    console.table("Most pixels lost", columns, confused)
    console.line("")
    groups = [(f"mIoU of {name}", value) for name, value in report.groups.items()]
    console.facts([*groups, *_means(report), *_published(report)])
    _show_missing(report, "its IoU is 0 where the run predicts it, else -")
    console.damaged(report.damaged)
    console.notes(report.notes)


_FIGURES = (
    ("AP", "ap"),
    ("AP50", "ap50"),
    ("AP75", "ap75"),
    ("AP of small objects", "ap_small"),
    ("AP of medium objects", "ap_medium"),
    ("AP of large objects", "ap_large"),
    ("AR, 1 segment", "ar1"),
    ("AR, 10 segments", "ar10"),
    ("AR, 100 segments", "ar100"),
    ("PQ", "pq"),
    ("SQ", "sq"),
    ("RQ", "rq"),
    ("cgF1", "cgf1"),
    ("pmF1", "pmf1"),
    ("IL_MCC", "il_mcc"),
)
"""Figures of instances by their names in the papers; `cgF1` in percent."""
_OF_A_LABEL = ("AP", "AP50", "AR, 100 segments", "PQ", "cgF1", "pmF1", "IL_MCC")


def show_instances(report: "InstanceReport") -> None:
    """Print the figures by label and of all labels, and what could not be compared."""
    shown = [(name, field) for name, field in _FIGURES if name in _OF_A_LABEL]
    rows = [
        (
            label.name,
            *(getattr(label.figures, field) for _, field in shown),
            label.num_true,
            label.num_found,
        )
        for label in report.labels
        if label.num_true or label.num_found
    ]
    heads = ("label", *(name for name, _ in shown), "true", "found")
    console.table("Instances by label", heads, rows)
    console.line("")
    nowhere = len(report.labels) - len(rows)
    console.facts(
        [
            *((name, getattr(report.all_labels, field)) for name, field in _FIGURES),
            ("labels in neither truth nor run", nowhere or ""),
            ("segments of the run are", _SEGMENTS[report.segments]),
            ("images compared", report.num_images),
            ("without true masks", report.num_without_truth or ""),
            ("of another size", report.num_wrong_size or ""),
            ("failed", report.num_failed or ""),
            ("not annotated yet", report.num_left or ""),
            (f"segments under {report.min_score:g}", report.num_low_score or ""),
            ("segments that no truth tells of", report.num_not_compared or ""),
            *_answers(report),
            ("crowd regions", report.num_crowds or ""),
            ("other categories", _unknown(report.unknown_categories, "left out")),
        ]
    )
    _show_missing(report, "its segments are not compared")
    console.damaged(report.damaged)
    console.notes(report.notes)


def _answers(report: "InstanceReport") -> Iterable[tuple[str, str]]:
    """Yield how often each answer was given, and how often the truth shows the label then."""
    for answer, check in report.answers.items():
        yield f"answered {answer}", f"{check.num:,} times, {check.num_shown:,} shown in the truth"


_SEGMENTS = {
    "class": "masks of a label, in which all its objects are one (--set masks.segments=instances "
    "of ovseg annotate tells them apart)",
    "components": "connected regions of a label: objects that touch are one",
    "instances": "instances",
}


def _show_missing(report: "EvaluationReport | InstanceReport", effect: str) -> None:
    """Say which labels the truth has no name for, what that does, and how to give one."""
    for label, meant in list(report.missing_labels.items())[:_SHOWN_NAMES]:
        line = f"the truth has no {label!r}: {effect}"
        if meant:
            flag = shlex.quote(f"{meant[0]}={label}")
            line += f"; its nearest: {', '.join(meant)} (--label {flag})"
        elif report.unknown_categories:
            line += "; --label THEIRS=OURS says which of its names is the same"
        console.line(line)
    hidden = len(report.missing_labels) - _SHOWN_NAMES
    console.labels_hidden(hidden, " that the truth does not have")


def _unknown(names: Sequence[str], taken_as: str = "taken as background") -> str:
    """Return the first names, their number, and what it means that the run does not have them."""
    if not names:
        return ""
    shown = console.first_names(names, _SHOWN_NAMES)
    return f"{len(names)} of the truth that the run was not asked for, {taken_as}: {shown}"


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
    yield "left out: too few true pixels", report.num_left_out or ""
    yield "not in the truth", report.num_without_truth or ""
    explained = {BACKGROUND, *report.missing_labels}
    unseen = [one.name for one in report.labels if not one.truth_px and one.name not in explained]
    yield "labels in no true mask", console.first_names(unseen, _SHOWN_NAMES)
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


def _show_renamed(run: "RunFolder", truth: TruthFlags) -> None:
    """Say which names of the truth were taken as which label, as `--label` says."""
    theirs_of: dict[str, list[str]] = {}
    for theirs, ours in renamed_labels(truth.labels, run.info.job().vocabulary.names).items():
        theirs_of.setdefault(ours, []).append(theirs)
    for ours, theirs in theirs_of.items():
        console.line(f"taken as {ours}: {', '.join(theirs)}")


def _show_caution(reference: "Reference") -> None:
    """Say where most of a review is what the run predicted; it may be that nobody looked at it."""
    from pipeline.evaluation.reviewed_truth import ReviewedTruth

    truth = reference.truth
    if not isinstance(truth, ReviewedTruth):
        return
    if caution := caution_of_unchanged(truth.num_unchanged, truth.num_images):
        console.line(f"caution: {caution}")


def _other_truth(run: "RunFolder", name: str, report: dict[str, Any]) -> str:
    """Return the truth of the report that is replaced, where it is another one."""
    try:
        old = json.loads(run.folder.read_bytes(name, _MAX_REPORT_BYTES)).get("truth", "")
    except (FileNotFoundError, UserError, StorageError, ValueError, AttributeError):
        return ""
    return "" if old == report["truth"] else str(old)


def _show_written(run: "RunFolder", names: Sequence[str], replaced: str) -> None:
    for name in names:
        console.line(f"{run.folder.uri}/{name}")
    if names and replaced:
        console.line(
            f"they replaced those against {replaced}; to keep several, copy them in between"
        )


def _as_text(report: dict[str, Any]) -> bytes:
    """Return a report as the content of its file."""
    return (printable_json(report) + "\n").encode()


def _write(run: "RunFolder", files: dict[str, bytes]) -> list[str]:
    """Write files and return their names; only warn if they cannot be written."""
    try:
        for name, content in files.items():
            run.folder.atomic_write(name, content)
    except (UserError, StorageError) as error:
        logger.warning("the evaluation is not kept in the run folder: %s", error)
        return []
    return list(files)
