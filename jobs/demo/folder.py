"""The demo's folder: files of an earlier demo are replaced, other files are never touched."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import RunFolderError

_MARKER = ".ovseg-demo"
_MARKER_TEXT = "ovseg demo owns the names below and replaces them on its next run:\n"
_OWN_FOLDERS = ("run", "instances", "review")
_OWN_FILES = ("truth/phrases.json", "truth/shapes.json", "contact_sheet.png", "demo.yaml")
_OWN_PATTERN = "scenes/scene_*.png"


@dataclass(frozen=True)
class DemoFolder:
    """The files and folders of a demo."""

    root: Path

    @property
    def scenes(self) -> Path:
        """Folder of the drawn images."""
        return self.root / "scenes"

    @property
    def truth(self) -> Path:
        """The true masks as COCO JSON, by phrase."""
        return self.root / "truth" / "phrases.json"

    @property
    def shape_truth(self) -> Path:
        """The true masks by shape."""
        return self.root / "truth" / "shapes.json"

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.root / "run"

    @property
    def instances(self) -> Path:
        """The run folder of instances."""
        return self.root / "instances"

    @property
    def sheet(self) -> Path:
        """Contact sheet of images, masks, instances and truth."""
        return self.root / "contact_sheet.png"

    @property
    def config(self) -> Path:
        """The job file."""
        return self.root / "demo.yaml"


def prepare_folder(out: str) -> DemoFolder:
    """Return the demo's folder without the results of an earlier demo.

    Raises:
        RunFolderError: a file, or a folder that is not empty and not of an earlier demo.
    """
    root = Path(out)
    marker = root / _MARKER
    if root.is_dir() and any(root.iterdir()) and not marker.exists():
        raise RunFolderError(
            f"{out}: expected no folder, an empty one or that of an earlier demo; it holds other "
            "files. Give another folder with --out"
        )
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{out}: expected a folder, got a file. Give another with --out")
    folder = DemoFolder(root)
    for own in (folder.scenes, folder.truth.parent):
        own.mkdir(parents=True, exist_ok=True)
    marker.write_text(
        _MARKER_TEXT + "\n".join((*_OWN_FOLDERS, *_OWN_FILES, _OWN_PATTERN)) + "\n",
        encoding="utf-8",
    )
    for name in _OWN_FOLDERS:
        shutil.rmtree(root / name, ignore_errors=True)
    for path in (*(root / name for name in _OWN_FILES), *root.glob(_OWN_PATTERN)):
        path.unlink(missing_ok=True)
    return folder
