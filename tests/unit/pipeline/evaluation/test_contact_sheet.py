import numpy as np
from PIL import Image

from pipeline.collection.overlay import colour, overlay, tinted
from pipeline.evaluation.contact_sheet import SheetRow, contact_sheet, sheet_rows
from pipeline.exporters import coco
from tests.helpers.drawn_runs import LABELS, Scene, label_map, make_run


def test_colours_are_distinct_and_never_change():
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


def test_a_sheet_of_a_run_shows_truth_and_agreement(tmp_path):
    scenes = [Scene(f"{i}.png", label_map(i, 40 + i, 56)) for i in range(5)]
    run = make_run(tmp_path, [*scenes, Scene("broken.png", None)])
    (truth, _) = coco.export(run, coco.Options())
    (tmp_path / "photos" / "3.png").unlink()
    rows = sheet_rows(run, f"{run.folder.uri}/{truth}", limit=4)
    assert [row.caption for row in rows] == ["0.png", "1.png", "2.png", "4.png"]
    for row, scene in zip(rows, [*scenes[:3], scenes[4]], strict=True):
        np.testing.assert_array_equal(row.found, scene.label_map)
        np.testing.assert_array_equal(row.truth, scene.label_map)
    with_truth = contact_sheet(rows, LABELS)
    without = contact_sheet(sheet_rows(run, limit=4), LABELS)
    assert with_truth.width > without.width
    assert with_truth.height == without.height
    assert len(set(with_truth.get_flattened_data())) > 50


def test_a_sheet_takes_odd_sizes_and_nothing():
    rng = np.random.default_rng(0)
    rows = [
        SheetRow("a" * 90, rng.integers(0, 256, (9, 400, 3), np.uint8), np.zeros((18, 800), int)),
        SheetRow("b", rng.integers(0, 256, (300, 2, 3), np.uint8), np.ones((300, 2), int)),
        SheetRow("c", np.zeros((5, 7, 3), np.uint8), np.ones((5, 7), int), np.zeros((7, 5), int)),
    ]
    assert isinstance(contact_sheet(rows, LABELS), Image.Image)
    assert contact_sheet([], LABELS).width > 100
