"""COCO: `instances.json` with corrected masks, as RLE or polygons, alone or packed.

COCO does not say which images were reviewed: those with masks count, and those with a true mark
`checked`, `reviewed`, `verified` or `empty` beside their name. It does not hold the time spent.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ovseg_core.rle import coco_segmentation
from ovseg_core.rle.coco_segmentation import parse_id
from pipeline.importers.shared.archives import unpack
from pipeline.importers.shared.notes import NoteKind, Notes, in_words
from pipeline.importers.shared.tool_file import (
    CHECKED_MARKS,
    STRUCTURE_ERRORS,
    ToolImage,
    ToolMask,
    check_name,
    frame_of_polygons,
    masks_to_read,
    noted,
    objects,
    parse_json,
    problem_of,
    read_all,
    read_corners,
)
from schemas.errors import UserError
from schemas.untrusted import MAX_PIXELS

Entry = dict[str, Any]
_KEYS = ("images", "annotations", "categories")


def read(data: bytes, notes: Notes, max_px: int = MAX_PIXELS) -> Iterator[ToolImage]:
    """Yield the file's images.

    Args:
        data: the file.
        notes: get the entries that cannot be read, and masks of images that the file lacks.
        max_px: masks of larger images are not read.

    Raises:
        UserError: not a COCO file, or none of its masks belongs to one of its images.
    """
    dataset = parse_json(unpack(data, ".json"), dict, "COCO's instances.json")
    del data
    missing = [key for key in _KEYS if key not in dataset]
    if missing:
        raise UserError(
            f"this is not a COCO file of images and segments: {', '.join(missing)} missing"
        )
    wrong = [key for key in _KEYS if not isinstance(dataset[key], list)]
    if wrong:
        raise UserError(f"the COCO file cannot be read: expected a list of {wrong[0]}")
    yield from read_dataset(dataset, notes, max_px)


def read_dataset(dataset: Entry, notes: Notes, max_px: int) -> Iterator[ToolImage]:
    """Yield the images of a parsed file; its lists are emptied on the way.

    Raises:
        UserError: none of its masks belongs to one of its images.
    """
    names: dict[str, str] = {}
    for category in objects(dataset["categories"], "category", notes):
        with noted(notes, f"category {_id_of(category)}"):
            names[parse_id(category["id"])] = check_name(category["name"])
    notes.listed_labels |= set(names.values())
    images: list[tuple[str, Entry]] = []
    for image in objects(dataset["images"], "image", notes):
        with noted(notes, f"image {_name_of(image)}"):
            images.append((parse_id(image["id"]), image))
    by_image = _annotations_by_image(dataset["annotations"], {key for key, _ in images}, notes)
    del dataset  # a million masks are gigabytes: none is kept longer than needed
    ids = {(key, str(image.get("file_name"))) for key, image in images}
    names_of_id = Counter(key for key, _ in ids)
    for key, image in images:
        with noted(notes, str(image.get("file_name", f"image {key}"))):
            if names_of_id[key] > 1:
                raise ValueError(f"{names_of_id[key]} images have the id {key}")
            yield _image(image, by_image.pop(key, []), names, notes, max_px)


def _annotations_by_image(
    annotations: list[Any], known: set[str], notes: Notes
) -> dict[str, list[Entry]]:
    by_image: dict[str, list[Entry]] = {}
    for annotation in objects(annotations, "annotation", notes, NoteKind.DROPPED_MASKS):
        try:
            by_image.setdefault(parse_id(annotation["image_id"]), []).append(annotation)
        except STRUCTURE_ERRORS as error:
            notes.add(
                NoteKind.DROPPED_MASKS, f"annotation {_id_of(annotation)}: {problem_of(error)}"
            )
    if annotations and not by_image:
        first = notes.report()[NoteKind.DROPPED_MASKS].first[0]
        raise UserError(f"no annotation of the COCO file can be read: {first}")
    unknown = [key for key in by_image if key not in known]
    if unknown and len(unknown) == len(by_image):
        raise UserError(
            "the masks of the COCO file belong to images that it does not have, for example "
            f"image_id {unknown[0]}{in_words(notes)}"
        )
    for key in unknown:
        entries = by_image.pop(key)
        name = f"annotation {_id_of(entries[0])}: the file has no image with the id {key}"
        notes.add(NoteKind.DROPPED_MASKS, name, len(entries))
    return by_image


def _image(
    image: Entry, annotations: list[Entry], names: dict[str, str], notes: Notes, max_px: int
) -> ToolImage:
    stated_hw = coco_segmentation.parse_size_hw(image["height"], image["width"])
    extra = image.get("extra")
    original = extra.get("name") if isinstance(extra, dict) else None  # Roboflow's
    given = (image.get("path"), image["file_name"], original)
    file_names = tuple(dict.fromkeys(check_name(name) for name in given if name))
    all_masks = [entry for entry in annotations if entry.get("segmentation")]
    with_mask = masks_to_read(all_masks, stated_hw, max_px)
    drawn = read_all(_polygons, with_mask)
    size_hw = frame_of_polygons([one for polygons in drawn for one in polygons], stated_hw)
    pairs = list(zip(with_mask, drawn, strict=True))
    masks = read_all(lambda pair: _mask(pair[0], pair[1], names, size_hw), pairs)
    for entry in with_mask:
        _note_parts(entry, file_names[0], notes)
    return ToolImage(
        names=file_names,
        size_hw=size_hw,
        masks=tuple(masks),
        num_left_out=len(annotations) - len(all_masks),
        is_checked=any(image.get(mark) is True for mark in CHECKED_MARKS),
        frame_note="" if size_hw == stated_hw else "its polygons lie in the turned frame",
        absent=_labels_of(image.get("neg_category_ids"), names),
        not_exhaustive=_labels_of(image.get("not_exhaustive_category_ids"), names) or frozenset(),
    )


def _labels_of(ids: Any, names: dict[str, str]) -> frozenset[str] | None:
    """Return the labels of one of LVIS's lists; None: the image has no such list."""
    if not isinstance(ids, list):
        return None
    keys = [parse_id(key) for key in ids if isinstance(key, int | str)]
    return frozenset(names[key] for key in keys if key in names)


def _polygons(entry: Entry) -> list[Any]:
    """Return an annotation's polygons as corners (N, 2); none of a mask in run lengths.

    Raises:
        ValueError: none of the polygons encloses anything.
    """
    if not isinstance(entry["segmentation"], list):
        return []
    try:
        if not any(isinstance(part, list) for part in entry["segmentation"]):
            raise ValueError("expected a list of polygons, got a flat list of numbers")
        parts = [part for part in entry["segmentation"] if not _is_flat(part)]
        return [read_corners(part) for part in parts or entry["segmentation"]]
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"annotation {_id_of(entry)}: {problem_of(error)}") from error


def _is_flat(part: Any) -> bool:
    return isinstance(part, list) and len(part) in (0, 2, 4)


def _note_parts(entry: Entry, name: str, notes: Notes) -> None:
    """Note the parts of one or two corners of a polygon that has others."""
    if isinstance(entry["segmentation"], list):
        count = sum(map(_is_flat, entry["segmentation"]))
        if count:
            text = f"{name}: parts of fewer than three corners in annotation {_id_of(entry)}"
            notes.add(NoteKind.DROPPED_MASKS, text, count)


def _mask(
    entry: Entry, polygons: list[Any], names: dict[str, str], size_hw: tuple[int, int]
) -> ToolMask:
    try:
        key = parse_id(entry["category_id"])
        if key not in names:
            raise ValueError(f"the file has no category with the id {key}")
        segmentation = [one.ravel().tolist() for one in polygons] or entry["segmentation"]
        counts = coco_segmentation.compress_segmentation(segmentation, size_hw)
    except STRUCTURE_ERRORS as error:
        raise ValueError(f"annotation {_id_of(entry)}: {problem_of(error)}") from error
    is_crowd = bool(entry.get("iscrowd"))
    area_px = _area(entry.get("area"))
    return ToolMask(names[key], size_hw, counts, _origin(entry), bool(polygons), is_crowd, area_px)


def _area(value: Any) -> float | None:
    """Return an annotation's own number of pixels; None: it has none that can be used."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= MAX_PIXELS else None


def _origin(entry: Entry) -> int | None:
    """Return the run's segment as our exporter wrote it, if the tool kept the attribute."""
    attributes = entry.get("attributes")
    if isinstance(attributes, dict):
        for key in ("part_of", "segment_index"):
            value = str(attributes.get(key)).removesuffix(".0")
            if value.isdecimal():
                return int(value)
    return None


def _name_of(image: Any) -> str:
    name = image.get("file_name") if isinstance(image, dict) else None
    return str(name) if name else _id_of(image)


def _id_of(entry: Any) -> str:
    given = entry.get("id", "without an id") if isinstance(entry, dict) else entry
    return str(given) if isinstance(given, str | int | float) else f"a {type(given).__name__}"
