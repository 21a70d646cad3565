import importlib.util

import pytest

from benchmarks import __main__ as command


def test_an_unknown_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["enkode"]) == 2
    assert "unknown benchmark ['enkode']; there are decision, " in capsys.readouterr().err


def test_every_listed_benchmark_exists_once() -> None:
    names = [*command.QUICK, *command.LONG]
    assert len(names) == len(set(names))
    assert all(importlib.util.find_spec(f"benchmarks.{name}") for name in names)
