"""What reading tools' files needs: JSON, polygons, notes of unreadable entries."""

import math

import pytest

from pipeline.importers.shared.notes import Note, NoteKind, Notes
from pipeline.importers.shared.tool_file import (
    check_name,
    frame_of_polygons,
    noted,
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
