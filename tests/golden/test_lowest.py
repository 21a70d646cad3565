"""Every library that can change a score has a lower bound, and `make test-lowest` installs it."""

from importlib import metadata

import pytest

from pipeline.run.versions import COMPARED, installed_versions
from tests.golden.lowest import ALSO, lower_bounds, requirements

WITHOUT_BOUND = {"ovseg", "diffusers"}
"""Ourselves, and an extra that no golden test needs."""


@pytest.mark.parametrize("name", [*COMPARED, *ALSO])
def test_a_library_that_can_change_a_score_has_a_tested_lower_bound(name: str) -> None:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        assert name in installed_versions(), "neither a package nor a library inside Pillow"
        return
    if name not in WITHOUT_BOUND:
        assert f"{name}=={lower_bounds()[name]}" in requirements()
