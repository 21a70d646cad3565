"""Superpixels: partitions of an image along its edges."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from ovseg_core.decision.refine.region_vote import majority_labels
from ovseg_core.images.batch import Image
from ovseg_core.proposals import build_proposer
from ovseg_core.proposals.superpixels import Options, Superpixels, divided
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones

CPU = torch.device("cpu")
ALGORITHMS = ("felzenszwalb", "slic")


@pytest.fixture(autouse=True, scope="module")
def library() -> Any:
    return pytest.importorskip("skimage", reason="the extra `superpixels` is not installed")


def disc(height: int, width: int) -> tuple[Image, torch.Tensor]:
    """A red disc on a grey ground with noise, and where it is."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (y - height * 0.55) ** 2 + (x - width * 0.4) ** 2 < (height * 0.3) ** 2
    colours = torch.tensor([[120, 125, 130], [200, 40, 30]], dtype=torch.float32)
    noise = torch.randn((3, height, width), generator=torch.Generator().manual_seed(0)) * 4
    image = colours[inside.int()].permute(2, 0, 1) + noise
    return image.clamp(0, 255).to(torch.uint8), inside


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_pixel_is_in_one_region_of_limited_size(algorithm: Any) -> None:
    proposer = Superpixels(Options(algorithm=algorithm, max_area=0.05), CPU)
    images = [disc(96, 128)[0], random_image(1, 60, 45)]
    for image, found in zip(images, proposer.proposals(images), strict=True):
        regions = found.region_map()
        assert regions.shape == image.shape[1:]
        assert regions.unique().tolist() == list(range(len(found)))
        assert regions.flatten().bincount().max() <= 0.05 * regions.numel()
        assert (found.scores_N == 1).all()
        assert ((found.masks_Nhw > 0).sum(0) == 1).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_vote_moves_coarse_edges_to_edges_of_the_image(algorithm: Any) -> None:
    image, inside = disc(96, 128)
    blocks = inside.view(6, 16, 8, 16).float().mean((1, 3)) > 0.5
    coarse = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1).int()
    options = Options(algorithm=algorithm, min_area=5e-3, max_area=0.2, num_regions=100)
    (found,) = Superpixels(options, CPU).proposals([image])
    voted = majority_labels(coarse, found.region_map())
    wrong_before, wrong_after = (int((one != inside).sum()) for one in (coarse, voted))
    assert wrong_after < wrong_before / 2


def test_a_large_image_is_reduced_and_keeps_its_aspect() -> None:
    image, _ = disc(300, 120)
    (found,) = Superpixels(Options(max_side_px=100), CPU).proposals([image])
    assert found.region_map().shape == (100, 40)


def test_a_plain_image_is_divided_along_a_grid() -> None:
    plain = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    (found,) = Superpixels(Options(max_area=0.25), CPU).proposals([plain])
    assert found.region_map()[::39, ::59].tolist() == [[0, 1], [2, 3]]
    assert len(found) == 4


def test_images_of_a_few_pixels_have_superpixels() -> None:
    for algorithm in ALGORITHMS:
        proposer = Superpixels(Options(algorithm=algorithm), CPU)
        for size in ((1, 1), (1, 3), (5, 2)):
            (found,) = proposer.proposals([random_image(0, *size)])
            assert found.region_map().shape == size
            assert found.region_map().min() == 0


def test_only_large_regions_are_divided() -> None:
    regions = np.array([[0, 0, 0, 1], [0, 0, 0, 2]])
    assert divided(regions, 0.8) is regions
    assert divided(regions, 0.5).tolist() == [[0, 0, 1, 4], [2, 2, 3, 5]]


def test_a_missing_library_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)  # its import fails
    with pytest.raises(ConfigError, match=r"pip install 'ovseg\[superpixels\]'"):
        build_proposer(NamedOptions(name="superpixels"), tiny_backbones())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"algorithm": "watershed"}, "felzenszwalb"),
        ({"min_area": 0}, "min_area"),
        ({"num_regions": 5001}, "num_regions"),
    ],
)
def test_wrong_options_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_proposer(NamedOptions(name="superpixels", options=option), tiny_backbones())
