import colorsys
from itertools import combinations

import pytest

from ovseg_core.images.label_colours import css_colour, label_colours


def test_colours_are_distinct_and_stable():
    names = [f"label {number}" for number in range(60)]
    colours = label_colours(names)
    assert len(set(colours)) == 60
    assert colours[:7] == label_colours(names[:7]), "later labels change nothing"
    assert css_colour(colours[0]) == "#e6194b"


@pytest.mark.parametrize(
    ("name", "hue"), [("purple solid star", 0.78), ("a Red car", 0.99), ("GREEN apple", 0.36)]
)
def test_a_colour_does_not_contradict_the_name(name, hue):
    for _, colour in zip(range(3), label_colours(["cat", name, name + " 2"])[1:], strict=False):
        assert colorsys.rgb_to_hsv(*(part / 255 for part in colour))[0] == pytest.approx(
            hue, abs=0.04
        )


@pytest.mark.parametrize(
    ("word", "least"),
    [
        *(("red", 25), ("orange", 25), ("yellow", 20), ("green", 18), ("cyan", 25)),
        *(("turquoise", 25), ("teal", 18), ("blue", 25), ("navy", 11), ("purple", 20)),
        *(("violet", 25), ("magenta", 25), ("pink", 18), ("brown", 14), ("beige", 10)),
        *(("gold", 25), ("white", 13), ("silver", 13), ("grey", 13), ("gray", 13), ("black", 13)),
    ],
)
def test_labels_of_one_colour_have_shades(word: str, least: int):
    colours = label_colours([f"{word} shape {number}" for number in range(15)])
    assert len(set(colours)) == 15
    for one, other in combinations(colours[:10], 2):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > least


@pytest.mark.parametrize(("word", "least"), [("white", 120), ("silver", 90)])
def test_pale_words_have_no_dark_shades(word: str, least: int):
    colours = label_colours([f"{word} shape {number}" for number in range(9)])
    assert min(map(min, colours)) > least
    assert max(map(max, label_colours([f"black shape {n}" for n in range(9)]))) < 150
