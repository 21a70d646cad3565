"""The commands. Each imports what it needs when it runs: `--help` and mistakes answer at once."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from jobs import options as opt
from schemas.errors import ExitCode, OutageError, OvsegError

_NEW_OBJECTS = 50_000
"""Until Python looks for unused cycles."""


@contextmanager
def _printable_usage() -> Iterator[None]:
    """Escape what an error of usage repeats: the shell may have put file names there."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # click's, which typer does not export
            from schemas.untrusted import shown_text

            error.message = shown_text(str(getattr(error, "message", "")))  # type: ignore[attr-defined]
        raise


class _OneLineErrors(TyperGroup):
    """Deliberate errors become lines on stderr and an exit code; bugs keep their traceback."""

    def make_context(self, info_name: str | None, args: list[str], **extra: Any) -> Any:
        with _printable_usage():
            return super().make_context(info_name, opt.log_format_first(args), **extra)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _printable_usage():
                return super().invoke(ctx)
        except OvsegError as error:
            from jobs import console

            console.mistakes(error)
            is_outage = isinstance(error, OutageError)
            raise typer.Exit(ExitCode.OUTAGE if is_outage else ExitCode.USER_ERROR) from error
        except OSError as error:  # of a temporary or cached file, which is not in a run folder
            from jobs import console
            from pipeline.storage.failures import is_full

            if not is_full(error):
                raise
            place = f"cannot write {error.filename}: " if error.filename else ""
            full = "the disk is full, or your share of it: make room"
            console.error_line(f"error: {place}{full}", logging.ERROR)
            raise typer.Exit(ExitCode.OUTAGE) from error


class _WithOptionalValues(TyperCommand):
    """Options that may stand without a value, see `opt.VALUES_UNSAID`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for option, value in opt.VALUES_UNSAID.items():
            for place, arg in enumerate(args):
                follows = args[place + 1 : place + 2]
                if arg == option and (not follows or follows[0].startswith("-")):
                    args = [*args[: place + 1], value, *args[place + 1 :]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="ovseg",
    cls=_OneLineErrors,
    help="Masks and labels for whole image collections, from words alone.",
    epilog="Exit codes: 0 all done; 1 user error; 2 usage; 3 finished, but something is missing; "
    "4 a store, model hub or cluster is away, or a store is full; 5 a submitted job is no longer "
    "followed; 6 `check` found something; 130 interrupted; 143 ended by SIGTERM.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        from jobs import console

        console.line(f"ovseg {version('ovseg')}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log details to stderr.")
    ] = False,
    log_format: opt.LogFormat = "text",
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Set up the log, before any command."""
    from jobs.console import set_up_logging, warn_of_secrets

    set_up_logging(verbose, log_format)
    warn_of_secrets(sys.argv[1:])


@app.command("annotate", cls=_WithOptionalValues)
def annotate_command(  # noqa: PLR0913 - typer's flags are parameters
    config: opt.JobFile = "",
    images: opt.Images = "",
    labels: opt.Labels = "",
    vocabulary: opt.VocabularyFile = "",
    method: opt.Method = "",
    protocol: opt.ProtocolName = "",
    data: opt.DataFolder = "",
    out: opt.OutRun = "",
    sets: opt.JobFields = None,
    limit: opt.Limit = None,
    workers: opt.Workers = None,
    local: opt.Local = False,
    retry_errors: opt.RetryErrors = "",
    dry_run: opt.DryRun = False,
    measure: opt.Measure = None,
    price_per_hour: opt.PricePerHour = "",
    update: opt.Update = False,
    keep_features: opt.KeepFeatures = "",
    shards: opt.Shards = None,
    webhook: opt.Webhook = "",
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Annotate a collection; the same command resumes."""
    from jobs.annotate import annotate as command
    from jobs.config import ProtocolFlags, load_config, run_flags, vocabulary_file
    from jobs.runs.estimate import MeasureFlags
    from schemas.config import JobConfig

    if shards == "":  # of a variable that is not set: without the flag the job is another one
        raise typer.BadParameter("--shards: expected TASK/TASKS, such as 3/8, got nothing")
    measured = MeasureFlags.from_flags(measure, price_per_hour, is_dry_run=dry_run)
    flags = {
        "images": images,
        "labels": labels,
        "vocabulary": vocabulary_file(vocabulary) if vocabulary else None,
        "method.name": method,
        "out": out,
        "image.limit": limit,
        "run.workers": workers,
        "run.update": update or None,
        "run.shards": shards,
        "run.keep_features": keep_features,
        "run.webhook": webhook or None,
        **run_flags(local, images_roots, allow_private),
    }
    under = ProtocolFlags(protocol, data)
    job = load_config(JobConfig, config, flags, sets or (), under.fields)
    raise typer.Exit(command(job, dry_run, under.as_typed(), retry_errors, measured))


@app.command("relabel", cls=_WithOptionalValues)
def relabel_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    labels: opt.Labels = "",
    vocabulary: opt.VocabularyFile = "",
    out: opt.OutRun = "",
    sets: opt.JobFields = None,
    workers: opt.Workers = None,
    local: opt.Local = False,
    shards: opt.Shards = None,
    retry_errors: opt.RetryErrors = "",
    dry_run: opt.DryRun = False,
) -> None:
    """Give a run's images other words, without images.

    Scores the features that `annotate --keep-features` has stored; words, thresholds and masks may
    change. The same command resumes.
    """
    from jobs.config import run_flags, vocabulary_file
    from jobs.runs.relabel import relabel

    flags = {
        "labels": labels,
        "vocabulary": vocabulary_file(vocabulary) if vocabulary else None,
        "out": out,
        "run.workers": workers,
        "run.shards": shards,
        **run_flags(local, None, allow_private=False),
    }
    raise typer.Exit(relabel(run, flags, sets or (), dry_run, retry_errors))


@app.command("inspect")
def inspect_command(
    run: opt.Run,
    as_json: opt.AsJson = False,
    orphans: opt.Orphans = False,
    clean: opt.Clean = False,
    files: opt.TableFiles = "",
) -> None:
    """Show what a run folder holds.

    Counts, errors by code, the slowest images, and what is left to do.
    """
    from jobs.runs.results import list_files, show_run

    if files:
        if as_json or orphans or clean:
            raise typer.BadParameter("--files lists files and takes no other option")
        list_files(run, files)
        return
    show_run(run, as_json=as_json, orphans=orphans, clean=clean)


@app.command("check")
def check_command(run: opt.Run, as_json: opt.AsJson = False) -> None:
    """Verify a run folder; changes nothing.

    Markers, checksums, rows, references, masks, reviews and exports. Exit code 6: something is
    wrong, and is named.
    """
    from jobs.runs.check import check_folder

    raise typer.Exit(check_folder(run, as_json))


@app.command("export")
def export_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    to: opt.Format = "coco",
    masks: opt.Masks = "",
    segments: opt.Segments = "",
    only: opt.Only = "",
    sets: opt.FormatOptions = None,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Write a run's masks as a dataset for other tools."""
    from jobs.runs.results import export_run
    from pipeline.run.trust.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    fields = {"masks": masks, "segments": segments, "only": only}
    export_run(run, to, fields, sets or (), confirmed)


@app.command("evaluate")
def evaluate_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    truth: opt.Truth = "",
    truth_background: opt.TruthBackground = "",
    labels: opt.TruthLabels = None,
    protocol: opt.ProtocolName = "",
    data: opt.DataFolder = "",
    instances: opt.Instances = False,
    sets: opt.Rules = None,
    as_json: opt.AsJson = False,
) -> None:
    """Compare a run's masks with true ones.

    IoU by label, mIoU and pixel accuracy, against masks of your own (--truth), or under a
    published protocol (--protocol and --data). With --instances average precision, panoptic
    quality and presence of single objects.
    """
    from jobs.config import ProtocolFlags
    from jobs.runs.evaluate import TruthFlags, evaluate_run, evaluate_run_instances

    if bool(truth) == bool(protocol) or bool(protocol) != bool(data):
        raise typer.BadParameter("give either --truth, or --protocol and --data")
    if protocol and labels:
        raise typer.BadParameter("--label goes with --truth: a protocol has its own names")
    if instances and truth_background:
        raise typer.BadParameter("--truth-background is of label images, which hold no instances")
    given = TruthFlags(truth, truth_background, labels or ())
    evaluate = evaluate_run_instances if instances else evaluate_run
    evaluate(run, given, ProtocolFlags(protocol, data), sets or (), as_json)


@app.command("sheet")
def sheet_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    out: opt.Sheet = "",
    limit: opt.SheetLimit = 24,
    truth: opt.Truth = "",
    labels: opt.TruthLabels = None,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Draw images and their masks in one picture."""
    from jobs.runs.evaluate import TruthFlags
    from jobs.runs.sheet import draw_sheet
    from pipeline.run.trust.confirmed import Confirmed

    if labels and not truth:
        raise typer.BadParameter("--label goes with --truth: it renames the truth's labels")
    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    draw_sheet(run, out, limit, TruthFlags(truth, labels=labels or ()), confirmed)


@app.command("delete")
def delete_command(run: opt.WholeRun, yes: opt.Yes = False) -> None:
    """Delete a run folder; images stay.

    Only files that ovseg wrote are deleted, after a question; others are named and kept.
    """
    from jobs.runs.delete import delete_run

    delete_run(run, is_confirmed=yes)


@app.command("review")
def review_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    host: opt.Host = "127.0.0.1",
    port: opt.Port = 8420,
    names: opt.HostNames = None,
    only: opt.Only = "",
    weights: opt.OwnWeights = None,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Go through the masks in a browser.

    The most doubtful come first; other words can be tried. Ctrl-C ends it.
    """
    from jobs.runs.review import review as command
    from pipeline.review.server import Address
    from pipeline.run.trust.confirmed import Confirmed

    address = Address(host, port, tuple(names or ()))
    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    raise typer.Exit(command(run, address, weights or (), only, confirmed))


@app.command("import-review")
def import_review_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    file: opt.ToolFile = "",
    tool: opt.Tool = "",
    labels: opt.ToolLabels = None,
    empty_means: opt.EmptyMeans = "",
    unchanged_means: opt.UnchangedMeans = "",
    prefer: opt.Prefer = "",
    is_list: opt.ListImports = False,
    undo: opt.Undo = "",
    as_json: opt.AsJson = False,
) -> None:
    """Bring corrected masks back from another tool, or undo it."""
    from jobs.runs.review import ImportFlags, import_review_file, show_imports, take_import_back

    if sum(map(bool, (file or tool, is_list, undo))) != 1 or (tool and not file):
        raise typer.BadParameter("expected the FILE that the tool wrote; or --list; or --undo ID")
    if is_list:
        show_imports(run, as_json)
    elif undo:
        take_import_back(run, undo, as_json)
    else:
        flags = ImportFlags(labels or (), empty_means, unchanged_means, prefer)
        import_review_file(run, tool, file, flags, as_json)


@app.command("calibrate")
def calibrate_command(
    run: opt.Run,
    out: opt.CalibrationFile = "",
    sets: opt.Rules = None,
    as_json: opt.AsJson = False,
) -> None:
    """Learn scores and thresholds from reviewed masks."""
    from jobs.runs.review import calibrate_run as command

    command(run, out, sets or (), as_json)


@app.command("compare")
def compare_command(run: opt.Run, other: opt.OtherRun, as_json: opt.AsJson = False) -> None:
    """Compare two runs of one collection.

    Agreement by label, and the images where it is lowest.
    """
    from jobs.runs.review import compare_runs as command

    command(run, other, as_json)


@app.command("sample")
def sample_command(
    run: opt.Run,
    by: opt.SampleBy = "doubt",
    number: opt.SampleCount = 100,
    seed: opt.Seed = 0,
    out: opt.ListFile = "",
    as_json: opt.AsJson = False,
) -> None:
    """List the images that are worth a look next.

    The most doubtful, equally many of every label, the most diverse, or those unlike all others.
    """
    from jobs.curation.sample import list_sample

    list_sample(run, by, number, seed, out, as_json)


@app.command("duplicates")
def duplicates_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    threshold: opt.Cosine = None,
    pictures: opt.Pictures = True,
    out: opt.ListFile = "",
    as_json: opt.AsJson = False,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """List the near-duplicates among a run's images.

    Copies of another size, quality or cut, and mirrored ones.
    """
    from jobs.curation.duplicates import list_duplicates
    from pipeline.run.trust.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    rules = {"threshold": threshold, "pictures": pictures}
    list_duplicates(run, rules, out, as_json, confirmed)


@app.command("split")
def split_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    val: opt.ValShare = 0.1,
    test: opt.TestShare = 0.0,
    group: opt.Group = "",
    table: opt.GroupTable = "",
    duplicates: opt.DuplicatesApart = True,
    seed: opt.Seed = 0,
    out: opt.SplitLists = "",
    as_json: opt.AsJson = False,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """List a run's images for training, validation and test.

    No near-duplicates and no group across parts; labels as evenly as that allows.
    """
    from jobs.curation.split import SplitFlags, split_run
    from pipeline.run.trust.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    flags = SplitFlags(val, test, group, table, duplicates, seed, out)
    split_run(run, flags, as_json, confirmed)


@app.command("search")
def search_command(  # noqa: PLR0913 - typer's flags are parameters
    run: opt.Run,
    text: opt.SearchText = "",
    image: opt.SearchImage = "",
    number: opt.SearchCount = 20,
    sheet: opt.SearchSheet = "",
    out: opt.ListFile = "",
    weights: opt.OwnWeights = None,
    as_json: opt.AsJson = False,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Search a run's images by words, or by an image.

    By the vectors of the run's own CLIP; no image is read.
    """
    from jobs.curation.search import SearchFlags, search_run
    from pipeline.run.trust.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    flags = SearchFlags(text, image, number, weights or (), out, sheet)
    search_run(run, flags, as_json, confirmed)


@app.command("methods")
def methods_command(as_json: opt.AsJson = False) -> None:
    """List the methods with paper, weights and licence."""
    from jobs.listings import show_methods

    show_methods(as_json)


@app.command("settings")
def settings_command(method: opt.MethodShown = "clip_diy", as_json: opt.JsonSchema = False) -> None:
    """List the fields of a job file with their defaults."""
    from jobs.listings import show_settings

    show_settings(method, as_json)


@app.command("demo")
def demo_command(
    out: opt.DemoFolder = "out/demo", scenes: opt.NumScenes = 24, seed: opt.Seed = 0
) -> None:
    """Draw scenes, annotate them, show the masks.

    With the bundled models; needs no network and no GPU.
    """
    from jobs.demo.demo import demo as command

    raise typer.Exit(command(out, scenes, seed))


@app.command("train-heads")
def train_heads_command(  # noqa: PLR0913 - typer's flags are parameters
    config: opt.TrainingFile = "",
    images: opt.Images = "",
    head: opt.Head = "",
    out: opt.HeadFile = "",
    sets: opt.TrainingFields = None,
    steps: opt.Steps = None,
    batch: opt.Batch = None,
    local: opt.Local = False,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Train a head on images without labels.

    The same command resumes where it stopped.
    """
    from jobs.config import load_config, run_flags
    from jobs.training.train_heads import train_heads as command
    from schemas.config import HeadConfig

    flags = {
        "images": images,
        "head.name": head,
        "out": out,
        "head.options.steps": steps,
        "head.options.batch": batch,
        **run_flags(local, images_roots, allow_private),
    }
    raise typer.Exit(command(load_config(HeadConfig, config, flags, sets or ())))


@app.command("train-student")
def train_student_command(  # noqa: PLR0913 - typer's flags are parameters
    teacher: opt.Teacher = "",
    config: opt.StudentTrainingFile = "",
    student: opt.Student = "",
    out: opt.OutStudent = "",
    masks: opt.LearnedMasks = "",
    truth: opt.LearnedTruth = "",
    only: opt.Only = "",
    protocol: opt.TrainingProtocol = "",
    data: opt.DataFolder = "",
    sets: opt.TrainingFields = None,
    steps: opt.Steps = None,
    batch: opt.Batch = None,
    workers: opt.TrainingWorkers = None,
    local: opt.Local = False,
    images_roots: opt.ImagesRoots = None,
    allow_private: opt.AllowPrivate = False,
) -> None:
    """Train a fast network of your own on a run's masks.

    The same command resumes where it stopped.
    """
    from jobs.config import load_config, run_flags
    from jobs.training.train_student import run_training as command
    from schemas.config import StudentConfig

    flags = {
        "teacher": teacher,
        "protocol": protocol,
        "data": data,
        "out": out,
        "student.name": student,
        "student.options.steps": steps,
        "student.options.batch": batch,
        "masks": masks,
        "truth": truth,
        "only": only,
        "run.workers": workers,
        **run_flags(local, images_roots, allow_private),
    }
    raise typer.Exit(command(load_config(StudentConfig, config, flags, sets or ())))


@app.command("export-student")
def export_student_command(
    student: opt.StudentFile,
    to: opt.StudentFormat = "onnx",
    out: opt.OutModel = "",
    as_json: opt.AsJson = False,
) -> None:
    """Write a trained student for other programs."""
    from jobs.training.export_student import export_student

    export_student(student, to, out, as_json)


@app.command("submit")
def submit_command(  # noqa: PLR0913 - typer's flags are parameters
    config: opt.SubmittedFile,
    address: opt.Address,
    method: opt.Method = "",
    protocol: opt.ProtocolName = "",
    data: opt.DataFolder = "",
    sets: opt.JobFields = None,
    update: opt.Update = False,
    ship: opt.Ship = False,
) -> None:
    """Run a job file on a Ray cluster.

    Follows its log and returns its exit code.
    """
    from jobs.cluster.submit import submit as command
    from jobs.config import ProtocolFlags, load_config
    from schemas.config import JobConfig

    under = ProtocolFlags(protocol, data)
    flags = {"method.name": method, "run.update": update or None}
    job = load_config(JobConfig, config, flags, sets or (), under.fields)
    raise typer.Exit(command(job, address, ship=ship))


@app.command("status")
def status_command(
    address: opt.Address, job_id: opt.AnyJobId = "", as_json: opt.AsJson = False
) -> None:
    """List the jobs of `submit` on a Ray cluster, or show one."""
    from jobs.cluster.status import show_status

    show_status(address, job_id, as_json=as_json)


@app.command("logs")
def logs_command(job_id: opt.JobId, address: opt.Address, follow: opt.Followed = False) -> None:
    """Print the log of a job on a Ray cluster."""
    from jobs.cluster.logs import show_log

    raise typer.Exit(show_log(address, job_id, is_followed=follow))


@app.command("stop")
def stop_command(job_id: opt.JobId, address: opt.Address) -> None:
    """End a job on a Ray cluster.

    Waits until its running shards are handed in; the same `submit` goes on.
    """
    from jobs.cluster.stop import stop_job

    stop_job(address, job_id)


def main() -> None:
    """Entry point of the `ovseg` script."""
    # By default a fifth of the time of all imports goes into looking for unused cycles.
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    try:
        app()
    except Exception as error:  # noqa: BLE001 - a bug: the whole traceback is shown
        from jobs import console

        console.bug(error)
        sys.exit(ExitCode.USER_ERROR)
