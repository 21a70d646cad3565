"""Evaluation protocols as data."""

import pytest
from pydantic import ValidationError

from schemas.protocol import BenchmarkProtocol, PixelValues, TruthInstances, TruthMaps

PLAIN = {
    "title": "Two things",
    "benchmark": "Two",
    "num_images": 3,
    "images": [{"folder": "photos", "ending": ".jpg"}],
    "truth": [{"folder": ["a", "b"], "ending": ".png", "values": {"labels": ["1..2"]}}],
    "classes": ["red cat", "dog"],
    "recipes": [
        {"methods": ["naclip"], "remove_spaces": True},
        {"methods": ["sclip"], "words": {"dog": ["hound", "dog"]}, "options": {"logit_scale": 9}},
    ],
}


def with_background(**changes: object) -> dict:
    values = {"labels": ["1..2"], "background": [0], "ignored": [255]}
    truth = [{"folder": "a", "ending": ".png", "values": values}]
    return {**PLAIN, "truth": truth, "background": ["background"], **changes}


def test_ranges_are_expanded():
    values = PixelValues.model_validate({"labels": ["3..5", 1, "7..7"], "ignored": [0, "200..202"]})
    assert values.labels == (3, 4, 5, 1, 7)
    assert values.ignored == (0, 200, 201, 202)


def test_recipe_gives_the_phrases_of_a_method():
    protocol = BenchmarkProtocol.model_validate(PLAIN)
    phrases = {
        method: [label.phrases for label in protocol.labels(protocol.recipe(method))]
        for method in ("naclip", "sclip", "maskclip")
    }
    assert phrases == {
        "naclip": [("redcat",), ("dog",)],
        "sclip": [("red cat",), ("hound", "dog")],
        "maskclip": [("red cat",), ("dog",)],
    }
    assert protocol.recipe("sclip").options == {"logit_scale": 9}
    assert protocol.recipe("maskclip").options == {}
    assert not protocol.has_background


def test_background_phrases_are_the_protocols_unless_a_recipe_has_its_own():
    recipes = [{"methods": ["sclip"], "background": ["sky", "wall"]}]
    protocol = BenchmarkProtocol.model_validate(with_background(recipes=recipes))
    assert protocol.has_background
    assert protocol.background_of(protocol.recipe("sclip")) == ("sky", "wall")
    assert protocol.background_of(protocol.recipe("naclip")) == ("background",)


def test_truths_are_maps_or_instances():
    maps = PLAIN["truth"][0]
    protocol = BenchmarkProtocol.model_validate(
        with_background(truth=[{"instances": "i.json"}, maps])
    )
    assert isinstance(protocol.truth[0], TruthInstances)
    assert isinstance(protocol.truth[1], TruthMaps)
    assert protocol.truth[1].folder == ("a", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**PLAIN, "clases": ["a"]}, "clases"),
        ({**PLAIN, "classes": ["one"]}, "a value for each of the 1 classes, got 2"),
        (
            {**PLAIN, "recipes": [{"methods": ["a"], "words": {"cow": "ox"}}]},
            "unknown classes: cow",
        ),
        ({**PLAIN, "recipes": [{"methods": ["a", "b"]}, {"methods": ["b"]}]}, "two recipes: b"),
        ({**PLAIN, "recipes": [{"methods": ["a"], "background": ["sky"]}]}, "background phrases"),
        ({**PLAIN, "truth": with_background()["truth"]}, "background is not a class"),
        ({**PLAIN, "truth": [{"instances": "i.json"}]}, "expected a protocol with background"),
        ({**PLAIN, "figures": [{"source": "S", "iou": {"cow": 3.0}}]}, "unknown classes: cow"),
        (with_background(recipes=[{"methods": ["a"], "background": []}]), "background phrases"),
    ],
)
def test_contradictions_are_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        BenchmarkProtocol.model_validate(content)


@pytest.mark.parametrize(
    "values", [{"labels": [1, "0..1"]}, {"labels": [256]}, {"labels": [-1]}, {"labels": ["1-2"]}]
)
def test_wrong_pixel_values_are_refused(values):
    with pytest.raises(ValidationError):
        PixelValues.model_validate(values)
