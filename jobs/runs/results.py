"""`ovseg inspect` and `ovseg export`: read the run folder of a finished or unfinished run."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jobs import console
from jobs.config import load_config
from pipeline.job.monitoring.json_log import set_log_fields
from schemas.base import counted
from schemas.errors import BlockedStoreError, UserError, lasting_codes
from schemas.records import STAGES

if TYPE_CHECKING:
    from pipeline.annotate.bottleneck import Bottleneck
    from pipeline.corrections.layer import ReviewState
    from pipeline.run.inspection.inspect import Inspection
    from pipeline.run.trust.confirmed import Confirmed


_EXPORTERS = "pipeline.exporters"
_OF_THREADS = {
    "segment": "computing", "wait_images": "waiting for images", "wait_masks": "waiting for masks",
    "write": "writing tables", "wait_shard": "waiting for the next shard",
}  # fmt: skip
"""What the workers' compute threads do, by the name of their seconds."""


def show_run(run: str, as_json: bool, orphans: bool, clean: bool) -> None:
    """Print what is in a run folder; or only list or delete its orphans."""
    from pipeline.corrections.layer import ReviewedLayer
    from pipeline.run.folder import RunFolder
    from pipeline.run.inspection.inspect import inspect_folder

    folder = RunFolder.open(run)
    found = inspect_folder(folder)
    review = ReviewedLayer(folder).state()
    cleaned = folder.clean() if clean else ()
    if as_json:
        value = found.model_dump(mode="json")
        console.print_json({**value, "review": review.model_dump(), "cleaned": list(cleaned)})
        return
    if orphans:
        for name in found.orphans:
            console.line(name)
        if not found.orphans:
            console.line("no orphans")
    if clean:
        console.line(f"{counted(len(cleaned), 'orphan')} deleted")
    if not (orphans or clean):
        show_inspection(found, review)


def list_files(run: str, table: str) -> None:
    """Print the committed Parquet files of a table, one a line.

    Raises:
        UserError: no such table, or no files that can be read as they are.
    """
    from pipeline.run.folder import RunFolder
    from schemas.records import TABLE_NAMES, TableName

    if table not in TABLE_NAMES:
        raise UserError(f"--files: expected {', '.join(TABLE_NAMES)}, got {table!r}")
    name: TableName = TABLE_NAMES[TABLE_NAMES.index(table)]
    for file in RunFolder.open(run).table_files(name):
        console.line(file)


def _waiting(waiting: dict[str, int]) -> str:
    codes = ", ".join(f"{count:,} {code}" for code, count in waiting.items())
    return f"{codes} (the command that made the run tries these images again)" if codes else ""


def _speed(bottleneck: "Bottleneck") -> str:
    rate = bottleneck.images_per_s
    if rate is None:
        return ""
    return (
        f"{rate:.3g} images/s per worker while it worked (the job's last line counts all workers "
        "together, and the time of their start)"
    )


def _thread_times(seconds: dict[str, float]) -> str:
    if "wall" not in seconds:
        return ""
    known = {text: seconds[name] for name, text in _OF_THREADS.items() if name in seconds}
    return console.seconds(known)


def _frames(number: int) -> str:
    return (
        f"{counted(number, 'image')} of several frames or pages, one of each annotated"
        if number
        else ""
    )


def _vectors(found: "Inspection") -> str:
    if found.num_vectors == found.num_ok:
        return ""
    return f"{found.num_vectors:,} of {found.num_ok:,} annotated images have one"


def _generation(found: "Inspection") -> str:
    if found.generation == 1:
        return ""
    number = found.num_superseded
    vanished = f"; {counted(number, 'image')} of earlier ones vanished or changed" if number else ""
    return f"{found.generation}, by --update (RUN@1 is the first){vanished}"


def show_inspection(found: "Inspection", review: "ReviewState") -> None:
    """Print an inspection as tables, and how far the run is reviewed."""
    from pipeline.collection.left_out import describe
    from pipeline.run.tables.answers import UNSURE_FROM

    images = f"{found.num_ok} ok, {found.num_errors} failed, {found.num_left} left"
    shards = f"{found.num_shards_done} done, {len(found.failed_shards)} given up"
    orphans = f"{counted(len(found.orphans), 'file')} (--orphans lists, --clean deletes)"
    links = f"{len(found.links)} not followed, such as {', '.join(found.links[:3])}"
    versions = ", ".join(
        f"{library} in {counted(n, 'shard')}" for library, n in found.other_versions.items()
    )
    unsure = f"{100 * UNSURE_FROM:.0f} % probable"
    stages = {stage: found.seconds[stage] for stage in STAGES if stage in found.seconds}
    console.facts(
        [
            ("run folder", found.run),
            ("method", found.method),
            ("caution", found.note_on_models),
            ("fingerprint", found.fingerprint[:16]),
            ("generation", _generation(found)),
            ("images", f"{found.num_images}: {images}"),
            ("shards", f"{found.num_shards}: {shards}"),
            ("segments", found.num_segments),
            ("vectors", _vectors(found)),
            *_review(review),
            (
                "image x label",
                console.counts({a.replace("_", " "): n for a, n in found.answers.items()}),
            ),
            ("", f"(does the image show the label? unsure: no mask, but {unsure} somewhere)"),
            ("not taken", describe(found.left_out).removeprefix("left out: ")),
            ("frames", _frames(found.num_multi_frame)),
            ("waiting", _waiting(found.waiting)),
            ("speed", _speed(found.bottleneck)),
            ("seconds by stage", console.seconds(stages)),
            ("of the workers", _thread_times(found.seconds)),
            ("limit", found.bottleneck.advice()),
            ("other versions", versions),
            ("orphans", orphans if found.orphans else ""),
            ("links", links if found.links else ""),
        ]
    )
    console.damaged(review.left_out)
    by_label = sorted(found.segments_by_label.items(), key=lambda pair: -pair[1])
    console.table_of_labels("Segments by label", ("label", "segments"), by_label)
    console.table("Errors by code", ("code", "images"), list(found.errors.items()))
    if codes := lasting_codes(found.errors):
        console.line(
            "once mended: the command that made the run, with "
            f"--retry-errors {codes} (docs/troubleshooting.md tells each code)"
        )
    problems = [(problem.code, problem.path, problem.message) for problem in found.problems]
    title = "Failed images (the first few of each code)"
    console.table(title, ("code", "image", "why"), problems)
    slow = [
        (s.path, s.seconds, *s.stages.values(), f"{s.width} x {s.height}" if s.width else "-")
        for s in found.slowest
    ]
    title = "Slowest images (those of one batch share its time)"
    console.table(title, ("image", "seconds", *STAGES, "size"), slow)
    failed = [(shard.shard, shard.attempts, shard.message) for shard in found.failed_shards]
    title = "Shards given up (the same command tries them again)"
    console.table(title, ("shard", "tries", "why"), failed)


def _review(state: "ReviewState") -> Iterator[tuple[str, Any]]:
    """Yield how far a run is reviewed; nothing if nobody has begun."""
    if state.num_outdated:
        outdated = counted(state.num_outdated, "image")
        yield "review", f"changed since their review, which counts no more: {outdated}"
    if not (state.num_reviewed or state.num_partly_reviewed or state.num_imports):
        return
    yield (
        "review",
        f"{counted(state.num_reviewed, 'image')} reviewed ({state.num_rejected_images} rejected "
        f"as a whole, {state.num_empty} found empty), {state.num_partly_reviewed} in part",
    )
    yield (
        "reviewed masks",
        f"{state.num_accepted} accepted, {state.num_changed} changed, {state.num_added} added, "
        f"{state.num_rejected} rejected",
    )
    unknown = state.num_unknown_masks
    yield "", f"{counted(unknown, 'mask')} of other labels" if unknown else ""
    yield "imports", state.num_imports or ""
    yield "", "(`ovseg export` writes the corrected masks; --masks predicted: the model's)"


def export_run(
    run: str, to: str, fields: dict[str, str], sets: Sequence[str], confirmed: "Confirmed"
) -> None:
    """Write a dataset from the finished shards of a run and print where it lies.

    Args:
        run: the run folder.
        to: name of the format; `-` and `_` mean the same.
        fields: options of the format that have flags of their own; empty: its default.
        sets: further options of the format, `key=value` each.
        confirmed: from where the run's images are read.

    Raises:
        UserError: no such format or option, or files that cannot be written.
        BlockedStoreError: the disk is full.
    """
    from pipeline.exporters.shared.loss_report import LOSSES_FILE, summary_of
    from pipeline.run.folder import RunFolder
    from pipeline.storage.failures import is_full
    from schemas import plugins

    set_log_fields(run=run)
    exporter = plugins.load_plugin(_EXPORTERS, to.replace("-", "_"))
    options = load_config(exporter.Options, flags=fields, sets=sets)
    folder = RunFolder.open(run, confirmed)
    try:
        written = exporter.export(folder, options)
    except OSError as error:
        if not is_full(error):
            raise UserError(f"the export did not succeed: {error}") from error
        raise BlockedStoreError(
            f"the export did not succeed: the disk is full, or your share of it ({error}); large "
            f"files are made in {tempfile.gettempdir()} first: set TMPDIR to a folder with more "
            "room"
        ) from error
    target = folder.folder.child(exporter.FOLDER)
    losses = target.read_bytes(LOSSES_FILE).decode(errors="replace")
    console.error_line(f"{summary_of(losses)} in {target.uri}; {LOSSES_FILE} says what it lacks")
    for name in written:
        console.line(f"{folder.folder.uri}/{name}")
    if advice := getattr(exporter, "advice", None):
        console.error_line(advice(folder, options))
