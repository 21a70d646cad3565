"""Plug-ins found by their file's name, and plug-ins nested in the options of others."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError

PART = '''
from pydantic import PositiveInt
from schemas.base import Frozen

class Options(Frozen):
    size_px: PositiveInt = 3
    """Size."""
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "plugins_under_test"
    folder.mkdir()
    for name in ("round", "square", "_shared", "__init__"):
        (folder / f"{name}.py").write_text(PART)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_names_are_those_of_public_files(package: str) -> None:
    assert plugins.names(package) == ("round", "square")
    assert plugins.load_plugin(package, "round").__name__ == f"{package}.round"


def test_load_of_an_unknown_name_suggests_a_near_one(package: str) -> None:
    with pytest.raises(ConfigError, match=r"no 'sqare' among the .*Did you mean 'square'\?"):
        plugins.load_plugin(package, "sqare")
    with pytest.raises(ConfigError, match=r"known: round, square"):
        plugins.load_plugin(package, "zzz")


def test_load_refuses_a_private_file(package: str) -> None:
    with pytest.raises(ConfigError, match="no '_shared'"):
        plugins.load_plugin(package, "_shared")


def test_read_options_checks_by_the_plug_ins_model(package: str) -> None:
    def read(options: dict) -> object:
        part = NamedOptions(name="round", options=options)
        return plugins.read_options(package, part, "method").size_px

    assert read({}) == 3
    assert read({"size_px": 7}) == 7
    with pytest.raises(ConfigError) as caught:
        read({"size": 1, "size_px": -2})
    lines = str(caught.value).splitlines()
    assert lines == [
        "method.options.size_px: expected a number greater than 0, got -2",
        "method.options.size: unknown key; did you mean 'method.options.size_px'?",
    ]


OUTER = '''
from typing import Annotated
from schemas import plugins
from schemas.config import ConfigModel, NamedOptions

class Options(ConfigModel):
    part: Annotated[NamedOptions, plugins.Nested("plugins_under_test")] = NamedOptions(name="round")
    """A nested plug-in."""
'''


@pytest.fixture
def outer_package(package: str, tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "outer_plugins_under_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "holder.py").write_text(OUTER)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_read_nested_options_finds_plug_ins_by_their_mark(outer_package: str) -> None:
    holder = NamedOptions(name="holder", options={"part": {"name": "square"}})
    outer, inner = plugins.read_nested_options(outer_package, holder, "method")
    assert (outer.where, inner.where) == ("method", "method.options.part")
    assert inner.options.size_px == 3


def test_read_options_checks_nested_plug_ins(outer_package: str) -> None:
    def read(part: object) -> None:
        holder = NamedOptions(name="holder", options={"part": part})
        plugins.read_options(outer_package, holder, "method")

    read("square")
    with pytest.raises(ConfigError, match=r"method\.options\.part\.options\.size_px: expected"):
        read({"name": "square", "options": {"size_px": -1}})
    with pytest.raises(ConfigError, match="no 'sqare' among"):
        read("sqare")


def test_nested_options_without_a_name_keep_the_default_plug_in(outer_package: str) -> None:
    holder = NamedOptions(name="holder", options={"part": {"options": {"size_px": 7}}})
    outer, inner = plugins.read_nested_options(outer_package, holder, "method")
    assert outer.options.part.name == "round"
    assert inner.options.size_px == 7


def test_option_models_are_those_of_all_nested_plug_ins(outer_package: str) -> None:
    found = plugins.option_models(outer_package, "holder", "method")
    assert [(where, name) for where, name, _ in found] == [
        ("method", "holder"),
        ("method.options.part", "round"),
        ("method.options.part", "square"),
    ]
