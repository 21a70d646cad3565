import numpy as np

from ovseg_core.images.overlay import overlay, tinted
from tests.helpers.drawn_runs import label_map

NAMES = ("cat", "dog")


def test_overlay_colours_masks_and_greys_the_rest():
    rgb = np.full((20, 30, 3), (200, 40, 40), np.uint8)
    labels = np.zeros((10, 15), np.uint16)
    labels[2:8, 3:12] = 2
    drawn = np.asarray(overlay(rgb, labels, NAMES)).astype(int)
    assert drawn.shape == rgb.shape
    assert drawn[10, 15, 2] > drawn[10, 15, 0], "label 2 is blue"
    assert abs(drawn[0, 0, 0] - drawn[0, 0, 1]) < 80, "background is greyed"
    assert drawn[4, 6].sum() < drawn[10, 15].sum(), "the rim is darker"


def test_names_are_written_on_their_masks_and_stay_in_the_picture():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    labels = np.zeros((60, 200), np.uint16)
    labels[5:55, 120:200] = 1  # at the right rim, where a centred name would be cut
    labels[10:12, 10:12] = 2  # a speck
    plain = np.asarray(overlay(rgb, labels, ("a long name", "dog"))).astype(int)
    named = np.asarray(overlay(rgb, labels, ("a long name", "dog"), write_names=True)).astype(int)
    changed = np.abs(named - plain).max(axis=2) > 0
    assert changed[:, 120:198].any()
    assert not changed[:, :60].any(), "a speck would be hidden by its name"
    assert not changed[:, -1].any()


def test_every_instance_that_has_room_for_its_name_is_named():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    labels, instances = np.zeros((2, 60, 200), np.uint16)
    for place, (left, right) in enumerate(((0, 70), (75, 140), (190, 200)), start=1):
        labels[5:55, left:right] = 1
        instances[5:55, left:right] = place
    plain, named = (
        np.asarray(overlay(rgb, labels, NAMES, write_names=with_names, segments=instances))
        for with_names in (False, True)
    )
    changed = (named != plain).any(axis=(0, 2))
    assert changed[:70].any()
    assert changed[75:140].any()
    assert not changed[180:].any(), "ten pixels are less than the name's width"


def test_names_do_not_cover_each_other():
    rgb = np.full((90, 120, 3), 90, np.uint8)
    labels = np.zeros((90, 120), np.uint16)
    labels[30:50, 10:110], labels[36:44, 50:70] = 1, 2  # both are widest at the same height
    left, right = "a name as wide as the picture", "another one, as wide"
    plain = np.asarray(overlay(rgb, labels, (left, right)))
    both, first = (
        (np.asarray(overlay(rgb, labels, names, write_names=True)) != plain).any(axis=(1, 2))
        for names in ((left, right), (left, ""))
    )
    added = np.flatnonzero(both & ~first)
    assert len(added) >= 8, "the second name has a line of its own"
    assert both.sum() <= 3 * first.sum(), "near its mask"


def test_tinted_masks_are_transparent_outside():
    labels = label_map(0)
    alpha = np.asarray(tinted(labels, labels.shape, NAMES))[..., 3]
    np.testing.assert_array_equal(alpha > 0, labels > 0)


def test_a_label_beyond_the_vocabulary_is_painted_too():
    labels = np.full((4, 6), 7, np.uint16)
    assert np.asarray(tinted(labels, labels.shape, NAMES))[1, 1, 3] == 255
