"""Which versions are part of a run, and that each has a lower bound that is tested."""

import pytest

from pipeline.annotate.versions import COMPARED, compared_versions, installed_versions
from tests.golden.lowest import ALSO, lower_bounds, requirements

OF_PILLOW = {"libjpeg", "libwebp", "libavif", "openjpeg", "littlecms2"}
WITHOUT_BOUND = {"ovseg", "diffusers", "scikit-image"}
"""Ourselves, and extras that no golden test needs."""


@pytest.mark.parametrize("name", sorted({*COMPARED, *ALSO} - OF_PILLOW - WITHOUT_BOUND))
def test_make_test_lowest_installs_the_lower_bound_of_every_compared_library(name: str) -> None:
    assert f"{name}=={lower_bounds()[name]}" in requirements()


def test_every_compared_library_is_recorded_in_full() -> None:
    installed = installed_versions()
    assert installed.keys() >= OF_PILLOW
    compared = compared_versions({"clip", "vision", "superpixels"})
    assert compared.keys() == COMPARED.keys() & installed.keys()
    assert all(installed[name].startswith(version) for name, version in compared.items())


def test_numbers_that_are_repairs_are_cut_off() -> None:
    compared = compared_versions({"clip", "vision"})
    assert compared["pillow"].count(".") == 1
    assert compared["libjpeg"].count(".") == 1
    assert compared["timm"].count(".") == 2


def test_timm_counts_only_beside_a_second_network() -> None:
    assert "timm" not in compared_versions({"clip"})
    assert "timm" not in compared_versions({"clip", "clip.activation"})
    assert compared_versions({"clip", "vision"})["timm"].count(".") == 2


def test_the_library_of_superpixels_counts_only_beside_superpixels() -> None:
    assert "scikit-image" not in compared_versions({"clip", "vision"})
    beside = compared_versions({"clip", "superpixels"})
    assert ("scikit-image" in beside) == ("scikit-image" in installed_versions())
    assert "timm" not in beside
