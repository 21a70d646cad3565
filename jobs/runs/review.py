"""`ovseg review`, `import-review`, `calibrate` and `compare`: the page, and what reviews teach."""

import ctypes
import io
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jobs import console
from jobs.config import load_config
from schemas.base import counted, validated
from schemas.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from pipeline.corrections.calibrate import CalibrationReport, Rules
    from pipeline.corrections.import_report import ImportReport
    from pipeline.review.server import Address
    from pipeline.run.trust.confirmed import Confirmed

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def review(
    run: str, address: "Address", weights: Sequence[str], only: str, confirmed: "Confirmed"
) -> int:
    """Serve the page and print its address.

    Args:
        run: the run folder.
        address: where to listen.
        weights: names of weights in the run that "Try words" may load.
        only: a list file of the images that are shown; empty: all.
        confirmed: from where the run's images are read.

    Returns:
        0 after Ctrl-C, which is the usual end; 143 after SIGTERM.

    Raises:
        UserError: no such run or list, or the address cannot be had.
    """
    from pipeline.job.termination import Termination
    from pipeline.review.server import listen
    from pipeline.run.folder import RunFolder

    _return_freed_memory()
    is_computing = False
    with Termination() as termination:
        try:
            folder = RunFolder.open(run, confirmed)
            listening = listen(folder, address, weights, only)
            console.line_with_token(f"review at  {listening.url}")
            console.line_with_token("Ctrl-C ends it")
            try:
                listening.serve()
            finally:
                is_computing = listening.try_page.is_computing
        except KeyboardInterrupt:
            console.line()
            console.line("ended; every decision is in the run folder")
    code = ExitCode.TERMINATED if termination.requested else ExitCode.DONE
    if is_computing:  # Python would wait for its thread, for minutes; nothing of it is stored
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


@dataclass(frozen=True)
class ImportFlags:
    """The flags of `ovseg import-review` that say how a file is understood.

    Attributes:
        labels: `THEIRS=OURS` each.
        empty_means: what an image without an entry is; empty: the default, as below.
        unchanged_means: what images are that equal the predictions and have no mark.
        prefer: what counts where the review page says otherwise.
    """

    labels: Sequence[str] = ()
    empty_means: str = ""
    unchanged_means: str = ""
    prefer: str = ""


def import_review_file(run: str, tool: str, file: str, flags: ImportFlags, as_json: bool) -> None:
    """Read a tool's file into the reviewed layer and print what its reviewers changed.

    Raises:
        ConfigError: no such tool, or a flag's value that is none.
        UserError: a file that cannot be used.
    """
    from pipeline.corrections.calibrate import segments_needed
    from pipeline.corrections.import_review import ImportRules
    from pipeline.corrections.import_review import import_review as read
    from pipeline.run.folder import RunFolder

    folder = RunFolder.open(run)
    names = folder.info.job().vocabulary.names
    given: dict[str, Any] = {
        "empty_means": flags.empty_means,
        "unchanged_means": flags.unchanged_means,
        "prefer": flags.prefer,
        "labels": renamed_labels(flags.labels, names),
    }
    rules = validated(ImportRules, {key: value for key, value in given.items() if value})
    report = read(folder, tool, file, rules)
    if as_json:
        return console.print_json(report.model_dump(mode="json"))
    return _print_import(report, shlex.quote(run), segments_needed(folder))


def renamed_labels(texts: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Return the run's labels by the names that `--label THEIRS=OURS`, once for each, gives.

    Raises:
        ConfigError: one has not this form.
    """
    return dict(_renamed_label(text, names) for text in texts)


def _renamed_label(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the two labels of `THEIRS=OURS`; both may hold a `=`.

    `OURS=THEIRS` is taken as well where it can only be that.

    Raises:
        ConfigError: it has not this form.
    """
    places = [place for place, letter in enumerate(text) if letter == "="]
    pairs = [(text[:place], text[place + 1 :]) for place in places]
    pairs = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
    if not pairs:
        raise ConfigError(
            f"--label {text}: expected THEIRS=OURS, the tool's label and the run's, for example "
            f"{shlex.quote(f'objects={names[0]}')}"
        )
    swapped = ((ours, theirs) for theirs, ours in pairs)
    return next((pair for pair in (*pairs, *swapped) if pair[1] in names), pairs[0])


def _print_import(report: "ImportReport", quoted_run: str, needed: int) -> None:
    rows = [
        (
            label.name, label.predicted, label.accepted_share, label.accepted, label.changed,
            label.rejected, label.added, label.unknown, label.iou, label.minutes,
        )
        for label in report.labels
        if label.predicted or label.added
    ]  # fmt: skip
    columns = (
        "label", "predicted", "share accepted", "accepted", "changed", "rejected", "added",
        "unknown", "IoU", "minutes",
    )  # fmt: skip
    timed = bool(report.num_images_with_time)
    rows, columns = (rows, columns) if timed else ([row[:-1] for row in rows], columns[:-1])
    console.table("Predictions and their corrections by label", columns, rows)
    console.line(
        "IoU: all predicted against all corrected pixels of the label, relabelled masks included"
    )
    console.line("")
    minutes = f"{report.minutes:.1f} for {report.num_images_with_time} images"
    unknown = ", ".join(f"{name} ({count})" for name, count in report.unknown_labels.items())
    pairs = [f"{theirs}={ours}" for theirs, ours in report.near_labels.items()]
    near = " ".join(f"--label {shlex.quote(pair)}" for pair in pairs)
    undo = f"ovseg import-review {quoted_run} --undo {report.id}"
    images = [
        str(report.num_images),
        f"{report.num_partly} of them in part" if report.num_partly else "",
        f"{report.num_unchanged} of them unchanged from the run" if report.num_unchanged else "",
    ]
    console.facts(
        [
            ("import", f"{report.id} (to take it back: {undo})"),
            ("images reviewed", ", ".join(filter(None, images))),
            ("of earlier imports", _of_earlier(report, quoted_run)),
            ("caution", _mostly_unchanged(report)),
            ("minutes", minutes if timed else ""),
            ("labels that the run does not have", unknown),
            ("spelled much like one of the run", near and f"import again with {near}"),
        ]
    )
    console.damaged(report.damaged)
    console.notes(report.notes)
    evaluate, calibrate = (
        f"ovseg evaluate {quoted_run} --truth reviewed",
        f"ovseg calibrate {quoted_run}",
    )
    if needed:
        more = f"{calibrate} ({counted(needed, 'more reviewed segment')} needed)"
        return console.facts([("next", evaluate), ("then", more)])
    return console.facts([("next", f"{calibrate}; {evaluate}")])


def _of_earlier(report: "ImportReport", quoted_run: str) -> str:
    """Return how many images still count as earlier imports say; empty: none."""
    if not report.num_of_earlier:
        return ""
    images = counted(report.num_of_earlier, "further image")
    counts = "counts" if report.num_of_earlier == 1 else "count"
    return f"{images} still {counts} as before (ovseg import-review {quoted_run} --list)"


def _mostly_unchanged(report: "ImportReport") -> str:
    """Return what a file that was hardly edited makes of the images; empty: it was."""
    if 2 * report.num_unchanged <= report.num_images:
        return ""
    return (
        f"{report.num_images} images count as reviewed; {report.num_unchanged} of them are "
        "unchanged from the run, and the file does not say that a person has looked at them: if "
        "nobody has, evaluate and calibrate find the predictions right. To let only the others "
        "count, take the import back, and import the file with --unchanged-means unreviewed"
    )


def caution_of_unchanged(num_unchanged: int, num_reviewed: int) -> str:
    """Return what it means that most of a review was imported as predicted; empty: it was not.

    Args:
        num_unchanged: reviewed images that are as predicted, and nothing tells of a person.
        num_reviewed: all reviewed images.
    """
    if 2 * num_unchanged <= num_reviewed:
        return ""
    return (
        f"{num_unchanged} of the {counted(num_reviewed, 'reviewed image')} were imported as the "
        "run predicted them: if nobody has looked at them, these figures are too good"
    )


def show_imports(run: str, as_json: bool) -> None:
    """Print the imports of a run, also those that were taken back.

    Raises:
        UserError: no such run.
    """
    from pipeline.corrections import imports
    from pipeline.run.folder import RunFolder

    entries = imports.list_imports(RunFolder.open(run))
    if as_json:
        return console.print_json([entry.model_dump(mode="json") for entry in entries])
    if not entries:
        return console.line("no review was imported into this run")
    rows = [
        (
            entry.id, _local_time(entry.at_s), entry.source, entry.num_images, entry.num_masks,
            entry.num_replaced, "" if entry.undone_at_s is None else _local_time(entry.undone_at_s),
        )
        for entry in entries
    ]  # fmt: skip
    columns = ("id", "when", "file", "images", "masks", "replaced by later ones", "taken back")
    return console.table("Imports, the last one last", columns, rows)


def take_import_back(run: str, identity: str, as_json: bool) -> None:
    """Take an import back.

    Raises:
        UserError: no such run or import, or it is taken back already.
    """
    from pipeline.corrections import imports
    from pipeline.run.folder import RunFolder

    folder = RunFolder.open(run)
    entry = imports.undo_import(folder, identity)
    if as_json:
        return console.print_json(entry.model_dump(mode="json"))
    console.line(
        f"taken back: {entry.id}, {counted(entry.num_images, 'image')} from {entry.source}; its "
        "files stay in the run folder"
    )
    if folder.folder.exists(imports.CALIBRATION):
        console.line(
            f"caution: {folder.folder.uri}/{imports.CALIBRATION} may have been learned from it: "
            f"learn it again (ovseg calibrate {shlex.quote(run)}), or delete it"
        )
    return None


def _local_time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s).astimezone().isoformat(" ", "seconds")


def calibrate_run(run: str, out: str, sets: Sequence[str], as_json: bool) -> None:
    """Fit scores and thresholds to the reviewed layer; write the file and the plot.

    Args:
        run: the run that was reviewed.
        out: where the calibration goes; empty: the run folder's `reviewed/calibration.json`.
        sets: rules of the fit, `key=value` each.
        as_json: print JSON.

    Raises:
        UserError: too little was reviewed.
    """
    from pipeline.corrections import reliability_plot
    from pipeline.corrections.calibrate import FILE, PICTURE, Rules
    from pipeline.corrections.calibrate import calibrate as fit
    from pipeline.run.folder import RunFolder
    from pipeline.storage import uris
    from pipeline.storage.folder import Folder

    rules = load_config(Rules, sets=sets)
    folder = RunFolder.open(run)
    place, name = uris.parent_and_name(uris.normalise(out)) if out else (folder.folder.uri, FILE)
    if not name:
        raise ConfigError(f"--out {out} is not a file name: expected one for the calibration")
    report = fit(folder, rules)
    picture = io.BytesIO()
    reliability_plot.draw(report).save(picture, "PNG")
    content = report.calibration.model_dump_json(indent=1) + "\n"
    Folder(place).atomic_write(name, content.encode())
    folder.folder.atomic_write(PICTURE, picture.getvalue())
    if as_json:
        return console.print_json(report.model_dump(mode="json"))
    columns = ("label", "reviewed", "right", "threshold", "dropped", "right ones dropped")
    own = report.calibration.thresholds
    rows = [
        (
            label.name, label.num_segments, label.num_right, own.get(label.name),
            label.num_dropped, label.num_right_dropped,
        )
        for label in sorted(report.labels, key=lambda label: -label.num_segments)
    ]  # fmt: skip
    console.table_of_labels("Thresholds on the calibrated score", columns, rows)
    console.line("")
    console.damaged(report.damaged)
    file = uris.join(place, name)
    return console.facts(
        [
            ("images reviewed", report.num_images),
            ("segments", f"{report.calibration.num_segments}, {report.num_right} of them right"),
            ("threshold -", _shared_threshold(report, rules)),
            ("expected calibration error", f"{report.before.expected_error:.3f} before"),
            ("", f"{report.after.expected_error:.3f} after, on held-out images"),
            ("", "(mean distance of a score from the share of right segments; 0 is best)"),
            ("caution", caution_of_unchanged(report.num_unchanged, report.num_images)),
            ("caution", _worse(report.before.expected_error, report.after.expected_error)),
            ("caution", _without_effect(report)),
            ("plot", uris.join(folder.folder.uri, PICTURE)),
            ("use", f"ovseg annotate ... --set {shlex.quote(f'calibration={file}')}"),
        ]
    )


def _shared_threshold(report: "CalibrationReport", rules: "Rules") -> str:
    """Return why labels have no threshold of their own; empty: each has one."""
    if not rules.thresholds:
        return "none is fitted (thresholds=false): all segments are kept"
    if all(label.name in report.calibration.thresholds for label in report.labels):
        return ""
    shared = report.calibration.default_threshold
    effect = "" if shared else ", which keeps all"
    return (
        f"too few reviewed (min_segments={rules.min_segments}) or none right: the threshold of all "
        f"labels together holds, {shared:.3f}{effect}"
    )


def _worse(before: float, after: float) -> str:
    if after <= before:
        return ""
    return (
        "on images that it has not seen the calibrated score is further from the truth than the "
        "score that you have: review more images before you use it"
    )


def _without_effect(report: "CalibrationReport") -> str:
    if not report.without_effect:
        return ""
    return (
        f"{report.without_effect}: only the scores change; reviewing more images, with wrong "
        "segments among them, makes them sharper"
    )


def compare_runs(first: str, other: str, as_json: bool) -> None:
    """Compare two runs, write the table into the first, print agreement by label.

    Raises:
        UserError: runs that cannot be compared.
    """
    from pipeline.evaluation.compare import compare as measure
    from pipeline.run.folder import RunFolder

    folder = RunFolder.open(first)
    report = measure(folder, RunFolder.open(other))
    if as_json:
        return console.print_json(report.model_dump(mode="json"))
    columns = ("label", "mean IoU", "IoU", "images", f"only {report.first}", f"only {report.other}")
    if report.first == report.other:
        columns = (*columns[:4], "only first", "only second")
    rows = [
        (
            label.name, label.mean_iou, label.iou, label.num_images, label.num_only_first,
            label.num_only_other,
        )
        for label in report.labels
    ]  # fmt: skip
    title = "Agreement by label, lowest first"
    console.table_of_labels(title, columns, rows)
    worst = [(image.path, image.agreement) for image in report.worst]
    console.table("Images that the two agree on least", ("image", "agreement"), worst)
    console.line("")
    console.damaged(report.damaged, " of the first run")
    console.damaged(report.other_damaged, " of the other run")
    return console.facts(
        [
            ("first, second", f"{first}, {other}" if report.first == report.other else ""),
            ("mean agreement", report.mean_agreement),
            ("images in both", report.num_images),
            ("without masks in either", report.num_without_masks or ""),
            ("not in the other run, or of another size", report.num_missing or ""),
            ("labels of the first run only", ", ".join(report.labels_only_first)),
            ("labels of the second run only", ", ".join(report.labels_only_other)),
            ("table", f"{folder.folder.uri}/{report.file}"),
        ]
    )


def _return_freed_memory() -> None:
    """Make glibc return large blocks to the system as soon as they are freed.

    By default it keeps those of each thread: hundreds of megabytes after a few large images.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none, and needs none
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
