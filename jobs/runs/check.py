"""`ovseg check`: whether a run folder is what its markers say it is."""

from typing import TYPE_CHECKING

from jobs import console
from pipeline.storage.waiting import importing
from schemas.base import counted
from schemas.errors import ExitCode

if TYPE_CHECKING:
    from pipeline.run.inspection.check import CheckReport


def check_folder(run: str, as_json: bool) -> ExitCode:
    """Print what is not as it should be in a run folder, and return the exit code."""
    with importing():
        from pipeline.run.folder import RunFolder
        from pipeline.run.inspection.check import check_run

    report = check_run(RunFolder.open(run))
    if as_json:
        console.print_json(report.model_dump(mode="json"))
    else:
        _show(report)
    return ExitCode.DONE if report.is_clean else ExitCode.FINDINGS


def _show(report: "CheckReport") -> None:
    rows = ", ".join(f"{count:,} {name}" for name, count in report.num_rows.items())
    left = f", {report.num_left:,} not finished yet" if report.num_left else ""
    number = f"generation {report.generation}, " if report.generation > 1 else ""
    console.facts(
        [
            ("run folder", report.run),
            ("images", f"{number}{report.num_images:,}"),
            ("shards", f"{report.num_checked:,} of {report.num_shards:,} checked{left}"),
            ("rows", rows),
            ("exports", ", ".join(report.exports)),
            ("not checked", "; ".join(report.not_checked)),
        ]
    )
    for finding in report.findings:
        console.line("")
        console.line(f"{finding.kind}: {finding.where}")
        console.line(f"    expected: {finding.expected}")
        console.line(f"    found:    {finding.found}")
        console.line(f"    to do:    {finding.advice}")
    console.line("")
    total = sum(report.counts.values())
    hidden = total - len(report.findings)
    more = f" ({hidden:,} of them are not shown: 100 of each kind are)" if hidden else ""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
    console.line(f"{counted(total, 'finding')}: {kinds}{more}" if total else "nothing is wrong")
