"""Mistakes that pydantic finds, in words."""

import pytest
from pydantic import Field, ValidationError, field_validator

from schemas.base import Frozen, did_you_mean, dotted_fields, problems, validated
from schemas.errors import ConfigError


class Inner(Frozen):
    size_px: int = Field(3, gt=0)
    """Side."""
    kind: str = "a"


class Outer(Frozen):
    inner: Inner = Inner()
    several: tuple[Inner, ...] = Field((), min_length=1, validate_default=False)
    path: str
    share: float = 0.5

    @field_validator("path")
    @classmethod
    def _ends(cls, value: str) -> str:
        if not value.endswith(".x"):
            raise ValueError("expected a path that ends in .x")
        return value


class Described(Frozen):
    folder: str
    """The folder of the maps. It is not written to."""


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({}, ["path: missing; give --path"]),
        ({"path": "a.y"}, ["path: expected a path that ends in .x, got 'a.y'"]),
        ({"path": 7}, ["path: expected a text, got 7; quote yes, no, on, off and numbers in YAML"]),
        ({"path": "a.x", "inner": 3}, ["inner: expected `key: value` pairs, got 3"]),
        ({"path": "a.x", "several": 3}, ["several: expected a list, got 3"]),
        ({"path": "a.x", "size_px": 3}, ["size_px: unknown key; did you mean 'inner.size_px'?"]),
        ({"path": "a.x", "zzz": 3}, ["zzz: unknown key; known here: inner, several, path, share"]),
        (
            {"path": "a.x", "inner": {"size_px": 0, "knd": 1}},
            [
                "inner.size_px: expected a number greater than 0, got 0",
                "inner.knd: unknown key; did you mean 'inner.kind'?",
            ],
        ),
        (
            {"path": "a.x", "several": [{"sise_px": 1}]},
            ["several.0.sise_px: unknown key; did you mean 'several.*.size_px'?"],
        ),
        ({"path": "a.x", "share": "half"}, ["share: expected a valid number, got 'half'"]),
        (
            {"path": "a.x", "share": "1" * 50 + "x" * 50},
            [f"share: expected a valid number, got '{'1' * 50}{'x' * 6}..."],
        ),
    ],
)
def test_each_mistake_is_one_line(values, lines):
    with pytest.raises(ConfigError) as caught:
        validated(Outer, values, hints={"path": "give --path"})
    assert str(caught.value).splitlines() == lines


def test_what_is_missing_is_said_by_the_fields_own_words():
    with pytest.raises(ConfigError, match=r"^a\.folder: missing; expected a value: The folder of"):
        validated(Described, {}, "a")


def test_dotted_path_of_the_model_stands_before_the_fields():
    with pytest.raises(ConfigError) as caught:
        validated(Inner, {"sise_px": 1}, "a.options")
    assert str(caught.value) == "a.options.sise_px: unknown key; did you mean 'a.options.size_px'?"


def test_unlike_option_of_a_deep_model_gets_the_list_of_keys():
    with pytest.raises(ConfigError) as caught:
        validated(Inner, {"foo": 1}, "method.options.objectness.options")
    where = "method.options.objectness.options.foo"
    assert str(caught.value) == f"{where}: unknown key; known here: size_px, kind"


def test_problems_without_the_model_have_no_suggestion():
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({"sise_px": 1})
    assert problems(caught.value) == ["sise_px: unknown key"]


def test_dotted_fields_enter_models_and_lists_of_models():
    assert [path for path, _ in dotted_fields(Outer, "x.")] == [
        "x.inner",
        "x.inner.size_px",
        "x.inner.kind",
        "x.several",
        "x.several.*.size_px",
        "x.several.*.kind",
        "x.path",
        "x.share",
    ]


def test_did_you_mean_names_near_words_or_lists_the_known_ones():
    assert did_you_mean("fuond", ["found", "dinoiser"]) == "Did you mean 'found'?"
    assert did_you_mean("zzz", ["found", "dinoiser"]) == "known: found, dinoiser"
    assert did_you_mean("zzz", [str(n) for n in range(30)]).endswith("18, 19, ...")


def test_former_name_of_an_option_is_answered_by_todays():
    class Options(Frozen):
        side_px: int = 0
        top_k_labels: int = 0

    with pytest.raises(ConfigError, match=r"^o\.presence_top: .* called 'top_k_labels' now$"):
        validated(Options, {"presence_top": 3}, "o")
    with pytest.raises(ConfigError, match=r"^o\.sure: unknown key; known here: side_px, top_k"):
        validated(Options, {"sure": 3}, "o")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NACLIP", "Did you mean 'naclip'?"),
        ("Clip-DIY", "Did you mean 'clip_diy'?"),
        ("clipdiy", "Did you mean 'clip_diy'?"),
        ("clip_dyi", "Did you mean 'clip_diy' or"),
        ("zzz", "known: clip_diy, naclip"),
    ],
)
def test_names_are_suggested_in_any_case_and_spelling(name: str, expected: str) -> None:
    assert did_you_mean(name, ["clip_diy", "naclip"]).startswith(expected)
