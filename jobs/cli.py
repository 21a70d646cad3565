"""The commands. Each imports what it needs when it runs: `--help` and mistakes answer at once."""

import gc
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from schemas.errors import ExitCode, OutageError, OvsegError

_EXPORTERS = Path(__file__).parents[1] / "pipeline" / "exporters"
_EXPORT_FORMATS = ", ".join(
    sorted(module.name for module in pkgutil.iter_modules([str(_EXPORTERS)]) if not module.ispkg)
)

_NEW_OBJECTS = 50_000
"""Until Python looks for unused cycles."""

# Arguments and options that several commands take.
Run = Annotated[str, typer.Argument(help="Run folder: a path or any fsspec URL.", metavar="RUN")]
Images = Annotated[str, typer.Option("--images", help="Folder, glob, bucket prefix or list file.")]
ImagesRoots = Annotated[
    list[str] | None,
    typer.Option(
        "--images-root",
        metavar="FOLDER_OR_URL",
        help="Read images from below here, for a run that another machine began; remembered; "
        "repeatable.",
    ),
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private-addresses",
        help="Call loopback, link-local and private addresses that a list, a run or a redirect "
        "names.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Default: as published.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Images per step; default: as published.")]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="Data set as published: voc21, ade20k, ... or a .yaml file."),
]
DataFolder = Annotated[str, typer.Option("--data", help="The data set's folder, with --protocol.")]


def _set(what: str) -> typer.models.OptionInfo:
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{what}; repeatable.")


JobFields = Annotated[list[str] | None, _set("Override any field that `ovseg settings` lists")]
TrainingFields = Annotated[list[str] | None, _set("Override any field of the training file")]
FormatOptions = Annotated[
    list[str] | None, _set("An option of the format, see docs/exports.md; a wrong key lists them")
]
Rules = Annotated[list[str] | None, _set("A rule of the computation; a wrong key lists them")]


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

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _printable_usage():
            return super().make_context(*args, **extra)

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
            console.error_line(f"error: {place}{full}")
            raise typer.Exit(ExitCode.OUTAGE) from error


class _WithOptionalCodes(TyperCommand):
    """`--retry-errors` may stand without a value, for all codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, arg in enumerate(args):
            follows = args[place + 1 : place + 2]
            if arg == "--retry-errors" and (not follows or follows[0].startswith("-")):
                from jobs.annotate import RETRY_ALL

                args = [*args[: place + 1], RETRY_ALL, *args[place + 1 :]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="ovseg",
    cls=_OneLineErrors,
    help="Masks and labels for whole image collections, from words alone.",
    epilog="Exit codes: 0 all done; 1 user error; 2 usage; 3 finished, but something is missing; "
    "4 a store or cluster is away or full; 5 a submitted job is no longer followed; "
    "130 interrupted; 143 ended by SIGTERM.",
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
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Set up the log, before any command."""
    from jobs.console import set_up_logging, warn_of_secrets

    set_up_logging(verbose)
    warn_of_secrets(sys.argv[1:])


@app.command("annotate", cls=_WithOptionalCodes)
def annotate_command(  # noqa: PLR0913 - typer's flags are parameters
    config: Annotated[
        str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
    ] = "",
    images: Images = "",
    labels: Annotated[str, typer.Option(help='Words to look for: "cat,dog,sofa".')] = "",
    vocabulary: Annotated[
        str, typer.Option(help="File of words: .txt, one per line; .yaml, .json with synonyms.")
    ] = "",
    protocol: ProtocolName = "",
    data: DataFolder = "",
    out: Annotated[str, typer.Option(help="Run folder: a path or any fsspec URL.")] = "",
    sets: JobFields = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Only the first N images; 0 (default): all.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="At most N workers; 0 (default): as resources allow.")
    ] = None,
    local: Local = False,
    retry_errors: Annotated[
        str,
        typer.Option(
            "--retry-errors",
            metavar="[CODES]",
            help="Try failed images again, all or those of these codes (with commas between); "
            "images that a store or mount did not give are tried again anyway.",
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")
    ] = False,
    images_roots: ImagesRoots = None,
    allow_private: AllowPrivate = False,
) -> None:
    """Annotate a collection; the same command resumes."""
    from jobs.annotate import annotate as command
    from jobs.config import ProtocolFlags, load_config, run_flags, vocabulary_file
    from schemas.config import JobConfig

    flags = {
        "images": images,
        "labels": labels,
        "vocabulary": vocabulary_file(vocabulary) if vocabulary else None,
        "out": out,
        "image.limit": limit,
        "run.workers": workers,
        **run_flags(local, images_roots, allow_private),
    }
    under = ProtocolFlags(protocol, data)
    job = load_config(JobConfig, config, flags, sets or (), under.fields)
    raise typer.Exit(command(job, dry_run, under.as_typed(), retry_errors))


@app.command("inspect")
def inspect_command(
    run: Run,
    as_json: AsJson = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="List files that no done marker names.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Delete those files; not while the run goes on.")
    ] = False,
) -> None:
    """Show what a run folder holds.

    Counts, errors by code, the slowest images, and what is left to do.
    """
    from jobs.results import show_run

    show_run(run, as_json=as_json, orphans=orphans, clean=clean)


@app.command("export")
def export_command(  # noqa: PLR0913 - typer's flags are parameters
    run: Run,
    to: Annotated[str, typer.Option(help=f"Format: {_EXPORT_FORMATS}.")] = "coco",
    masks: Annotated[
        str,
        typer.Option(
            help="predicted, reviewed (only what people decided) or merged (theirs over the "
            "predicted); default: merged once a review exists, else predicted."
        ),
    ] = "",
    segments: Annotated[
        str,
        typer.Option(help="class, or components (connected regions); default: as in the run."),
    ] = "",
    sets: FormatOptions = None,
    images_roots: ImagesRoots = None,
    allow_private: AllowPrivate = False,
) -> None:
    """Write a run's masks as a dataset for other tools."""
    from jobs.results import export_run
    from pipeline.run.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    export_run(run, to, masks, segments, sets or (), confirmed)


@app.command("evaluate")
def evaluate_command(  # noqa: PLR0913 - typer's flags are parameters
    run: Run,
    truth: Annotated[
        str,
        typer.Option(help="True masks: instances.json, a folder of label images, or `reviewed`."),
    ] = "",
    truth_background: Annotated[
        str,
        typer.Option(
            help="Values of label images: 0 (0 is background, labels count from 1), 255 (labels "
            "count from 0, 255 is background) or none (255 is not counted); default: as "
            "classes.json says, else 0."
        ),
    ] = "",
    protocol: ProtocolName = "",
    data: DataFolder = "",
    sets: Rules = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run's masks with true ones.

    IoU by label, mIoU and pixel accuracy, against masks of your own (--truth), or under a
    published protocol (--protocol and --data).
    """
    from jobs.config import ProtocolFlags
    from jobs.evaluate import TruthFlags, evaluate_run

    if bool(truth) == bool(protocol) or bool(protocol) != bool(data):
        raise typer.BadParameter("give either --truth, or --protocol and --data")
    given = TruthFlags(truth, truth_background)
    evaluate_run(run, given, ProtocolFlags(protocol, data), sets or (), as_json)


@app.command("review")
def review_command(  # noqa: PLR0913 - typer's flags are parameters
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback, the URL has a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8420,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="A further host name that browsers may use; repeatable."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help='Weights that the run names and this machine has not used: "Try words" may load '
            "them; repeatable.",
        ),
    ] = None,
    images_roots: ImagesRoots = None,
    allow_private: AllowPrivate = False,
) -> None:
    """Go through the masks in a browser.

    The most doubtful come first; other words can be tried. Ctrl-C ends it.
    """
    from jobs.review import review as command
    from pipeline.run.confirmed import Confirmed

    confirmed = Confirmed.from_flags(images_roots or (), allow_private=allow_private)
    raise typer.Exit(command(run, host, port, names or (), weights or (), confirmed))


@app.command("import-review")
def import_review_command(  # noqa: PLR0913 - typer's flags are parameters
    run: Run,
    file: Annotated[
        str, typer.Argument(help="The tool's export: a path or URL.", metavar="[FILE]")
    ] = "",
    tool: Annotated[str, typer.Option("--from", help="label-studio, coco or cvat.")] = "",
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", help="A label of the tool and the run's: THEIRS=OURS; repeatable."),
    ] = None,
    empty_means: Annotated[
        str,
        typer.Option(help="An image without an entry: unannotated (default) or reviewed."),
    ] = "",
    unchanged_means: Annotated[
        str,
        typer.Option(help="A file that equals the predictions: predictions (default) or reviewed."),
    ] = "",
    prefer: Annotated[
        str,
        typer.Option(
            help="Where the review page says otherwise: newer (default; the page's, if the file "
            "has no times), file or page."
        ),
    ] = "",
    is_list: Annotated[bool, typer.Option("--list", help="List the imports of the run.")] = False,
    undo: Annotated[str, typer.Option(help="Take the import with this id back.")] = "",
    as_json: AsJson = False,
) -> None:
    """Bring corrected masks back from another tool, or undo it."""
    from jobs.review import ImportFlags, import_review_file, show_imports, take_import_back

    if sum(map(bool, (file or tool, is_list, undo))) != 1 or bool(file) != bool(tool):
        raise typer.BadParameter("expected FILE and --from TOOL, or --list, or --undo ID")
    if is_list:
        show_imports(run, as_json)
    elif undo:
        take_import_back(run, undo, as_json)
    else:
        flags = ImportFlags(labels or (), empty_means, unchanged_means, prefer)
        import_review_file(run, tool, file, flags, as_json)


@app.command("calibrate")
def calibrate_command(
    run: Run,
    out: Annotated[str, typer.Option(help="The file; default: in the run folder.")] = "",
    sets: Rules = None,
    as_json: AsJson = False,
) -> None:
    """Learn scores and thresholds from reviewed masks."""
    from jobs.review import calibrate_run as command

    command(run, out, sets or (), as_json)


@app.command("compare")
def compare_command(
    run: Run,
    other: Annotated[str, typer.Argument(help="Run of another method.", metavar="OTHER_RUN")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs of one collection.

    Agreement by label, and the images where it is lowest.
    """
    from jobs.review import compare_runs as command

    command(run, other, as_json)


@app.command("methods")
def methods_command(as_json: AsJson = False) -> None:
    """List the methods with paper, weights and licence."""
    from jobs.listings import show_methods

    show_methods(as_json)


@app.command("settings")
def settings_command(
    method: Annotated[str, typer.Option(help="Show this method's options as well.")] = "clip_diy",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON schema of a job file, for editors.")
    ] = False,
) -> None:
    """List the fields of a job file with their defaults."""
    from jobs.listings import show_settings

    show_settings(method, as_json)


@app.command("demo")
def demo_command(
    out: Annotated[
        str, typer.Option(help="Folder of the demo; an earlier demo in it is replaced.")
    ] = "out/demo",
    scenes: Annotated[int, typer.Option(min=2, max=1000, help="Number of scenes.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other scenes.")] = 0,
) -> None:
    """Draw scenes, annotate them, show the masks.

    With the bundled models; needs no network and no GPU.
    """
    from jobs.demo.demo import demo as command

    raise typer.Exit(command(out, scenes, seed))


@app.command("train-heads")
def train_heads_command(  # noqa: PLR0913 - typer's flags are parameters
    config: Annotated[
        str, typer.Argument(help="Training file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
    ] = "",
    images: Images = "",
    head: Annotated[
        str, typer.Option("--head", "--heads", help="What to train: found or dinoiser.")
    ] = "",
    out: Annotated[str, typer.Option(help="The head's file, .safetensors: a path or URL.")] = "",
    sets: TrainingFields = None,
    steps: Steps = None,
    batch: Batch = None,
    local: Local = False,
    images_roots: ImagesRoots = None,
    allow_private: AllowPrivate = False,
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
    teacher: Annotated[
        str,
        typer.Argument(
            help="Run folder whose images and masks are learned: a path or any fsspec URL; or a "
            "job file (.yaml), whose run is made first. Without one: --protocol and --data, or "
            "`teacher` in the file.",
            metavar="[RUN]",
        ),
    ] = "",
    config: Annotated[
        str, typer.Option("--config", metavar="CONFIG.yaml", help="Training file: a path or URL.")
    ] = "",
    student: Annotated[
        str, typer.Option(help="What to train: maskclip_plus (default) or text_fusion.")
    ] = "",
    out: Annotated[str, typer.Option(help="The student's folder: a path or any fsspec URL.")] = "",
    masks: Annotated[
        str,
        typer.Option(
            help="predicted, reviewed (only what people decided) or merged; default: merged once "
            "a review exists, else predicted."
        ),
    ] = "",
    truth: Annotated[
        str,
        typer.Option(
            help="instances.json or a folder of label images, learned in place of the masks."
        ),
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(help="Data set with a training split: camvid, cityscapes or a .yaml file."),
    ] = "",
    data: DataFolder = "",
    sets: TrainingFields = None,
    steps: Steps = None,
    batch: Batch = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Workers that share a batch; 0: as many as fit.")
    ] = None,
    local: Local = False,
    images_roots: ImagesRoots = None,
    allow_private: AllowPrivate = False,
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
        "run.workers": workers,
        **run_flags(local, images_roots, allow_private),
    }
    raise typer.Exit(command(load_config(StudentConfig, config, flags, sets or ())))


@app.command("export-student")
def export_student_command(
    student: Annotated[
        str,
        typer.Argument(
            help="Folder of a student, or its .safetensors: a path or any fsspec URL.",
            metavar="STUDENT",
        ),
    ],
    to: Annotated[str, typer.Option(help="Format: onnx (needs the extra `onnx`).")] = "onnx",
    out: Annotated[str, typer.Option(help="The file; default: beside the student's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Write a trained student for other programs."""
    from jobs.training.export_student import export_student

    export_student(student, to, out, as_json)


@app.command("submit")
def submit_command(
    config: Annotated[
        str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="CONFIG.yaml")
    ],
    address: Annotated[str, typer.Option(help="Ray's job server, http://HEAD:8265.")],
    protocol: ProtocolName = "",
    data: DataFolder = "",
    sets: JobFields = None,
) -> None:
    """Run a job file on a Ray cluster.

    Follows its log and returns its exit code.
    """
    from jobs.config import ProtocolFlags, load_config
    from jobs.submit import submit as command
    from schemas.config import JobConfig

    under = ProtocolFlags(protocol, data)
    job = load_config(JobConfig, config, sets=sets or (), below=under.fields)
    raise typer.Exit(command(job, address))


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
