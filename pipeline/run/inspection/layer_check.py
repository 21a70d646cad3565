"""What lies over the tables of a run: people's decisions and imports, and the exports.

An export is compared with what its own options would write now: of COCO every entry, of the other
formats what `LOSSES.txt` records of the run and its review.
"""

import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute
from pydantic import ValidationError

from pipeline.corrections.imports import IMPORTS, Imports
from pipeline.corrections.log import FOLDER as LOG
from pipeline.corrections.log import ReviewLog
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.loss_report import (
    FAILED_IMAGES,
    LOSSES_FILE,
    NOT_ANNOTATED,
    Recorded,
    recorded_of,
)
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.findings import Findings
from pipeline.run.predictions import Predictions
from pipeline.run.tables.damaged import DAMAGED_IMAGES
from pipeline.storage import uris
from pipeline.storage.folder import Folder, fetch
from pipeline.storage.local import FileTooLargeError, NotAFileError
from schemas import plugins
from schemas.errors import RunFolderError, UserError

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_EXPORTERS = "pipeline.exporters"
_MAX_LOSSES_BYTES = 1 << 20
_MEND_REVIEW = "restore the file from a copy, or move it away to go on without what it says"


def check_review(run: RunFolder, findings: Findings, *, is_whole: bool) -> None:
    """Check the decisions of the review page and the imports.

    Args:
        run: its newest generation.
        findings: where findings go.
        is_whole: its tables can be read, so that imported masks can be compared with their images.
    """
    image_ids: set[str] = set()
    try:
        log = ReviewLog(run)
        image_ids |= {decision.image_id for decision in log.decisions()}
        _add_skipped(findings, LOG, log.skipped)
    except RunFolderError as error:
        findings.add("review", LOG, "what ovseg writes", error, _MEND_REVIEW)
    try:
        imports = Imports(run)
        image_ids |= imports.images().keys()
        _check_imported_masks(run, imports, findings, is_whole=is_whole)
        _add_skipped(findings, IMPORTS, imports.skipped)
    except RunFolderError as error:
        findings.add("review", IMPORTS, "what ovseg writes", error, _MEND_REVIEW)
    named = pa.array(sorted(image_ids), pa.string())
    known = compute.is_in(named, value_set=run.all_images()["image_id"].combine_chunks())
    for image_id in named.filter(compute.invert(known)).to_pylist():
        advice = "it does not count: was it made for another run?"
        expected = "decisions and masks of images of the run"
        findings.add("review", "reviewed", expected, f"of an image {image_id}", advice)


def _add_skipped(findings: Findings, folder: str, skipped: Mapping[str, str]) -> None:
    for name, why in skipped.items():
        findings.add("review", f"{folder}/{name}", "what ovseg writes", why, _MEND_REVIEW)


def _check_imported_masks(
    run: RunFolder, imports: Imports, findings: Findings, *, is_whole: bool
) -> None:
    """Read all imported masks, which notes those that are none, and compare their sizes."""
    predictions = Predictions(run)
    for image_id in imports.images():
        masks = imports.masks(image_id)
        image = predictions.image(image_id) if is_whole else None
        if image is None:
            continue
        for mask in masks:
            if (mask.height, mask.width) != (image["height"], image["width"]):
                expected = f"{image['width']} x {image['height']} pixels, as its image"
                found = f"a mask of {mask.width} x {mask.height}"
                advice = "import the file again"
                findings.add("review", f"{IMPORTS}, {image['path']}", expected, found, advice)


def check_exports(run: RunFolder, findings: Findings) -> list[str]:
    """Check the exports of a run whose tables can be read.

    Args:
        run: its newest generation.
        findings: where findings go.

    Returns:
        The folders of the exports that are there.
    """
    found = []
    for name in plugins.names(_EXPORTERS):
        exporter = plugins.load_plugin(_EXPORTERS, name)
        folder = run.folder.child(exporter.FOLDER)
        if folder.peek(1):
            found.append(exporter.FOLDER)
            check = _ExportCheck(run, findings, exporter, name)
            check.check(folder)
    return found


class _ExportCheck:
    """The check of one export."""

    def __init__(self, run: RunFolder, findings: Findings, exporter: ModuleType, name: str) -> None:
        self._run = run
        self._findings = findings
        self._exporter = exporter
        self._place = exporter.FOLDER
        run_name = shlex.quote(run.folder.uri)
        self._again = f"export again: ovseg export {run_name} --to {name.replace('_', '-')}"

    def check(self, folder: Folder) -> None:
        try:
            text = folder.read_bytes(LOSSES_FILE, _MAX_LOSSES_BYTES).decode(errors="replace")
        except FileNotFoundError:
            self._add(LOSSES_FILE, "written last by an export that was finished", "no such file")
            return
        except (NotAFileError, FileTooLargeError) as error:
            self._add(LOSSES_FILE, "what the export lost", error)
            return
        recorded = recorded_of(text)
        given = {key: value for key, value in recorded.options.items() if value != "None"}
        try:
            options = self._exporter.Options.model_validate(given)
        except ValidationError:
            self._add(LOSSES_FILE, "the options of this exporter", str(recorded.options)[:200])
            return
        try:
            wanted = options.wanted(self._run)
            reader = CorrectedRun(self._run, options.masks or "predicted", wanted)
        except (RunFolderError, UserError) as error:
            self._add(LOSSES_FILE, f"an export of {options.masks} masks", error)
            return
        if not self._is_of_state(recorded, reader) or not hasattr(self._exporter, "check_files"):
            return
        ours = [name for name in folder.list() if re.fullmatch(self._exporter.FILES, name)]
        if not ours:
            self._add("", "the files of the export", "none of them")
            return
        with _local_files(folder, ours) as files:
            for problem in self._exporter.check_files(reader, options, files):
                self._add(problem.where, problem.expected, problem.found)

    def _is_of_state(self, recorded: Recorded, reader: CorrectedRun) -> bool:
        """Compare what LOSSES.txt records with the run and its review as they are now."""
        if recorded.source and recorded.source != reader.summary:
            self._add(LOSSES_FILE, reader.summary, recorded.source)
            return False
        if "segments" not in recorded.written:  # it counts something else
            return True
        left_out = sum(reader.num_left_out.values()) + recorded.lost.get(DAMAGED_IMAGES, 0)
        pairs = (
            ("images", reader.num_images - left_out, recorded.written.get("images", 0)),
            (FAILED_IMAGES, sum(reader.errors.values()), recorded.lost.get(FAILED_IMAGES, 0)),
            (NOT_ANNOTATED, reader.num_left, recorded.lost.get(NOT_ANNOTATED, 0)),
        )
        differing = [(what, now, then) for what, now, then in pairs if now != then]
        for what, now, then in differing:
            self._add(LOSSES_FILE, f"{now:,} {what}, as the run has now", f"{then:,}")
        return not differing

    def _add(self, where: str, expected: str, found: object) -> None:
        place = f"{self._place}/{where}" if where else self._place
        self._findings.add("export", place, expected, found, self._again)


@contextmanager
def _local_files(folder: Folder, names: list[str]) -> Iterator[list[Path]]:
    """Give the paths of files on this disk, copied where the folder is in a store."""
    if not uris.scheme(folder.uri):
        yield [Path(folder.uri, name) for name in names]
        return
    with tempfile.TemporaryDirectory(prefix="ovseg-check-") as place:
        for name in names:
            fetch(uris.join(folder.uri, name), Path(place, name))
        yield [Path(place, name) for name in names]
