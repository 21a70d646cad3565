"""Names that climb; text from somebody else is shown as text, and obeyed by no terminal."""

import json
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.untrusted import (
    first_not_relative,
    is_relative_path,
    printable,
    printable_json,
)

CLIMBING = [
    *("..", "../a", "a/..", "a/../b", "a\n/../b", "..\\a", "a\\..\\b", "a/..\\b", "/etc/passwd"),
    *("\\server\\x", "C:/x", "c:\\x", "", ".", "a//b", "a/", "./a", "a/./b", "x\0y"),
]
HONEST = [
    *("a", "a/b.jpg", "...", "..a/b..", ".hidden/x", "a..b", "a\\b", "a:b", "x:1.png", "50%2F..x"),
    *("a/\n", "\n", "a/..\n", "猫/é ü.png", " ", "-rf", "~/x"),
]


@pytest.mark.parametrize("path", CLIMBING)
def test_a_name_that_climbs_is_no_path(path: str) -> None:
    assert not is_relative_path(path)


@pytest.mark.parametrize("path", HONEST)
def test_odd_names_that_stay_inside_are_paths(path: str) -> None:
    assert is_relative_path(path)


@given(st.lists(st.text(st.sampled_from("./\\C:a\n\0"), max_size=8), max_size=6))
def test_a_column_is_checked_as_each_of_its_texts(texts: list[str]) -> None:
    wrong = [text for text in texts if not is_relative_path(text)]
    column = pa.chunked_array([texts[:2], texts[2:]], pa.string())
    assert first_not_relative(column) == (wrong[0] if wrong else None)


ANY_TEXT = st.text(st.characters(), max_size=30)
"""Also with controls and with lone surrogates."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2J\x1b]0;title\x07b", r"a\x1b[2J\x1b]0;title\x07b"),
        ("cat.jpg\nerror: all is lost\r", r"cat.jpg\nerror: all is lost\r"),
        ("\x08\x7f\t", r"\x08\x7f\t"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\u2066a\u2069\u200e\u200f\u061c", r"\u2066a\u2069\u200e\u200f\u061c"),
        ("c\u200bat\u200d.jp\u200cg\ufeff\u00ad", r"c\u200bat\u200d.jp\u200cg\ufeff\xad"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("caf\udce9 \ud83d", r"caf\udce9 \ud83d"),
        ("a\U000e0063\U000e0061", r"a\U000e0063\U000e0061"),
        ("a\ufe0f\U000e0100", r"a\ufe0f\U000e0100"),
        ("\u3164\u115f\u034f", r"\u3164\u115f\u034f"),
    ],
)
def test_characters_that_act_or_hide_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "猫 10.41\u202fAM.jpg",  # a Mac's screenshot
        "café e\u0301 Ω ñ",
        "שלום قطة",
        "می\u200cخواهم क्\u200dष",
        "👩🏽\u200d💻 👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 ☀\ufe0f 1\ufe0f\u20e3",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "葛\U000e0100城",
        r"C:\new\x1b",
    ],
)
def test_text_of_every_script_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(ANY_TEXT)
def test_what_is_shown_can_be_sent_and_is_one_line(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in shown)
    assert printable(shown) == shown


@given(st.recursive(ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner)))
def test_json_holds_every_name_exactly_and_can_be_shown(value: object) -> None:
    text = printable_json(value)
    assert json.loads(text) == value
    assert all(printable(line) == line for line in text.split("\n"))


def test_json_keeps_letters_that_can_be_read() -> None:
    assert printable_json({"猫": "❤\ufe0f\x9b\x7f"}, None) == '{"猫": "❤\ufe0f\\u009b\\u007f"}'
