"""The commands of a review: the page, masks from other tools, what they teach, other runs.

Each imports what it needs when it runs, like those of `cli`.
"""

from typing import Annotated

import typer

from jobs.flags import AsJson, Rules, Run


def review(
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond the loopback the URL holds a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8420,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="A further host name that browsers may use; repeatable."),
    ] = None,
) -> None:
    """Go through the masks in a browser.

    The most doubtful come first; other words can be tried. Ctrl-C ends it.
    """
    from jobs.review import review as command

    command(run, host, port, names or [])


def import_review(
    run: Run,
    file: Annotated[str, typer.Argument(help="The tool's export: a path or URL.", metavar="FILE")],
    tool: Annotated[str, typer.Option("--from", help="label-studio, coco or cvat.")],
    as_json: AsJson = False,
) -> None:
    """Bring corrected masks back from another tool."""
    from jobs.reviews import import_review as command

    command(run, tool, file, as_json)


def calibrate(
    run: Run,
    out: Annotated[str, typer.Option(help="The file; default: in the run folder.")] = "",
    overrides: Rules = None,
    as_json: AsJson = False,
) -> None:
    """Learn scores and thresholds from reviewed masks."""
    from jobs.reviews import calibrate as command

    command(run, out, overrides or [], as_json)


def compare(
    run: Run,
    other: Annotated[str, typer.Argument(help="Run of another method.", metavar="OTHER_RUN")],
    as_json: AsJson = False,
) -> None:
    """Compare two runs of one collection.

    Agreement by label, and the images where it is least.
    """
    from jobs.reviews import compare as command

    command(run, other, as_json)


COMMANDS = {
    "review": review,
    "import-review": import_review,
    "calibrate": calibrate,
    "compare": compare,
}
"""By the name that is typed."""
