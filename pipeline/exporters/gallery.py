"""Gallery: a static page of images with their masks, highest review priority first.

It needs no server and no network: small pictures lie beside it, named by the hash of their content.
Pictures are written first, then the page, and the pictures of an older page are deleted last, so
that the page is complete at any time. Every name is escaped, and the page allows only its own
script.
"""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import Field

from ovseg_core.decision.review_priority import share_less_doubtful
from ovseg_core.images.label_colours import Rgb, css_colour, label_colours
from ovseg_core.images.overlay import tinted
from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.segments import flattened
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages, other_size
from pipeline.run.reader import MASK_COLUMNS, Row, grouped, paint_places, paint_segments
from pipeline.storage import uris
from schemas.base import sentence
from schemas.errors import ImageError
from schemas.score_columns import DOUBT_HELP, SCORE, SCORE_COLUMNS
from schemas.untrusted import printable

FOLDER = "exports/gallery"
FILES = r"index\.html|pictures/[0-9a-f]{24}\.(?:png|jpg)"
_PICTURES = "pictures"
_ALL_PICTURES = re.compile(rf"{_PICTURES}/[0-9a-f]{{24}}[.]\w+")
_NOT_HELD = ("scores other than the mean probability, sizes of masks",)
_SEGMENT_COLUMNS = [*MASK_COLUMNS, "kind", SCORE]


class Options(ExportOptions):
    """Options of the gallery."""

    limit: Annotated[int, Field(ge=1)] = 500
    """Greatest number of images; those with the highest review priority are shown."""
    side_px: Annotated[int, Field(ge=64, le=2048)] = 360
    """Longer side of the pictures in pixels."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write pictures and page; return the page's path in the run folder."""
    title = "Gallery: what it does not show of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD) as export:
        doubts, beyond = _most_doubtful(export.reader, options.limit)
        if beyond:
            export.losses.count_lost("images beyond the limit", beyond)
        cards = dict[int, _Card]()
        names = export.reader.run.info.job().vocabulary.names
        for shard in export.reader.shards():
            shown = [row for row in shard.images.values() if row["number"] in doubts]
            segments = shard.segments_by_image(_SEGMENT_COLUMNS) if shown else {}
            for image in shown:
                rows = flattened(segments.get(image["image_id"], []), export.losses)
                number, side_px = image["number"], options.side_px
                cards[number] = _write_card(image, rows, doubts[number], export, names, side_px)
            export.losses.count_written("images", len(shown))
        in_order = [cards[number] for number in doubts]
        hints = _hints(export.photographs) if in_order else ""
        page = _page(export.reader, in_order, beyond, hints)
        export.write("index.html", page.encode())
        export.remove_matching(_ALL_PICTURES, {name for card in in_order for name in card.pictures})
    return [f"{FOLDER}/index.html"]


def _most_doubtful(reader: CorrectedRun, limit: int) -> tuple[dict[int, float | None], int]:
    """Return the doubt of the images to show by their number, and how many are beyond the limit.

    The most doubtful come first, reviewed ones, which have none, last. It is as on the review page:
    among the run's images, also those that people have reviewed or rejected since.
    """
    facts = (
        (row["number"], row["review_priority"], reader.is_reviewed(row["image_id"]), is_shown)
        for row, is_shown in reader.predicted_images()
    )
    columns = [("number", "i8"), ("priority", "f8"), ("is_reviewed", "?"), ("is_shown", "?")]
    images = np.fromiter(facts, columns)
    shares = share_less_doubtful(images["priority"])
    order = np.lexsort((images["number"], -shares, images["is_reviewed"]))
    order = order[images["is_shown"][order]]
    first = order[:limit]
    doubts = {
        number: None if is_reviewed else share
        for number, is_reviewed, share in zip(
            images["number"][first].tolist(),
            images["is_reviewed"][first].tolist(),
            shares[first].tolist(),
            strict=True,
        )
    }
    return doubts, len(order) - len(first)


@dataclass(frozen=True)
class _Card:
    """One image on the page.

    Attributes:
        html: of the image.
        labels: category ids of its masks.
        pictures: paths of its pictures, below the gallery's folder.
    """

    html: str
    labels: frozenset[int]
    pictures: tuple[str, ...]


def _write_card(
    image: Row,
    rows: list[Row],
    doubt: float | None,
    export: Export,
    names: Sequence[str],
    side_px: int,
) -> _Card:
    """Write an image's pictures, its photograph and its masks, and return its card.

    Where the photograph cannot be read, or is not the one that was annotated, the masks are shown
    on a plain ground.
    """
    scale = side_px / max(image["width"], image["height"])
    width, height = (max(1, round(scale * image[side])) for side in ("width", "height"))
    pictures, caption = [], ""
    try:
        decoded = export.photographs.read_image(image, side_px)
        if other_size(decoded, image):
            export.count_unreadable(image, None)
            caption = _masks_only("was replaced since the run by one of another size")
        else:
            photo = Image.fromarray(decoded.rgb).resize((width, height), Image.Resampling.LANCZOS)
            pictures.append(("photo", _file(photo, "JPEG", quality=85), ".jpg"))
    except ImageError as error:
        export.count_unreadable(image, error)
        is_known = bool(export.photographs.notice)
        why = "is not read, see above" if is_known else f"cannot be read any more: {error.code}"
        caption = _masks_only(why)
    size_hw = image["height"], image["width"]
    has_instances = any(row["kind"] == "instance" for row in rows)
    outlined = paint_places(rows, size_hw) if has_instances else None
    masks = tinted(paint_segments(rows, size_hw), (height, width), names, outlined)
    pictures.append(("alone" if caption else "masks", _file(masks, "PNG"), ".png"))
    figure, files = "", []
    for kind, data, suffix in pictures:
        files.append(f"{_PICTURES}/{hashlib.sha256(data).hexdigest()[:24]}{suffix}")
        export.put(files[-1], data)
        figure += f'<img class="{kind}" src="{files[-1]}" alt="" loading="lazy">'
    html = _html(image, rows, doubt, figure + caption, label_colours(names))
    return _Card(html, frozenset(row["category_id"] for row in rows), tuple(files))


def _masks_only(why: str) -> str:
    return f"<figcaption>masks only; the photograph {escape(why)}</figcaption>"


def _file(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return buffer.getvalue()


def _html(
    image: Row, rows: list[Row], doubt: float | None, figure: str, colours: Sequence[Rgb]
) -> str:
    names = {row["category_id"]: row["label"] for row in rows}
    scores = {
        label: [row[SCORE] for row in of_label]
        for label, of_label in grouped(rows, "category_id").items()
    }
    chips = []
    for label, values in sorted(scores.items(), key=lambda item: (-max(item[1]), item[0])):
        highest = f"{max(values):.2f}"
        text = highest if len(values) == 1 else f"{len(values)} × ≤ {highest}"
        said = f"{len(values)} masks, best score {highest}. " if len(values) > 1 else ""
        chips.append(
            f'<span class="chip">{_swatch(colours[label - 1])}{_text(names[label])} '
            f'<small title="{said}{escape(SCORE_COLUMNS[SCORE].help)}">{text}</small></span>'
        )
    return (
        f'<article data-labels="{" ".join(map(str, sorted(scores)))}"><figure>{figure}</figure>'
        f"<section><h2>{_text(image['path'])}</h2>"
        f'<div class="doubt" title="{escape(DOUBT_HELP)}">{_doubt(doubt)}</div>'
        f'<div class="labels">{"".join(chips) or "<small>no masks</small>"}</div></section>'
        "</article>"
    )


def _doubt(share: float | None) -> str:
    """Return how doubtful an image is among those of its run, as the review page says it."""
    if share is None:
        return "reviewed"
    said = f"more doubtful than {int(100 * share + 1e-9)} %"
    said += '<span class="room"> of the images</span>'
    return (
        f'<div class="bar"><span style="width:{share:.0%}"></span></div> '
        f"<span>{said if share else 'no image is less doubtful'}</span>"
    )


def _text(name: str) -> str:
    """Return a name as HTML: what turns the direction of text or shows nothing is an escape."""
    return escape(printable(name))


def _swatch(colour: Rgb) -> str:
    return f'<i style="background:{css_colour(colour)}"></i>'


def _hints(images: RunImages) -> str:
    """Return a note: why no photograph is read and what to do; models that do not fit."""
    hints = [sentence(hint) for hint in (images.note_on_models, images.notice) if hint]
    if images.notice:
        hints[-1] += " Add that to the command that wrote this page."
    said = "".join(f"<p>{escape(hint)}</p>" for hint in hints)
    # What stands between backticks is code, as on the review page.
    said = re.sub(r"`([^`]*)`", r"<code>\1</code>", said)
    return f'<div class="note">{said}</div>' if said else ""


def _page(reader: CorrectedRun, cards: list[_Card], num_beyond: int, hints: str) -> str:
    """Return the page; the hints stand on top, what is beyond the limit is told at the end."""
    job = reader.run.info.job()
    names = job.vocabulary.names
    counts = Counter(label for card in cards for label in card.labels)
    chips = "\n".join(
        f'<button data-label="{label}" aria-pressed="false" title="in {counts[label]} of these '
        f'images">{_swatch(colour)}{_text(name)} '
        f"<small>{counts[label]}</small></button>"
        for label, (name, colour) in enumerate(zip(names, label_colours(names), strict=True), 1)
        if counts[label]
    )
    folder = Path(__file__).parent
    # It looks like the review page.
    style = folder.parent / "review" / "static" / "look.css"
    script = (folder / "gallery.js").read_text(encoding="utf-8")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((folder / "gallery.html").read_text(encoding="utf-8")).substitute(
        title=_text(uris.parent_and_name(reader.run.folder.uri)[1]),
        summary=f"{escape(job.method.name)}: {len(cards)} of {reader.num_images} images, "
        f"the most doubtful first{', reviewed ones last' * (reader.masks != 'predicted')}. "
        "Point at an image, or tap on it, to see it without its masks and in its own colours; "
        "click a label to see only its images.",
        hint=hints,
        chips=chips,
        cards="\n".join(card.html for card in cards),
        notes=" ".join(_notes(reader, num_beyond)),
        style=style.read_text(encoding="utf-8"),
        script=script,
        script_hash=script_hash,
    )


def _notes(reader: CorrectedRun, num_beyond: int) -> Iterator[str]:
    yield f"{escape(reader.summary.capitalize())}."
    yield (f"{escape(DOUBT_HELP)} The number at a label is its mean probability under the mask.")
    yield "Photographs with masks over them are half grey, so that the masks stand out."
    if num_beyond:
        yield f"{num_beyond} less doubtful images are left out."
    if reader.errors:
        codes = ", ".join(f"{code} {count}" for code, count in reader.errors.items())
        yield f"Failed: {escape(codes)}."
    if reader.num_left:
        yield f"{reader.num_left} images are not annotated yet."
