import numpy as np

from ovseg_core.images.label_colours import label_colours
from ovseg_core.images.lettering import text_width
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
    names = ("a long name", "dog")
    plain = np.asarray(overlay(rgb, labels, names)).astype(int)
    named = np.asarray(overlay(rgb, labels, names, write_names=True)).astype(int)
    assert named.shape == plain.shape
    changed = np.abs(named - plain).max(axis=2) > 0
    assert changed[:, 120:198].any()
    assert not changed[:, :60].any()
    assert named[:, -2:].max() <= plain[:, -2:].max(), "no letter is cut"


def test_labels_without_room_for_their_names_are_named_below_in_their_colours():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    labels = np.zeros((60, 200), np.uint16)
    labels[5:55, 20:120] = 1
    labels[10:12, 150:152] = 2  # a speck would be hidden by its name
    plain, named = (
        np.asarray(overlay(rgb, labels, NAMES, write_names=with_names)).astype(int)
        for with_names in (False, True)
    )
    changed = (named[:60] != plain).any(axis=2)
    assert changed[:, 20:120].any()
    assert not changed[:, 140:].any()
    below = named[60:].reshape(-1, 3).tolist()
    swatches = [below.count(list(colour)) for colour in label_colours(NAMES)]
    assert swatches[0] == 0, "it is named in the picture"
    assert swatches[1] > 50
    assert 0 < sum(sum(pixel) < 200 for pixel in below) < 200, "the name of one label, in ink"


def test_a_speck_named_below_the_image_has_its_share():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    labels = np.zeros((60, 200), np.uint16)
    labels[10:12, 150:160] = 2  # 0.17 % of the image
    drawn = np.asarray(overlay(rgb, labels, NAMES, write_names=True, name_px=12)).astype(int)
    inked = np.flatnonzero((drawn[60:].sum(axis=2) < 200).any(axis=0))
    assert inked.max() - inked.min() > 0.9 * text_width("dog 0.2%", 12)


def test_many_labels_without_room_are_counted_instead():
    names = [f"name {number}" for number in range(90)]
    labels = np.zeros((60, 300), np.uint16)
    labels[10, 10:280:3] = np.arange(1, 91)
    rgb = np.full((60, 300, 3), 90, np.uint8)
    few = overlay(rgb, np.minimum(labels, 2), names, write_names=True)
    many = overlay(rgb, labels, names, write_names=True)
    assert 60 < few.height < many.height < 140


def test_a_name_wider_than_the_picture_has_two_lines():
    rgb, labels = np.full((160, 90, 3), 90, np.uint8), np.zeros((160, 90), np.uint16)
    labels[40:120, 5:85] = 1
    names = ("red checkered cross",)
    plain, named = (
        np.asarray(overlay(rgb, labels, names, write_names=with_names)).astype(int)
        for with_names in (False, True)
    )
    assert named.shape == plain.shape, "it is in the picture"
    rows = (named != plain).any(axis=(1, 2)).sum()
    assert 25 <= rows <= 45


def test_each_large_part_of_a_mask_is_named():
    rgb = np.full((60, 200, 3), 90, np.uint8)
    labels = np.zeros((60, 200), np.uint16)
    labels[5:55, 0:70] = labels[5:55, 80:140] = labels[30:32, 170:180] = 1
    plain, named = (
        np.asarray(overlay(rgb, labels, NAMES, write_names=with_names))
        for with_names in (False, True)
    )
    changed = (named != plain).any(axis=(0, 2))
    assert changed[:70].any()
    assert changed[80:140].any()
    assert not changed[150:].any()


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


def test_a_name_that_would_hide_its_mask_stands_beside_it_with_the_colour():
    rgb, labels = np.full((120, 200, 3), 90, np.uint8), np.zeros((120, 200), np.uint16)
    labels[40:70, 90:120] = 2
    names = ("cat", "red checkered cross")
    plain, named = (
        np.asarray(overlay(rgb, labels, names, write_names=with_names))
        for with_names in (False, True)
    )
    assert named.shape == plain.shape
    changed = (named != plain).any(axis=2)
    assert not changed[labels > 0].any()
    rows, columns = np.nonzero(changed)
    assert rows.max() == 39 or rows.min() == 70, "it touches the mask"
    stripe = named[rows.min() : rows.max() + 1, columns.min()].tolist()
    assert stripe == [list(label_colours(names)[1])] * len(stripe)


def test_a_name_stands_at_one_part_of_its_mask_not_between_them():
    rgb, labels = np.full((200, 300, 3), 90, np.uint8), np.zeros((200, 300), np.uint16)
    labels[20:44, 230:260] = labels[150:190, 30:70] = 1
    segments = (labels > 0).astype(np.uint16)
    plain, named = (
        np.asarray(overlay(rgb, labels, ("star",), write_names=with_names, segments=segments))
        for with_names in (False, True)
    )
    rows, columns = np.nonzero((named != plain).any(axis=2))
    assert rows.min() >= 130, "at the larger part"
    assert columns.max() <= 100


def test_tinted_masks_are_transparent_outside():
    labels = label_map(0)
    alpha = np.asarray(tinted(labels, labels.shape, NAMES))[..., 3]
    np.testing.assert_array_equal(alpha > 0, labels > 0)


def test_of_a_hollow_mask_the_outline_alone_is_shown_in_its_own_colour():
    labels = np.zeros((30, 50), np.uint16)
    labels[5:25, 5:20], labels[5:25, 30:45] = 1, 2
    picture = np.asarray(tinted(labels, labels.shape, NAMES, hollow=labels == 1))
    filled = np.asarray(tinted(labels, labels.shape, NAMES))
    assert picture[15, 12, 3] == 0
    assert picture[15, 5].tolist() == [*label_colours(NAMES)[0], 255]
    assert filled[15, 5].tolist() != picture[15, 5].tolist(), "a dark rim"
    np.testing.assert_array_equal(picture[:, 25:], filled[:, 25:])


def test_a_label_beyond_the_vocabulary_is_painted_too():
    labels = np.full((4, 6), 7, np.uint16)
    assert np.asarray(tinted(labels, labels.shape, NAMES))[1, 1, 3] == 255
