"""Whether a run folder is what its markers say it is; reads everything once and changes nothing.

Memory grows with the manifest, as that of every reader, but not with the tables: they are read
shard by shard, the next ones while this one is checked.
"""

from typing import Any

from pydantic import NonNegativeInt, ValidationError

from pipeline.annotate.prefetch import map_ahead
from pipeline.run import markers
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.findings import Finding, FindingKind, Findings
from pipeline.run.inspection.layer_check import check_exports, check_review
from pipeline.run.inspection.shard_check import ReadShard, ShardCheck, read_shard
from pipeline.storage.local import FileTooLargeError, NotAFileError
from schemas.base import Frozen, problems
from schemas.errors import RunFolderError
from schemas.records import ShardFailed, TableName

_AHEAD = 4
"""Shards that are read while one is checked."""
_OF_TABLES: tuple[FindingKind, ...] = ("images", "marker", "file", "row", "reference")
"""Kinds after which reviews and exports are compared with nothing."""


class CheckReport(Frozen):
    """What `ovseg check` has found in a run folder."""

    run: str
    fingerprint: str
    counts: dict[FindingKind, int]
    """Findings by kind."""
    findings: tuple[Finding, ...]
    """The first 100 of each kind."""
    not_checked: tuple[str, ...]
    """What was not looked at, with the reason."""
    generation: NonNegativeInt = 0
    """Of the images, from 1; 0: it cannot be read, and so are the numbers below."""
    num_images: NonNegativeInt = 0
    """In the collection."""
    num_shards: NonNegativeInt = 0
    num_checked: NonNegativeInt = 0
    """Shards that have a done marker."""
    num_left: NonNegativeInt = 0
    """Shards that are not finished, which is no fault."""
    num_rows: dict[TableName, int] = {}
    """Rows that were checked, by table."""
    exports: tuple[str, ...] = ()
    """Those that were looked at."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts


def check_run(run: RunFolder) -> CheckReport:
    """Check a run folder: markers, files, rows, references, masks, reviews, exports.

    Raises:
        OutageError: the store is away.
        UserError: files that may not be read.
    """
    findings = Findings()
    numbers, not_checked = _check_all(run, findings)
    return CheckReport(
        run=run.folder.uri,
        fingerprint=run.fingerprint,
        counts=findings.in_order(),
        findings=tuple(findings.named),
        not_checked=tuple(not_checked),
        **numbers,
    )


def _check_all(run: RunFolder, findings: Findings) -> tuple[dict[str, Any], list[str]]:
    """Return the numbers of the report, and what was not checked."""
    try:
        num_images, generations = run.manifest().num_rows, run.generations
    except RunFolderError as error:
        advice = "put the file back from a copy, or begin another run"
        findings.add("images", run.folder.uri, "the images that run.yaml names", error, advice)
        return {}, ["shards, reviews and exports: the list of images comes first"]
    marked = markers.marked_shards(run.folder, "done")
    has_later = generations.has_later()
    ours = [shard for shard in marked if shard < run.num_shards]
    for shard in () if has_later else marked[len(ours) :]:
        where = markers.marker_path("done", shard)
        expected = f"shards below {run.num_shards}, as the run has them"
        findings.add("marker", where, expected, f"shard {shard}", f"delete {where}")
    shards = ShardCheck(run, findings)
    read = map_ahead(lambda shard: read_shard(run, shard), ours, threads=_AHEAD, depth=_AHEAD)
    found = [_checked(shards, *pair) for pair in zip(ours, read, strict=True)]
    _check_failed(run, findings)
    numbers = {
        "generation": generations.number,
        "num_images": num_images,
        "num_shards": run.num_shards,
        "num_checked": sum(found),
        "num_left": len(run.shards_left(set(ours))),
        "num_rows": dict(shards.num_rows),
    }
    if has_later:
        return numbers, ["reviews and exports: they are of the newest generation (no @ behind RUN)"]
    is_whole = not any(findings.counts[kind] for kind in _OF_TABLES)
    check_review(run, findings, is_whole=is_whole)
    if not is_whole:
        return numbers, ["exports: the tables that they are compared with come first"]
    return {**numbers, "exports": tuple(check_exports(run, findings))}, []


def _checked(shards: ShardCheck, shard: int, read: ReadShard) -> bool:
    """Check a shard; return whether it had a marker."""
    shards.check(shard, read)
    return read.marker is not None or bool(read.why_none)


def _check_failed(run: RunFolder, findings: Findings) -> None:
    """Check the notes of shards that were given up."""
    for shard in markers.marked_shards(run.folder, "failed"):
        where = markers.marker_path("failed", shard)
        try:
            _ = markers.checked_marker(run.folder, "failed", shard, ShardFailed)
        except FileNotFoundError:
            continue  # finished meanwhile
        except (ValidationError, NotAFileError, FileTooLargeError) as error:
            is_torn = isinstance(error, ValidationError)
            found = problems(error)[0] if is_torn else str(error)
            findings.add("marker", where, "why a shard was given up", found, f"delete {where}")
