"""What every proposer does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_core import proposals
from ovseg_core.images.batch import ImageBatch
from ovseg_core.proposals import Proposer, build_proposer
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from tests.helpers.tiny_models import random_image, tiny_backbones
from tests.helpers.tiny_sams import write_sam

NAMES = plugins.names(proposals.PACKAGE)
PATHS = ("a.jpg", "b/c.jpg", "b/d.x.png", "e.webp")
SIZES = ((45, 60), (60, 45), (45, 60), (1, 3))


@pytest.fixture(params=NAMES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="module")
def proposer(name: str, sam: str, tmp_path_factory: pytest.TempPathFactory) -> Proposer:
    options = {}
    if name == "folder":
        options = {"folder": str(_write_maps(tmp_path_factory.mktemp("folder")))}
    elif name == "superpixels":
        pytest.importorskip("skimage", reason="the extra `superpixels` is not installed")
    elif name == "sam":
        options = {"weights": sam, "min_predicted_iou": 0.0, "stability_offset": 1e-4}
    built = build_proposer(NamedOptions(name=name, options=options), tiny_backbones())
    if built is None:
        assert name == "none"
        pytest.skip("the proposer `none` finds nothing: methods are built without it")
    return built


def _write_maps(folder: Path) -> Path:
    for number, (path, size) in enumerate(zip(PATHS, SIZES, strict=True)):
        file = (folder / path).with_suffix(".png")
        file.parent.mkdir(exist_ok=True)
        index = np.random.default_rng(number).integers(0, 5, size, np.uint8)
        Image.fromarray(index).save(file)
    return folder


def _batch() -> ImageBatch:
    return ImageBatch(tuple(random_image(n, *size) for n, size in enumerate(SIZES)), PATHS)


def test_proposals_have_masks_of_the_images_aspect_and_scores(proposer: Proposer) -> None:
    images = _batch()
    found = proposer.proposals(images)
    assert len(found) == len(images)
    assert any(len(one) for one in found)
    for one, image in zip(found, images, strict=True):
        height, width = one.masks_Nhw.shape[1:]
        assert abs(height / width - image.shape[1] / image.shape[2]) < 0.1
        assert one.masks_Nhw.is_floating_point()
        assert one.masks_Nhw.isfinite().all()
        assert one.scores_N.dtype == torch.float32
        assert ((one.scores_N >= 0) & (one.scores_N <= 1)).all()
        assert one.probs_NK is None
        regions = one.region_map()
        assert -1 <= int(regions.min()) <= int(regions.max()) < max(len(one), 1)


def test_batch_equals_single_images(proposer: Proposer) -> None:
    images = _batch()
    together = proposer.proposals(images)
    for index in range(len(images)):
        (alone,) = proposer.proposals(images[index : index + 1])
        torch.testing.assert_close(together[index].scores_N, alone.scores_N, atol=1e-4, rtol=0)
        torch.testing.assert_close(together[index].masks_Nhw, alone.masks_Nhw, atol=2e-2, rtol=1e-2)


def test_proposals_are_deterministic(proposer: Proposer) -> None:
    pairs = zip(proposer.proposals(_batch()), proposer.proposals(_batch()), strict=True)
    for one, other in pairs:
        assert torch.equal(one.masks_Nhw, other.masks_Nhw)
        assert torch.equal(one.scores_N, other.scores_N)


def test_a_plain_image_has_finite_masks_or_none(proposer: Proposer) -> None:
    plain = tuple(torch.full((3, *size), 128, dtype=torch.uint8) for size in SIZES[:2])
    for one in proposer.proposals(ImageBatch(plain, PATHS[:2])):
        assert one.masks_Nhw.isfinite().all()
        assert one.enlarged((7, 9)).shape == (len(one), 7, 9)


def test_unknown_options_are_refused(name: str) -> None:
    part = NamedOptions(name=name, options={"no_such_thing": 1})
    with pytest.raises(ConfigError, match=r"proposals\.options\.no_such_thing: unknown key"):
        plugins.read_options(proposals.PACKAGE, part, "proposals")


def test_every_option_has_a_description(name: str) -> None:
    fields = plugins.load_plugin(proposals.PACKAGE, name).Options.model_fields
    assert all(field.description for field in fields.values())
