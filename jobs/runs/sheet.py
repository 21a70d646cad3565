"""`ovseg sheet`: the first images of a run with their masks in one picture."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs import console
from jobs.runs.evaluate import TruthFlags
from jobs.runs.review import renamed_labels
from schemas.errors import ConfigError, UserError

if TYPE_CHECKING:
    from pipeline.evaluation.contact_sheet import SheetRow
    from pipeline.run.folder import RunFolder
    from pipeline.run.trust.confirmed import Confirmed

FILE = "contact_sheet.png"
"""The sheet in a local run folder."""
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def draw_sheet(run: str, out: str, limit: int, truth: TruthFlags, confirmed: "Confirmed") -> None:
    """Draw the contact sheet of a run, and print where it lies.

    Args:
        run: the run folder.
        out: the picture, a path or URL; empty: in a local run folder, and for a run at a URL in the
            current folder.
        limit: greatest number of images.
        truth: true masks to show beside, as `ovseg evaluate` takes them, but for `background`.
        confirmed: from where the run's images are read.

    Raises:
        ConfigError: a name that is no picture's.
        UserError: no such run or truth, or no image can be shown.
    """
    from pipeline.evaluation.contact_sheet import sheet_rows
    from pipeline.run.folder import RunFolder
    from pipeline.storage import uris

    picture_format(out or FILE, "--out")
    folder = RunFolder.open(run, confirmed)
    names = folder.info.job().vocabulary.names
    renamed = renamed_labels(truth.labels, names)
    rows = sheet_rows(folder, truth.uri, limit, renamed=renamed)
    if not rows:
        raise UserError(
            f"{folder.folder.uri} has no image to show: none is annotated yet, or none can be "
            f"read; {console.program()} inspect tells which"
        )
    is_remote = bool(uris.scheme(folder.folder.uri))
    own_name = f"{uris.parent_and_name(folder.folder.uri)[1] or 'run'}-{FILE}"
    beside = str(Path.cwd() / own_name) if is_remote else uris.join(folder.folder.uri, FILE)
    place = _write(rows, names, out or beside, "--out")
    console.line(f"{len(rows):,} of {folder.num_images:,} images: {place}")


def draw_some(run: "RunFolder", notes: Mapping[str, str], out: str) -> None:
    """Draw the contact sheet of some images of a run, in their order.

    Args:
        run: the run.
        notes: what stands beside the image's name, by `image_id`; those that can be read are shown.
        out: the picture, a path or URL.

    Raises:
        ConfigError: a name that is no picture's.
    """
    from pipeline.evaluation.contact_sheet import sheet_rows

    rows = [
        replace(row, note=notes[row.image_id])
        for row in sheet_rows(run, limit=len(notes), only=list(notes))
    ]
    _write(rows, run.info.job().vocabulary.names, out, "--sheet")


def _write(rows: Sequence["SheetRow"], names: Sequence[str], out: str, option: str) -> str:
    """Draw a contact sheet, and return where it lies."""
    from pipeline.evaluation.contact_sheet import contact_sheet
    from pipeline.storage import uris
    from pipeline.storage.folder import Folder

    picture = io.BytesIO()
    contact_sheet(rows, names).save(picture, picture_format(out, option), optimize=True)
    place, name = uris.parent_and_name(uris.normalise(out))
    Folder(place).atomic_write(name, picture.getvalue())
    return uris.join(place, name)


def picture_format(out: str, option: str) -> str:
    """Return Pillow's name of the format of a picture, by the ending of its name.

    Args:
        out: its path or URL.
        option: of the command that it was given as, for the message.

    Raises:
        ConfigError: a name that is no picture's.
    """
    from pipeline.storage import uris

    ending = uris.without_query(out).lower()
    kind = next((name for suffix, name in _FORMATS.items() if ending.endswith(suffix)), "")
    if not kind:
        raise ConfigError(f"{option} {out}: expected a name that ends in {', '.join(_FORMATS)}")
    return kind
