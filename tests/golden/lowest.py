"""The oldest versions that `pyproject.toml` allows of the libraries that can change a score.

    python -m tests.golden.lowest

prints requirements for pip: these libraries at their lower bounds, all others as they are allowed.
`make test-lowest` installs them and runs the golden tests, so a bound is a version that passed.
"""

import re
import tomllib
from pathlib import Path

from pipeline.annotate.versions import COMPARED

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
ALSO = ("numpy", "torchvision", "scipy", "scikit-learn")
"""Libraries that compute but whose versions are not compared on resume."""
TOOLS = ("pytest", "pytest-timeout", "hypothesis")


def lower_bounds() -> dict[str, str]:
    """The lower bound of each library that can change a score; the one place is pyproject."""
    bounds = dict(_split(one) for one in _project()["dependencies"])
    return {name: bounds[name] for name in (*COMPARED, *ALSO) if name in bounds}


def requirements() -> list[str]:
    """Lines for `pip install -r`."""
    project, lowest = _project(), lower_bounds()
    tools = [one for one in project["optional-dependencies"]["dev"] if _name(one) in TOOLS]
    others = [one for one in project["dependencies"] if _name(one) not in lowest]
    return [*(f"{name}=={bound}" for name, bound in lowest.items()), *others, *tools]


def _project() -> dict:
    return tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]


def _split(requirement: str) -> tuple[str, str]:
    name, bound = re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", requirement).groups()
    return name, bound


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement).group()


if __name__ == "__main__":
    print("\n".join(requirements()))  # noqa: T201 - the Makefile reads it
