"""Parts found by file name."""

import sys
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
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "parts_under_test"
    folder.mkdir()
    for name in ("round", "square", "_shared", "__init__"):
        (folder / f"{name}.py").write_text(PART)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_every_public_file_is_a_part(package: str) -> None:
    assert plugins.names(package) == ("round", "square")
    assert plugins.load(package, "round").__name__ == f"{package}.round"


def test_an_unknown_part_gets_a_near_name(package: str) -> None:
    with pytest.raises(ConfigError, match=r"no 'sqare' among the .*Did you mean 'square'\?"):
        plugins.load(package, "sqare")
    with pytest.raises(ConfigError, match=r"known: round, square"):
        plugins.load(package, "zzz")


def test_a_private_file_is_no_part(package: str) -> None:
    with pytest.raises(ConfigError, match="no '_shared'"):
        plugins.load(package, "_shared")


def test_options_are_checked_by_the_part(package: str) -> None:
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
