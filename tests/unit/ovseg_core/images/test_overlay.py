import numpy as np

from ovseg_core.images.overlay import colour, overlay, tinted
from tests.helpers.drawn_runs import label_map


def test_colour_is_distinct_and_stable():
    first = [colour(label) for label in range(1, 61)]
    assert len(set(first)) == 60
    assert first[0] == (230, 25, 75)


def test_overlay_colours_masks_and_greys_the_rest():
    rgb = np.full((20, 30, 3), (200, 40, 40), np.uint8)
    labels = np.zeros((10, 15), np.uint16)
    labels[2:8, 3:12] = 2
    drawn = np.asarray(overlay(rgb, labels)).astype(int)
    assert drawn.shape == rgb.shape
    assert drawn[10, 15, 2] > drawn[10, 15, 0], "label 2 is blue"
    assert abs(drawn[0, 0, 0] - drawn[0, 0, 1]) < 80, "background is greyed"
    assert drawn[4, 6].sum() < drawn[10, 15].sum(), "the rim is darker"


def test_tinted_masks_are_transparent_outside():
    labels = label_map(0)
    alpha = np.asarray(tinted(labels, labels.shape))[..., 3]
    np.testing.assert_array_equal(alpha > 0, labels > 0)
