"""A page to look through the masks, the most doubtful images first: `review/index.html`.

It needs no server and no network: small pictures lie beside it, named by their content. The
pictures are written first, the page after them, and the pictures of an older page go last, so that
there is always a whole page. Every name is escaped, and the page allows no script but its own.
"""

import base64
import hashlib
import heapq
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Annotated

from PIL import Image
from pydantic import Field

from pipeline.collection.image_source import read_image, ref_of
from pipeline.collection.overlay import hex_colour, tinted
from pipeline.run.folder import RunFolder
from pipeline.run.reader import FinishedShard, Row, RunReader, paint
from pipeline.storage.folder import Folder
from schemas.base import Frozen
from schemas.config import ImageConfig
from schemas.errors import ImageError
from schemas.score_columns import SCORE

FOLDER = "review"
_PICTURES = "pictures"
_IMAGE_COLUMNS = ("path", "uri", "height", "width", "review_priority")
_SEGMENT_COLUMNS = ["image_id", "label", "category_id", "rle_counts", SCORE]


class Options(Frozen):
    """Options of the gallery."""

    limit: Annotated[int, Field(ge=1)] = 500
    """Show only so many images, the most doubtful ones."""
    side_px: Annotated[int, Field(ge=64, le=2048)] = 360
    """Longer side of the pictures."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write pictures and page; return the page's path in the run folder."""
    finished = RunReader(run)
    chosen = _most_doubtful(finished, options.limit)
    place = run.folder.child(FOLDER)
    cards: dict[int, _Card] = {}
    for shard in finished.shards(_IMAGE_COLUMNS):
        wanted = {key: row for key, row in shard.images.items() if row["number"] in chosen}
        if wanted:
            cards |= _cards(shard, wanted, place, options.side_px)
    ordered = [cards[number] for number in chosen]
    place.atomic_write("index.html", _page(finished, ordered).encode())
    kept = {name for card in ordered for name in card.pictures}
    for name in place.list(_PICTURES):
        if name not in kept:
            place.delete(name)
    return [f"{FOLDER}/index.html"]


@dataclass(frozen=True)
class _Card:
    """One image on the page, and the pictures it shows (paths below `review/`)."""

    html: str
    labels: frozenset[int]
    pictures: tuple[str, ...]


def _most_doubtful(finished: RunReader, limit: int) -> list[int]:
    """Return the numbers of the images to show, in the order of the page."""
    rows = (
        (-row["review_priority"], row["number"])
        for shard in finished.shards(("review_priority",))
        for row in shard.images.values()
    )
    return [number for _, number in heapq.nsmallest(limit, rows)]


def _cards(
    shard: FinishedShard, wanted: dict[str, Row], place: Folder, side_px: int
) -> dict[int, _Card]:
    """Write the pictures of one shard's images and return their cards by number."""
    config = shard.run.info.job().image
    segments = shard.segments_by_image(_SEGMENT_COLUMNS)
    cards = {}
    for image_id, image in wanted.items():
        rows = segments.get(image_id, [])
        try:
            pictures = _draw(image, rows, config, side_px)
        except ImageError as error:
            cards[image["number"]] = _card(image, rows, _unreadable(error), ())
            continue
        names = tuple(_store(place, data, suffix) for data, suffix in pictures)
        figure = "".join(
            f'<img class="{kind}" src="{name}" alt="" loading="lazy">'
            for kind, name in zip(("photo", "masks"), names, strict=True)
        )
        cards[image["number"]] = _card(image, rows, figure, names)
    return cards


def _draw(
    image: Row, rows: list[Row], config: ImageConfig, side_px: int
) -> tuple[tuple[bytes, str], tuple[bytes, str]]:
    """Return the reduced photograph and its masks as files with their suffixes."""
    photo = Image.fromarray(read_image(ref_of(image), config, side_px).rgb)
    scale = side_px / max(image["width"], image["height"])
    width, height = (max(1, round(scale * image[side])) for side in ("width", "height"))
    label_map = paint(rows, (image["height"], image["width"]))
    masks = tinted(label_map, (height, width))
    photo = photo.resize((width, height), Image.Resampling.LANCZOS)
    return _encoded(photo, "JPEG", quality=85), _encoded(masks, "PNG")


def _encoded(picture: Image.Image, kind: str, **options: int) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, **options)
    return buffer.getvalue(), ".jpg" if kind == "JPEG" else ".png"


def _store(place: Folder, data: bytes, suffix: str) -> str:
    name = f"{_PICTURES}/{hashlib.sha256(data).hexdigest()[:24]}{suffix}"
    place.atomic_write(name, data)
    return name


def _unreadable(error: ImageError) -> str:
    return f"<p>cannot be read any more: {escape(str(error.code))}</p>"


def _card(image: Row, rows: list[Row], figure: str, pictures: tuple[str, ...]) -> _Card:
    scores: dict[int, list[float]] = {}
    for row in rows:
        scores.setdefault(row["category_id"], []).append(row[SCORE])
    names = {row["category_id"]: row["label"] for row in rows}
    chips = "".join(
        f'<span class="chip">{_swatch(label)}{escape(names[label])} '
        f"<small>{_scores(values)}</small></span>"
        for label, values in sorted(scores.items(), key=lambda item: (-max(item[1]), item[0]))
    )
    doubt = image["review_priority"]
    html = (
        f'<article data-labels="{" ".join(map(str, sorted(scores)))}"><figure>{figure}</figure>'
        f"<section><h2>{escape(image['path'])}</h2>"
        f'<div class="doubt">doubt <div class="bar"><span style="width:{doubt:.0%}"></span></div>'
        f" {doubt:.2f}</div>"
        f'<div class="labels">{chips or "<small>no masks</small>"}</div></section></article>'
    )
    return _Card(html, frozenset(scores), pictures)


def _scores(values: list[float]) -> str:
    best = f"{max(values):.2f}"
    return best if len(values) == 1 else f"{len(values)} × ≤ {best}"


def _swatch(label: int) -> str:
    return f'<i style="background:{hex_colour(label)}"></i>'


def _page(finished: RunReader, cards: list[_Card]) -> str:
    job = finished.run.info.job()
    counts = Counter(label for card in cards for label in card.labels)
    chips = "\n".join(
        f'<button data-label="{label}" aria-pressed="false">{_swatch(label)}{escape(name)} '
        f"<small>{counts[label]}</small></button>"
        for label, name in enumerate(job.vocabulary.names, start=1)
        if counts[label]
    )
    folder = Path(__file__).parent
    # The look is that of the review page; the rest of the page's style is its own.
    look = folder.parent / "review" / "static" / "look.css"
    script = (folder / "gallery.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((folder / "gallery.html").read_text(encoding="utf-8")).substitute(
        title=f"Review of {escape(job.method.name)}",
        summary=f"{len(cards)} of {finished.num_images} images, the most doubtful first. "
        "Point at an image to see it without its masks; click a label to see only its images.",
        chips=chips,
        cards="\n".join(card.html for card in cards),
        notes=" ".join(_notes(finished, len(cards))),
        style=look.read_text(encoding="utf-8"),
        script=script,
        script_hash=digest,
    )


def _notes(finished: RunReader, num_shown: int) -> Iterator[str]:
    yield (
        "Doubt grows with every mask that is probably bad: improbable, near to another label, "
        "spread over many or a speck; without masks, with the highest probability that any label "
        "reached. The number at a label is its mean probability under the mask."
    )
    if num_shown < finished.num_images:
        yield f"{finished.num_images - num_shown} less doubtful images are left out."
    if finished.errors:
        codes = ", ".join(f"{code} {count}" for code, count in finished.errors.items())
        yield f"Failed: {escape(codes)}."
    if finished.num_left:
        yield f"{finished.num_left} images are not annotated yet."
