"""The commands that read a finished (or unfinished) run folder."""

import errno
import json
import tempfile
from collections.abc import Sequence
from typing import Any

from jobs import show
from jobs.settings import dotlist
from schemas.config import NamedOptions
from schemas.errors import UserError
from schemas.records import STAGES

_SHOWN_LABELS = 40
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def show_run(run: str, as_json: bool, orphans: bool, clean: bool) -> None:
    """Print what is in a run folder; list or delete its orphans if asked."""
    from pipeline.run.folder import RunFolder
    from pipeline.run.inspect import inspect_run

    folder = RunFolder.open(run)
    found = inspect_run(folder)
    cleaned = folder.clean() if clean else ()
    if as_json:
        value = found.model_dump(mode="json")
        print(json.dumps({**value, "cleaned": list(cleaned)}, indent=2, ensure_ascii=False))
        return
    show_inspection(found)
    if orphans:
        for name in found.orphans:
            show.line(name)
    if clean:
        show.line(f"\n{len(cleaned)} orphans deleted")


def show_inspection(found: Any) -> None:
    """Print an inspection as tables."""
    show.facts(
        [
            ("run folder", found.run),
            ("method", found.method),
            ("fingerprint", found.fingerprint[:16]),
            (
                "images",
                f"{found.num_images}: {found.num_ok} ok, {found.num_errors} failed, "
                f"{found.num_left} left",
            ),
            (
                "shards",
                f"{found.num_shards}: {found.num_shards_done} done, "
                f"{len(found.failed_shards)} given up",
            ),
            ("segments", found.num_segments),
            ("seconds", show.seconds(found.seconds)),
            (
                "orphans",
                f"{len(found.orphans)} files (--orphans lists, --clean deletes)"
                if found.orphans
                else "",
            ),
        ]
    )
    by_label = sorted(found.segments_by_label.items(), key=lambda pair: -pair[1])
    show.table("Segments by label", ("label", "segments"), by_label[:_SHOWN_LABELS])
    if len(by_label) > _SHOWN_LABELS:
        show.line(f"and {len(by_label) - _SHOWN_LABELS} more labels (--json shows all)")
    show.table("Errors by code", ("code", "images"), list(found.errors.items()))
    problems = [(problem.code, problem.path, problem.message) for problem in found.problems]
    show.table("Failed images (the first few of each code)", ("code", "image", "why"), problems)
    slow = [
        (s.path, s.seconds, *s.stages.values(), f"{s.width} x {s.height}" if s.width else "-")
        for s in found.slowest
    ]
    columns = ("image", "seconds", *STAGES, "size")
    show.table("Slowest images", columns, slow)
    failed = [(shard.shard, shard.attempts, shard.message) for shard in found.failed_shards]
    show.table("Shards given up (the next run tries them again)", ("shard", "tries", "why"), failed)


def export_run(run: str, to: str, overrides: Sequence[str]) -> None:
    """Write a dataset from the finished shards of a run and say where it lies."""
    from pipeline.run.folder import RunFolder
    from schemas import plugins

    package, to = "pipeline.exporters", to.replace("-", "_")
    part = NamedOptions(name=to, options=dotlist(overrides))
    options = plugins.read_options(package, part, "export")
    folder = RunFolder.open(run)
    try:
        written = plugins.load(package, to).export(folder, options)
    except OSError as error:
        hint = (
            f"; large files are made in {tempfile.gettempdir()} first: set TMPDIR to a folder with "
            "more room"
            if error.errno in _FULL
            else ""
        )
        raise UserError(f"the export did not succeed: {error}{hint}") from error
    for name in written:
        show.line(f"{folder.folder.uri}/{name}")
