"""How a run begins: a folder that is free, the frozen list of images, and what the run is."""

from pipeline.collection import manifest
from pipeline.run import markers
from pipeline.run.identity import RunPlan, describe
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.errors import RunFolderError

RUN_FILE = "run.yaml"
MANIFEST_FILE = "manifest.parquet"


def check_free(folder: Folder) -> None:
    """Make sure that a run can begin in the folder; writes nothing.

    Raises:
        RunFolderError: if it is a file, or holds what no run has put there.
    """
    parent, name = uris.parent_and_name(folder.uri)
    if name and Folder(parent).exists(name):
        raise RunFolderError(f"{folder.uri} is a file: choose another output folder")
    ours = {MANIFEST_FILE, RUN_FILE}
    foreign = [name for name in folder.peek(20) if name not in ours and not name.startswith(".")]
    if foreign:
        raise RunFolderError(
            f"{folder.uri} is not empty and no run folder: it holds {foreign[0]}, but no run.yaml; "
            "choose another output folder"
        )


def begin(folder: Folder, plan: RunPlan) -> None:
    """Freeze the manifest, then write run.yaml, each created once; two drivers may do so at once.

    Raises:
        RunFolderError: if the folder holds something else, or another collection's manifest.
    """
    check_free(folder)
    data = manifest.freeze(plan.manifest(), plan.source)
    if not folder.create_once(MANIFEST_FILE, data):
        # Another driver is beginning the same run now, or one was killed between the two files.
        data = folder.read_bytes(MANIFEST_FILE)
    table = manifest.load(data)
    if manifest.source_of(table) != plan.source:
        raise RunFolderError(
            f"{folder.uri} holds the manifest of another collection (a run that was never begun): "
            "delete manifest.parquet there or choose another output folder"
        )
    info = describe(plan, markers.sha256(data), table.num_rows)
    folder.create_once(RUN_FILE, info.to_yaml())
