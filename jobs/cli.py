"""The commands. Each imports what it needs when it runs: `--help` and mistakes answer at once."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from schemas.errors import OvsegError

EXIT_USER_ERROR = 1
EXIT_INCOMPLETE = 3


class _OneLineErrors(TyperGroup):
    """Deliberate errors become lines on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OvsegError as error:
            from jobs.log import redact

            for line in str(error).splitlines():
                print(f"error: {redact(line)}", file=sys.stderr)
            raise typer.Exit(EXIT_USER_ERROR) from error


app = typer.Typer(
    name="ovseg",
    cls=_OneLineErrors,
    help="Masks and labels for whole image collections, from words alone.",
    epilog="Exit codes: 0 all done; 1 your error; 2 usage; 3 finished, but something is missing; "
    "130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any field; repeatable."),
]
Run = Annotated[str, typer.Argument(help="Run folder: a path or any fsspec URL.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="Data set as published: voc21, ade20k, ... or a .yaml file."),
]
Data = Annotated[str, typer.Option("--data", help="The data set's folder, with --protocol.")]
Config = Annotated[
    str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="CONFIG.yaml")
]


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
    images: Annotated[str, typer.Option(help="Folder, glob, bucket prefix or list file.")] = "",
    labels: Annotated[str, typer.Option(help='Words to look for: "cat,dog,sofa".')] = "",
    vocabulary: Annotated[
        str, typer.Option(help="File of words (.txt one a line; .yaml, .json: with synonyms …).")
    ] = "",
    protocol: ProtocolName = "",
    data: Data = "",
    out: Annotated[str, typer.Option(help="Run folder: a path or any fsspec URL.")] = "",
    overrides: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Only the first so many images.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="At most so many workers.")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan; run and write nothing.")
    ] = False,
) -> None:
    """Annotate a collection; run it again to go on where it stopped."""
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
    """Show what is in a run folder: counts, errors by code, slowest images, what is left."""
    from jobs.results import show_run

    show_run(run, as_json=as_json, orphans=orphans, clean=clean)


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="Format; a wrong one lists what there is.")] = "coco",
    segments: Annotated[
        str, typer.Option(help="How masks are cut: class, or components (connected regions).")
    ] = "",
    polygons: Annotated[
        bool, typer.Option("--polygons", help="COCO polygons in place of run lengths.")
    ] = False,
    flatten_names: Annotated[
        bool, typer.Option("--flatten-names", help="COCO names without folders: a/b.jpg, a__b.jpg.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write the finished shards of a run as a dataset for other tools."""
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
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare a run's masks with true ones: IoU by label, mIoU, pixel accuracy.

    Against masks of your own (--truth), or under a published protocol (--protocol and --data).
    """
    from jobs.evaluate import Asked, evaluate_run

    if bool(truth) == bool(protocol) or bool(protocol) != bool(data):
        raise typer.BadParameter("give either --truth, or --protocol and --data")
    evaluate_run(run, Asked(truth, protocol, data), overrides or [], as_json)


@app.command()
def review(
    run: Run,
    host: Annotated[str, typer.Option(help="Where to listen; a token elsewhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8420,
    names: Annotated[list[str] | None, typer.Option("--name", help="A further host name.")] = None,
) -> None:
    """Go through the masks in a browser, the most doubtful first; try other words. Ctrl-C ends."""
    from jobs.review import review as command

    command(run, host, port, names or [])


@app.command("import-review")
def import_review(
    run: Run,
    file: Annotated[str, typer.Argument(help="The tool's export.", metavar="FILE")],
    tool: Annotated[str, typer.Option("--from", help="label-studio, coco or cvat.")],
    as_json: AsJson = False,
) -> None:
    """Bring masks corrected in another tool back, beside the predictions."""
    from jobs.reviews import import_review as command

    command(run, tool, file, as_json)


@app.command()
def calibrate(
    run: Run,
    out: Annotated[str, typer.Option(help="The file; default: in the run folder.")] = "",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Learn scores and thresholds by label from the reviewed masks of a run."""
    from jobs.reviews import calibrate as command

    command(run, out, overrides or [], as_json)


@app.command()
def compare(
    run: Run,
    other: Annotated[str, typer.Argument(help="Run of another method.", metavar="OTHER_RUN")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs of a collection: agreement by label, and where it is least."""
    from jobs.reviews import compare as command

    command(run, other, as_json)


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
    """List every field of a job file with its default and meaning."""
    from jobs.fields import show_settings

    show_settings(method, as_json)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder of the demo; made anew each time.")] = "out/demo",
    scenes: Annotated[int, typer.Option(min=2, max=1000, help="How many scenes to draw.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Other scenes.")] = 0,
) -> None:
    """Draw scenes, annotate them with the bundled models, evaluate, show. No network, no GPU."""
    from jobs.demo import demo as command

    raise typer.Exit(command(out, scenes, seed))


@app.command("train-heads")
def train_heads(  # noqa: PLR0913 - typer's flags are parameters
    config: Annotated[
        str, typer.Argument(help="Training file (YAML): a path or URL.", metavar="[CONFIG.yaml]")
    ] = "",
    images: Annotated[str, typer.Option(help="Folder, glob, bucket prefix or list file.")] = "",
    heads: Annotated[str, typer.Option(help="What to train: found or dinoiser.")] = "",
    out: Annotated[str, typer.Option(help="The head's file, .safetensors: a path or URL.")] = "",
    overrides: Overrides = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches; default: published.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of a step.")] = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
) -> None:
    """Train a head on images without labels; run it again to go on where it stopped."""
    from jobs.train_heads import Flags, heads_config
    from jobs.train_heads import train_heads as command

    flags = Flags(images, heads, out, steps, batch, local)
    raise typer.Exit(command(heads_config(config, flags, overrides or [])))


@app.command()
def submit(
    config: Config,
    address: Annotated[str, typer.Option(help="Ray's job server, http://HEAD:8265.")],
    protocol: ProtocolName = "",
    data: Data = "",
    overrides: Overrides = None,
) -> None:
    """Run a job file on a Ray cluster, follow its log, return its exit code."""
    from jobs.settings import ProtocolFlags, job_config
    from jobs.submit import submit as command

    under = ProtocolFlags(protocol, data)
    raise typer.Exit(command(job_config(config, {}, overrides or [], under), address))


def main() -> None:
    """Entry point of the `ovseg` script."""
    app()
