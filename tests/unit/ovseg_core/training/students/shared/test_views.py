"""Random views: labels follow pixels, crops avoid one label alone, large images are reduced."""

import numpy as np
import pytest
import torch

from ovseg_core.training.students import IGNORED, UNLABELLED
from ovseg_core.training.students.shared.views import ViewSteps, random_view

PLAIN = ViewSteps(size_px=48, max_side_px=1024, distort=False)


def squares(height: int = 120, width: int = 200) -> tuple[torch.Tensor, np.ndarray]:
    """An image whose red value is 40 times its label, in squares of 20 pixels."""
    rows, columns = np.mgrid[:height, :width] // 20
    labels = ((rows + 2 * columns) % 6).astype(np.int16)
    pixels = np.zeros((3, height, width), np.uint8)
    pixels[0] = 40 * labels
    return torch.from_numpy(pixels), labels


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(8))
def test_labels_follow_the_pixels(seed: int) -> None:
    """But for the edges, where bilinear pixels mix."""
    image, labels = squares()
    view = random_view(image, labels, labels[::-1].copy(), PLAIN, rng(seed))
    shown = view.labels != IGNORED
    red = view.pixels[0].float() / 40
    assert ((red.round() == view.labels) | ~shown).float().mean() > 0.8
    assert shown.any()
    assert (view.pixels[:, ~shown] == 0).all()


def test_both_label_maps_are_cut_alike() -> None:
    image, labels = squares()
    for seed in range(6):
        view = random_view(image, labels, labels + 10, PLAIN, rng(seed))
        shown = view.labels != IGNORED
        assert torch.equal(view.teacher[shown], view.labels[shown] + 10)
        assert (view.teacher[~shown] == IGNORED).all()


def test_a_view_is_a_function_of_its_random_numbers() -> None:
    image, labels = squares()
    steps = ViewSteps(48, 1024)
    views = [random_view(image, labels, labels, steps, rng(seed)) for seed in (3, 3, 4)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(views[0], views[1], strict=True))
    assert not torch.equal(views[0].pixels, views[2].pixels)
    assert torch.equal(image, squares()[0])  # the image itself is not changed


def test_types_and_sizes_also_of_an_image_smaller_than_the_view() -> None:
    image, labels = squares(1, 1)
    view = random_view(image, labels, labels, ViewSteps(48, 1024), rng(0))
    assert (view.pixels.dtype, view.labels.dtype, view.teacher.dtype) == (
        torch.uint8,
        torch.int64,
        torch.int64,
    )
    assert tuple(view.pixels.shape) == (3, 48, 48)
    assert int((view.labels != IGNORED).sum()) <= 4


def test_half_of_the_views_are_mirrored() -> None:
    labels = np.tile(np.arange(64, dtype=np.int16), (64, 1))
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    steps = ViewSteps(64, 1024, scale=(1.0, 1.0), distort=False)
    first = [int(random_view(image, labels, labels, steps, rng(n)).labels[0, 0]) for n in range(80)]
    assert set(first) == {0, 63}
    assert 25 < first.count(63) < 55


def test_crops_that_show_one_label_nearly_alone_are_drawn_anew() -> None:
    """Also where labels are the teacher's: most of this image is background."""
    labels = np.zeros((100, 140), np.int16)
    labels[:60, :70] = 1
    image = torch.zeros(3, 100, 140, dtype=torch.uint8)
    unlabelled = np.full_like(labels, UNLABELLED)

    def mixed(most: float, ours: np.ndarray) -> float:
        """Share of the views in which no label has three quarters."""
        steps = ViewSteps(48, 1024, scale=(1.0, 1.0), max_label_share=most, distort=False)
        views = [random_view(image, ours, labels, steps, rng(seed)).teacher for seed in range(60)]
        shares = [float((view == 1).float().mean()) for view in views]
        return float(np.mean([0.25 < share < 0.75 for share in shares]))

    for ours in (labels, unlabelled):
        assert mixed(0.75, ours) > 0.95
        assert mixed(1.01, ours) < 0.7


@pytest.mark.parametrize("size_hw", [(100, 400), (400, 100)])
def test_large_images_are_reduced_to_the_longest_side(size_hw: tuple[int, int]) -> None:
    """So that objects have the size at which the student annotates them."""
    labels = np.zeros(size_hw, np.int16)
    image = torch.zeros(3, *size_hw, dtype=torch.uint8)
    steps = ViewSteps(256, 128, scale=(1.0, 1.0), distort=False)
    view = random_view(image, labels, labels, steps, rng(0))
    height, width = (length * 128 // 400 for length in size_hw)
    assert (view.labels[:height, :width] == 0).all()
    assert int((view.labels == 0).sum()) == height * width


def test_colours_change_within_the_published_bounds() -> None:
    image = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    labels = np.zeros((40, 40), np.int16)
    steps = ViewSteps(40, 1024, scale=(1.0, 1.0))
    greys = [
        int(random_view(image, labels, labels, steps, rng(n)).pixels[0, 0, 0]) for n in range(200)
    ]
    assert min(greys) >= (128 - 32) * 0.5 - 1  # brightness, then contrast
    assert max(greys) <= (128 + 32) * 1.5
    assert len(set(greys)) > 40
    assert greys.count(128) > 20  # neither of the two: a quarter


@pytest.mark.parametrize("factor", [0.55, 0.8, 1.3, 1.95])
def test_labels_of_thin_objects_lie_where_their_pixels_are(factor: float) -> None:
    """Half a pixel beside them would be a quarter of a pole."""
    labels = np.zeros((90, 130), np.int16)
    labels[:, (np.arange(130) % 12) < 4] = 1
    image = torch.from_numpy(np.repeat(240 * labels[None].astype(np.uint8), 3, axis=0))
    steps = ViewSteps(48, 1024, scale=(factor, factor), distort=False)
    view = random_view(image, labels, labels, steps, rng(1))
    shown = view.labels != IGNORED
    assert ((view.pixels[0] > 120) == (view.labels == 1))[shown].float().mean() > 0.97
