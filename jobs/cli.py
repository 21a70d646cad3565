"""The commands. Each imports what it needs when it runs: `--help` and mistakes answer at once."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from jobs import cli_review
from jobs.flags import (
    AsJson,
    Config,
    Data,
    FormatOptions,
    Images,
    JobFields,
    Local,
    ProtocolName,
    Rules,
    Run,
    TrainingFields,
    formats,
)
from schemas.errors import ExitCode, OvsegError


class _OneLineErrors(TyperGroup):
    """Deliberate errors become lines on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OvsegError as error:
            from schemas.redact import redact

            for line in str(error).splitlines():
                print(f"error: {redact(line)}", file=sys.stderr)
            raise typer.Exit(ExitCode.USER_ERROR) from error


app = typer.Typer(
    name="ovseg",
    cls=_OneLineErrors,
    help="Masks and labels for whole image collections, from words alone.",
    epilog="Exit codes: 0 all done; 1 user error; 2 usage; 3 finished, but something is missing; "
    "130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"ovseg {version('ovseg')}")
        raise typer.Exit


@app.callback()
def root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Set up the log, before any command."""
    from jobs.log import set_up

    set_up(verbose)


@app.command()
def annotate(  # noqa: PLR0913 - typer's flags are parameters
    config: Annotated[
        str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
    ] = "",
    images: Images = "",
    labels: Annotated[str, typer.Option(help='Words to look for: "cat,dog,sofa".')] = "",
    vocabulary: Annotated[
        str, typer.Option(help="File of words: .txt one a line; .yaml, .json with synonyms.")
    ] = "",
    protocol: ProtocolName = "",
    data: Data = "",
    out: Annotated[str, typer.Option(help="Run folder: a path or any fsspec URL.")] = "",
    overrides: JobFields = None,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Only the first so many images; 0 (default): all.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="At most so many workers; 0 (default): as resources allow."),
    ] = None,
    local: Local = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")
    ] = False,
) -> None:
    """Annotate a collection; type it again to go on."""
    from jobs.annotate import annotate as command
    from jobs.settings import Flags, ProtocolFlags, job_config

    flags = Flags(images, labels, vocabulary, out, limit, workers, local)
    under = ProtocolFlags(protocol, data)
    job = job_config(config, flags.values(), overrides or [], under)
    raise typer.Exit(command(job, dry_run, under.again()))


@app.command("inspect")
def inspect_run(
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


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help=f"Format: {formats()}.")] = "coco",
    segments: Annotated[
        str,
        typer.Option(help="class, or components (connected regions); default: as in the run."),
    ] = "",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="COCO polygons in place of run lengths.")
    ] = False,
    flatten_names: Annotated[
        bool, typer.Option("--flatten-names", help="COCO names without folders: a__b.jpg.")
    ] = False,
    overrides: FormatOptions = None,
) -> None:
    """Write a run's masks as a dataset for other tools."""
    from jobs.results import export_run

    flags = {"polygons": polygons, "flatten_names": flatten_names}
    given = [f"segments={segments}"] if segments else []
    given += [f"{name}=true" for name, wanted in flags.items() if wanted]
    export_run(run, to, [*given, *(overrides or [])])


@app.command()
def evaluate(
    run: Run,
    truth: Annotated[
        str,
        typer.Option(help="True masks: instances.json, a folder of label images, or `reviewed`."),
    ] = "",
    protocol: ProtocolName = "",
    data: Data = "",
    overrides: Rules = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run's masks with true ones.

    IoU by label, mIoU and pixel accuracy, against masks of your own (--truth), or under a
    published protocol (--protocol and --data).
    """
    from jobs.evaluate import Asked, evaluate_run

    if bool(truth) == bool(protocol) or bool(protocol) != bool(data):
        raise typer.BadParameter("give either --truth, or --protocol and --data")
    evaluate_run(run, Asked(truth, protocol, data), overrides or [], as_json)


for _name, _command in cli_review.COMMANDS.items():
    app.command(_name)(_command)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """List the methods with paper, weights and licence."""
    from jobs.methods import show_methods

    show_methods(as_json)


@app.command()
def settings(
    method: Annotated[str, typer.Option(help="Show this method's options as well.")] = "clip_diy",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the JSON schema of a job file, for editors.")
    ] = False,
) -> None:
    """List the fields of a job file with their defaults."""
    from jobs.fields import show_settings

    show_settings(method, as_json)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder of the demo; made anew each time.")] = "out/demo",
    scenes: Annotated[int, typer.Option(min=2, max=1000, help="How many scenes to draw.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Another one draws other scenes.")] = 0,
) -> None:
    """Draw scenes, annotate them, show the masks.

    With the bundled models; needs no network and no GPU.
    """
    from jobs.demo.demo import demo as command

    raise typer.Exit(command(out, scenes, seed))


@app.command("train-heads")
def train_heads(  # noqa: PLR0913 - typer's flags are parameters
    config: Annotated[
        str, typer.Argument(help="Training file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
    ] = "",
    images: Images = "",
    head: Annotated[
        str, typer.Option("--head", "--heads", help="What to train: found or dinoiser.")
    ] = "",
    out: Annotated[str, typer.Option(help="The head's file, .safetensors: a path or URL.")] = "",
    overrides: TrainingFields = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: as published.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images of a step; default: as published.")
    ] = None,
    local: Local = False,
) -> None:
    """Train a head on images without labels.

    Type it again to go on where it stopped.
    """
    from jobs.train_heads import Flags, heads_config
    from jobs.train_heads import train_heads as command

    flags = Flags(images, head, out, steps, batch, local)
    raise typer.Exit(command(heads_config(config, flags, overrides or [])))


@app.command()
def submit(
    config: Config,
    address: Annotated[str, typer.Option(help="Ray's job server, http://HEAD:8265.")],
    protocol: ProtocolName = "",
    data: Data = "",
    overrides: JobFields = None,
) -> None:
    """Run a job file on a Ray cluster.

    Follows its log and returns its exit code.
    """
    from jobs.settings import ProtocolFlags, job_config
    from jobs.submit import submit as command

    under = ProtocolFlags(protocol, data)
    raise typer.Exit(command(job_config(config, {}, overrides or [], under), address))


def main() -> None:
    """Entry point of the `ovseg` script."""
    app()
