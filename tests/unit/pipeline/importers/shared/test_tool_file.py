"""What reading tools' files needs: JSON, polygons, notes of unreadable entries."""

import math

import pytest

from pipeline.importers.shared.notes import Note, NoteKind, Notes
from pipeline.importers.shared.tool_file import (
    MAX_MASKS,
    MAX_NAME_CHARACTERS,
    check_density,
    check_name,
    frame_of_polygons,
    masks_to_read,
    noted,
    objects,
    parse_json,
    polygon_pixels,
    read_all,
    read_corners,
)
from schemas.errors import UserError


def test_check_name_takes_texts_and_numbers():
    assert [check_name(value) for value in ("cat", 7, "half \ud83d")] == ["cat", "7", "half ?"]
    with pytest.raises(ValueError, match=r"expected a name, got \['cat'\]"):
        check_name(["cat"])


def test_parse_json_other_content_is_refused():
    assert parse_json(b"[1]", list, "a list") == [1]
    for data, message in ((b"x", "not JSON"), (b"{}", "got a JSON dict"), (b"[" * 10**5, "JSON")):
        with pytest.raises(UserError, match=f"expected a list, .*{message}"):
            parse_json(data, list, "a list")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("id"), "image 7: 'id' is missing"),
        (ValueError("too large"), "image 7: too large"),
        (TypeError("int"), "image 7: unexpected structure (int)"),
    ],
)
def test_noted_error_names_the_entry(error, message):
    notes = Notes()
    with noted(notes, "image 7"):
        raise error
    assert notes.report()[NoteKind.UNREADABLE] == Note(count=1, first=(message,))


def test_read_all_names_what_is_wrong_with_all_entries():
    assert read_all(int, ["1", "2"]) == [1, 2]
    with pytest.raises(ValueError, match=r"'a'.*; .*'b'.*; .*'c'; and 2 more"):
        read_all(int, ["a", "1", "b", "c", "d", "e"])


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([1, 1, 5, 5], "2 corners"), ([[1, 1], [5, 5]], "2 corners"), ([1, 2, 3], "expected a"),
        (7, "expected a"), ([0, 0, 1, math.nan, 1, 1], "in numbers"), (["a"] * 6, "a"),
    ],
)  # fmt: skip
def test_polygon_that_encloses_nothing_is_refused(corners, message):
    with pytest.raises(ValueError, match=message):
        read_corners(corners)


def test_polygon_pixels_fills_all_polygons():
    polygons = [
        read_corners([0, 0, 3, 0, 3, 2, 0, 2]),
        read_corners([[4, 2], [6, 2], [6, 4], [4, 4]]),
    ]
    filled = polygon_pixels(polygons, (4, 6))
    assert filled[:2, :3].all()
    assert filled[2:, 4:].all()
    assert filled.sum() == 10


def test_polygons_tell_a_frame_of_exchanged_sides():
    def frame(*corners: float) -> tuple[int, int]:
        return frame_of_polygons([read_corners(corners)], (40, 30))

    assert frame_of_polygons([], (40, 30)) == (40, 30)
    assert frame(0, 0, 29, 0, 29, 39) == (40, 30)
    assert frame(-1, 0, 31.5, 0, 29, 41) == (40, 30)  # a little outside is usual
    assert frame(0, 0, 39, 0, 39, 29) == (30, 40)
    with pytest.raises(ValueError, match="to 60, 80 in an image of 30 x 40"):
        frame(0, 0, 60, 0, 60, 80)


def test_names_longer_than_any_are_refused_and_shown_in_part():
    assert check_name("/" * MAX_NAME_CHARACTERS)
    with pytest.raises(ValueError, match="a name of 100000 characters") as caught:
        check_name("/" * 100_000)
    assert len(str(caught.value)) < 200
    notes = Notes()
    notes.add(NoteKind.UNREADABLE, "x" * 10**6)
    assert len(notes.report()[NoteKind.UNREADABLE].first[0]) < 400


def test_json_with_a_key_twice_is_refused():
    """The later one would count, without a word of the other."""
    with pytest.raises(UserError, match="the key 'images' 2 times"):
        parse_json(b'{"images": [1], "annotations": [], "images": []}', dict, "a file")


@pytest.mark.parametrize("begin", [b"[", b"{"])
def test_a_million_empty_entries_are_refused_before_they_are_made(begin):
    many = (begin + b"},") * (1 << 21)
    with pytest.raises(UserError, match="2097152 entries in 6291456 bytes"):
        check_density(many, b"[{")
    check_density(b'{"a": 1},' * (1 << 21), b"[{")
    check_density(many[:3000], b"[{")


def test_entries_that_are_no_objects_are_counted():
    notes = Notes()
    assert objects([{}, 7, "a", None, {"id": 1}], "image", notes) == [{}, {"id": 1}]
    note = notes.report()[NoteKind.UNREADABLE]
    assert (note.count, note.first) == (3, ("image 7: expected a JSON object, got int",))


def test_masks_of_too_many_or_too_large_are_not_read():
    assert masks_to_read([1, 2], (4, 5), 20) == [1, 2]
    assert masks_to_read([1, 2], (4, 5), 19) == ()
    with pytest.raises(ValueError, match="10001 masks, more than the 10000"):
        masks_to_read([1] * (MAX_MASKS + 1), (4, 5), 20)


@pytest.mark.parametrize("depth", [10, 900, *range(960, 1000, 3), 10**5])
def test_nested_json_is_read_or_refused(depth):
    notes = Notes()
    try:
        value = parse_json(b"[" * depth + b"]" * depth, list, "a list")
    except UserError:
        return
    with noted(notes, "image"):
        check_name(value)
    assert notes[NoteKind.UNREADABLE] == 1
