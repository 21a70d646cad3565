"""`ovseg search`: the images of a run that fit words, or are like an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from jobs import console
from jobs.runs.sheet import draw_some, picture_format
from pipeline.storage.waiting import importing
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.trust.confirmed import Confirmed


@dataclass(frozen=True)
class SearchFlags:
    """What `ovseg search` looks for, and what it writes.

    Attributes:
        text: words; or empty.
        image: the path of an image of the run, or of a file; or empty.
        count: of images.
        weights: names of weights in the run that may be loaded.
        out: of the list; empty: in the run folder.
        sheet: of a contact sheet; empty: none.
    """

    text: str = ""
    image: str = ""
    count: int = 20
    weights: Sequence[str] = ()
    out: str = ""
    sheet: str = ""


def search_run(run: str, flags: SearchFlags, as_json: bool, confirmed: "Confirmed") -> None:
    """Search, write the images as a list, and print them with their cosines.

    Raises:
        ConfigError: neither words nor an image are given, or both; or a wrong name of a file.
        UserError: no such run, or none of its images has a vector.
        WeightsError: the run's CLIP cannot be had, or may not be loaded.
    """
    with importing():
        from pipeline.curation.image_lists import check_list_file, list_name, write_list
        from pipeline.curation.images import annotated_images
        from pipeline.curation.search import search_image, search_text
        from pipeline.run.folder import RunFolder

    if bool(flags.text) == bool(flags.image):
        raise ConfigError('expected words, such as ovseg search RUN "yellow star", or --image FILE')
    check_list_file(flags.out)
    if flags.sheet:
        picture_format(flags.sheet, "--sheet")
    images = annotated_images(RunFolder.open(run, confirmed))
    if flags.text:
        name, search, what = list_name("search", flags.text), search_text, flags.text
    else:
        stem = PurePosixPath(flags.image).stem
        name, search, what = list_name("like", stem), search_image, flags.image
    found = search(images, what, flags.count, flags.weights)
    paths = images.paths.take(found.places).to_pylist()
    cosines = [round(float(cosine), 4) for cosine in found.cosines]
    columns = {"note": [f"cosine {cosine:.3f}" for cosine in cosines], "cosine": cosines}
    place = write_list(images, found.places, columns, name, flags.out)
    if flags.sheet:
        ids = images.table["image_id"].take(found.places).to_pylist()
        draw_some(images.run, dict(zip(ids, columns["note"], strict=True)), flags.sheet)
    if as_json:
        rows = [{"path": path, "cosine": c} for path, c in zip(paths, cosines, strict=True)]
        return console.print_json(
            {"searched": what, "num_images": found.num_searched, "images": rows, "list": place}
        )
    rows = list(zip(paths, cosines, strict=True))
    console.table(f"Images nearest to {what}", ("image", "cosine"), rows)
    console.line("")
    return console.facts(
        [
            ("images", f"{found.num_searched:,} searched"),
            ("list", place),
            ("sheet", flags.sheet),
        ]
    )
