"""`ovseg delete`: the files that ovseg wrote in a run folder, after a question; nothing else.

What ovseg does not know by its name is kept and named, and so is every file that is an image of the
run. `run.yaml` goes last: a deletion that was interrupted is gone on with by the same command.
"""

import re
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs import console
from jobs.runs import evaluate, sheet
from jobs.training.train_student import TEACHER
from pipeline.corrections import calibrate, imports, log
from pipeline.corrections.layer import ReviewedLayer
from pipeline.curation import image_lists
from pipeline.evaluation import compare
from pipeline.exporters.shared.loss_report import LOSSES_FILE
from pipeline.run.folder import FEATURES, MANIFEST_FILE, RUN_FILE, RunFolder
from pipeline.run.generations import FOLDER as GENERATIONS
from pipeline.run.generations import RECORD_FILES
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.waiting import StorageThreads
from schemas import plugins
from schemas.base import counted
from schemas.errors import OvsegError, RunFolderError
from schemas.records import TABLE_NAMES
from schemas.untrusted import printable

_EXPORTERS = "pipeline.exporters"
_FOLDERS = (*TABLE_NAMES, FEATURES, GENERATIONS, "done", "failed", "reviewed", "exports", "webhook")
_FILES = (
    *(evaluate.REPORT, evaluate.PICTURE, evaluate.INSTANCES_REPORT, sheet.FILE),
    *(calibrate.FILE, calibrate.PICTURE),
)
_LAST = (MANIFEST_FILE, RUN_FILE)
_AT_ONCE = 16
_SHOWN = 10
_GOES_ON_S = 60.0
"""A local run that is not finished and that was written to within this time may be going on."""


@dataclass(frozen=True)
class Content:
    """The files of a run folder.

    Attributes:
        own: size in bytes by name, of those that ovseg wrote.
        kept: names of the others.
        links: symbolic links; none is followed.
    """

    own: dict[str, int]
    kept: tuple[str, ...]
    links: tuple[str, ...]


def delete_run(uri: str, *, is_confirmed: bool = False) -> None:
    """Delete a run folder, as far as ovseg wrote it, and print what was kept.

    Args:
        uri: the run folder.
        is_confirmed: ask no question.

    Raises:
        RunFolderError: it is no run folder, or one generation of it, or a job seems to be going
            on in it.
        UserError: nobody answers the question.
    """
    run = _opened(uri)
    if run.generation is not None:
        raise RunFolderError(
            f"{uri} is one generation of {run.folder.uri}: a run is deleted as a whole, so give it "
            "without @"
        )
    content = content_of(run)
    _check_idle(run, content.own)
    size = f"{len(content.own):,} files, {_in_words(sum(content.own.values()))}"
    console.facts(
        [
            ("run folder", run.folder.uri),
            ("holds", f"{_num_images(run)} by {run.info.job().method.name}"),
            ("reviews", _reviews(run)),
            ("deletes", f"{size}; the images of the collection stay"),
            ("keeps", _listed(content.kept, "files that ovseg did not write")),
            ("links", _listed(content.links, "links, not followed")),
        ]
    )
    if not (is_confirmed or console.confirm("Delete these files for ever?")):
        console.line("nothing was deleted")
        return
    for name in _records(content.own):
        run.folder.delete(name)
    with StorageThreads(_AT_ONCE) as threads:
        for part in (_markers(content.own), _tables(content.own)):
            list(threads.map(run.folder.delete, part))
    for name in _LAST:
        run.folder.delete(name)
    run.folder.delete_empty_folders(_FOLDERS)
    left = len(content.kept) + len(content.links)
    console.line(f"deleted: {size}" + (f"; {left:,} others are left in the folder" if left else ""))


def _opened(uri: str) -> RunFolder:
    """Return a run folder.

    Raises:
        RunFolderError: it is none; of a student's folder with what to do instead.
    """
    try:
        return RunFolder.open(uri)
    except RunFolderError as error:
        # Imported here: it loads torch, which a deletion does without.
        from pipeline.training.students.store import CHECKPOINT, STUDENT

        folder = Folder(uris.normalise(uri))
        if folder.exists(RUN_FILE) or not any(map(folder.exists, (STUDENT, CHECKPOINT))):
            raise
        has_teacher = folder.exists(f"{TEACHER}/{RUN_FILE}")
        teacher = f"; its teacher's run, {TEACHER}/, goes as well" if has_teacher else ""
        how = "with the store's own tool"
        if not uris.scheme(folder.uri):
            how = f"rm -r {shlex.quote(folder.uri)}"
        raise RunFolderError(
            f"{folder.uri} holds a student, no run: ovseg delete is for runs; remove the student's "
            f"folder as any other: {how}{teacher}"
        ) from error


def content_of(run: RunFolder) -> Content:
    """Return the files of a run folder, told apart by their names and by the run's manifest."""
    exporters = [plugins.load_plugin(_EXPORTERS, name) for name in plugins.names(_EXPORTERS)]
    exports = {exporter.FOLDER: exporter.FILES for exporter in exporters}
    makers = (log, compare, image_lists)
    others = {imports.IMPORTS: imports.FILES, **{one.FOLDER: one.FILES for one in makers}}
    patterns = {name: re.compile(files) for name, files in (exports | others).items()}
    sizes: dict[str, int] = {}
    links, own, copies = [], [], {}
    for name, size, _ in run.folder.walk():
        if size is None:
            links.append(name)
            continue
        sizes[name] = size
        folder = "/".join(name.split("/")[:2])
        rest = name[len(folder) + 1 :]
        is_known = folder in patterns and (patterns[folder].fullmatch(rest) or rest == LOSSES_FILE)
        if run.is_own(name) or name in _FILES or is_known:
            own.append(name)
        elif folder in exports:
            copies[name] = {rest, rest.removeprefix("images/")}
    are_images = _in_manifest(run, "path", {part for c in copies.values() for part in _stems(c)})
    own += [name for name, parts in copies.items() if are_images & _stems(parts)]
    at = {uris.join(run.folder.uri, name): name for name in sizes}
    protected = {at[place] for place in _in_manifest(run, "uri", at)}
    ours = {name: sizes[name] for name in own if name not in protected}
    return Content(ours, tuple(sorted(sizes.keys() - ours.keys())), tuple(sorted(links)))


def _stems(names: Collection[str]) -> set[str]:
    """Return names and the same without an ending that an exporter may have added."""
    return {*names, *(name.rpartition(".")[0] for name in names)} - {""}


def _in_manifest(run: RunFolder, column: str, values: Collection[str]) -> set[str]:
    """Return those of some values that the manifest has in a column."""
    try:
        found = run.all_images()[column]
    except (RunFolderError, FileNotFoundError):  # the deletion before was interrupted
        return set()
    wanted = pa.array(list(values), pa.string())
    is_there = pc.call_function("is_in", [wanted], pc.SetLookupOptions(value_set=found))
    return set(wanted.filter(is_there).to_pylist())


def _check_idle(run: RunFolder, names: Collection[str]) -> None:
    """Check that no job goes on in a local run folder, as far as the times of its files tell.

    Raises:
        RunFolderError: one seems to.
    """
    root = run.folder.uri
    if uris.scheme(root) or _is_finished(run):
        return
    age_s = time.time() - max((_written_s(Path(root, name)) for name in names), default=0.0)
    if 0 <= age_s < _GOES_ON_S:
        raise RunFolderError(
            f"{root}: a job seems to be going on in it: it is not finished, and a file was written "
            f"{age_s:.0f} s ago. End the job; if no file is written for "
            f"another {_GOES_ON_S - age_s:.0f} s, the run can be deleted"
        )


def _is_finished(run: RunFolder) -> bool:
    try:
        return not run.shards_left(run.done())
    except RunFolderError:  # a generation is damaged, or gone as the deletion was interrupted
        return False


def _written_s(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # of a job that goes on: renamed meanwhile
        return time.time()


def _reviews(run: RunFolder) -> str:
    """Return what people decided in a run, which is deleted as well; empty: nothing."""
    try:
        state = ReviewedLayer(run).state()
    except OvsegError as error:
        return f"cannot be read ({printable(str(error))})"
    partly = state.num_partly_reviewed
    parts = [
        counted(state.num_reviewed, "reviewed image") if state.num_reviewed else "",
        f"{counted(partly, 'image')} reviewed in part" if partly else "",
        counted(state.num_imports, "import") if state.num_imports else "",
    ]
    said = ", ".join(filter(None, parts))
    return f"{said}: people's work, which is deleted too" if said else ""


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"


def _listed(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} {what}: {', '.join(names[:_SHOWN])}{more}"


def _num_images(run: RunFolder) -> str:
    try:
        return counted(run.num_images, "image")
    except RunFolderError:  # damaged: it can be deleted all the same
        return "images"


def _records(names: Collection[str]) -> list[str]:
    """Return the records of generations, the last one first: those that are left are whole."""
    records = (name for name in names if re.fullmatch(RECORD_FILES, name))
    return sorted(records, reverse=True)


def _markers(names: Collection[str]) -> Iterator[str]:
    """Yield the done markers: without them no reader looks for the tables."""
    return (name for name in names if name.startswith("done/"))


def _tables(names: Collection[str]) -> Iterator[str]:
    others = {*_LAST, *_records(names)}
    return (name for name in names if not name.startswith("done/") and name not in others)
