"""Lists of a run's images: what `duplicates`, `sample`, `split` and `search` found.

A list is a CSV file with the columns `uri`, `path` and `note`, and further ones by command. It is a
list of images like any other (`pipeline/collection/list_file.py`): `ovseg annotate --images LIST`
annotates them under the same paths, `review` and `export` take it as `--only LIST`. Those in the
run folder are filters of the review page.
"""

import csv
import hashlib
import io
import logging
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from pipeline.collection import list_file
from pipeline.curation.images import AnnotatedImages
from pipeline.run.folder import RunFolder
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from schemas.base import counted
from schemas.errors import ConfigError, UserError
from schemas.redact import holds_secret, redact
from schemas.untrusted import shown_text

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

FOLDER = "exports/lists"
FILES = r"[a-z0-9][a-z0-9-]{0,63}\.csv"
"""Pattern of the names in the folder."""
_MAX_BYTES = 256 << 20
_SHOWN = 3
_MAX_NAME = 48


def list_name(*words: str) -> str:
    """Return the name of a list from words: `sample`, `doubt` give `sample-doubt`.

    Words that lose letters on the way, as those of other scripts do, end in six digits of a hash,
    so that the lists of two searches are two files.
    """
    text = unicodedata.normalize("NFC", " ".join(words)).lower()
    plain = re.sub(r"[^a-z0-9]+", "-", text).strip("-")
    name = plain[:_MAX_NAME].rstrip("-")
    if text.isascii() and len(plain) <= _MAX_NAME:
        return name or "list"
    # A file's name may hold any bytes, which stand as surrogates in it.
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{name or 'list'}-{digest[:6]}"


def check_list_file(out: str) -> None:
    """Check the name of a list that is to be written, before the work for it begins.

    Args:
        out: a path or URL that ends in .csv or .txt; empty: in the run folder.

    Raises:
        ConfigError: it is no such name.
    """
    if out and not out.endswith((".csv", ".txt")):
        raise ConfigError(f"--out {out}: expected a name that ends in .csv or .txt")


def write_list(
    images: AnnotatedImages,
    places: NDArray[np.integer],
    columns: Mapping[str, Sequence[Any]],
    name: str,
    out: str = "",
) -> str:
    """Write a list and return where it lies.

    Args:
        images: of the run.
        places: of the listed ones, in their order.
        columns: further columns with a value for each; `note` is shown on the review page.
        name: of the list, from `list_name`.
        out: a path or URL that ends in .csv or .txt (URIs alone); empty: in the run folder.

    Raises:
        ConfigError: see `check_list_file`.
    """
    check_list_file(out)
    run, wanted = images.run, images.table.select(["image_id", "path"]).take(places)
    manifest = run.manifest()
    found = compute.index_in(wanted["image_id"].cast(pa.string()), value_set=manifest["image_id"])
    addresses = manifest["uri"].take(found.combine_chunks()).to_pylist()
    if out and any(map(holds_secret, addresses)):
        logger.warning("%s: addresses of images hold tokens or signatures", redact(out))
    text = io.StringIO()
    if out.endswith(".txt"):
        text.writelines(f"{address}\n" for address in addresses)
    else:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["uri", "path", *columns])
        writer.writerows(zip(addresses, wanted["path"].to_pylist(), *columns.values(), strict=True))
    place, file = (
        uris.parent_and_name(uris.normalise(out))
        if out
        else (run.folder.uri, f"{FOLDER}/{name}.csv")
    )
    (Folder(place) if out else run.folder).atomic_write(file, text.getvalue().encode())
    return uris.join(place, file)


def forget_lists(run: RunFolder, names: Collection[str]) -> None:
    """Delete those of some lists that a run folder has, before others take their place."""
    for name in lists_of(run).keys() & set(names):
        run.folder.delete(f"{FOLDER}/{name}.csv")


def lists_of(run: RunFolder) -> dict[str, int]:
    """Return the lists in a run folder by name, with their sizes in bytes."""
    return {
        name.rpartition("/")[2].removesuffix(".csv"): size
        for name, size in sorted(run.folder.sizes(FOLDER).items())
        if re.fullmatch(FILES, name.rpartition("/")[2])
    }


def read_run_list(run: RunFolder, name: str) -> dict[str, str]:
    """Return the notes of a list in the run folder by path, in its order; some may be empty.

    Raises:
        UserError: it is gone, or is no list.
    """
    try:
        data = run.folder.read_bytes(f"{FOLDER}/{name}.csv", _MAX_BYTES)
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        return {row["path"]: row.get("note") or "" for row in rows}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(
            f"the list {shown_text(name)} in {run.folder.uri} cannot be read: {error}"
        ) from error


def listed_images(run: RunFolder, uri: str) -> frozenset[str]:
    """Return the `image_id` of a run's images that a list file names, by their path or URI.

    Names that the run does not have are counted in the log.

    Args:
        run: at any place.
        uri: of any list that `ovseg annotate` takes.

    Raises:
        CollectionError: it cannot be read as a list.
        UserError: it names no image of the run.
    """
    place = uris.normalise(uri)
    if not list_file.is_list(place):
        endings = ", ".join(list_file.SUFFIXES)
        raise UserError(f"--only {uri}: expected a list of images ({endings})")
    try:
        listed = list_file.read_list(place, run.confirmed.roots)
    except FileNotFoundError as error:
        raise UserError(f"--only {uri}: no such list") from error
    if isinstance(listed, list):
        columns = [[one.path for one in listed], [one.uri for one in listed]]
        listed = pa.table([pa.array(one, pa.string()) for one in columns], ["path", "uri"])
    found = manifest_places(run, listed)
    unknown = listed["path"].filter(pa.array(found < 0)).to_pylist()
    shown = ", ".join(shown_text(redact(str(path))) for path in unknown[:_SHOWN])
    if len(unknown) == len(found):
        raise UserError(f"--only {uri}: it names no image of {run.folder.uri} (but {shown})")
    if unknown:
        logger.warning("--only: %s not of the run: %s", counted(len(unknown), "image"), shown)
    return frozenset(run.manifest()["image_id"].take(pa.array(found[found >= 0])).to_pylist())


def manifest_places(run: RunFolder, listed: pa.Table) -> NDArray[np.int64]:
    """Return the places in a run's manifest of the images of a table; -1: it has no such image.

    Args:
        run: at any place.
        listed: with the column `path` or `uri` or both; the path counts first.
    """
    manifest = run.manifest()
    places = np.full(len(listed), -1, np.int64)
    for name in ("uri", "path"):
        if name in listed.column_names:
            names = listed[name].cast(pa.string())
            found = compute.index_in(names, value_set=manifest[name].combine_chunks())
            numbers = compute.fill_null(found, -1).to_numpy()
            places = np.where(numbers >= 0, numbers, places)
    return places
