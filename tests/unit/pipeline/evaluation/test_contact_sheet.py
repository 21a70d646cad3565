import numpy as np
from PIL import Image

from pipeline.evaluation.contact_sheet import SheetRow, contact_sheet, sheet_rows, with_instances
from pipeline.exporters import coco
from tests.helpers.drawn_runs import LABELS, Scene, label_map, make_run


def test_contact_sheet_shows_truth_and_agreement(tmp_path):
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
    assert with_truth.width == without.width
    assert with_truth.height < without.height, "two tiles in a row are larger than three"
    assert len(set(with_truth.get_flattened_data())) > 50


def test_contact_sheet_odd_sizes_and_no_rows():
    rng = np.random.default_rng(0)
    rows = [
        SheetRow("a" * 90, rng.integers(0, 256, (9, 400, 3), np.uint8), np.zeros((18, 800), int)),
        SheetRow("b", rng.integers(0, 256, (300, 2, 3), np.uint8), np.ones((300, 2), int)),
        SheetRow("c", np.zeros((5, 7, 3), np.uint8), np.ones((5, 7), int), np.zeros((7, 5), int)),
    ]
    assert isinstance(contact_sheet(rows, LABELS), Image.Image)
    assert contact_sheet([], LABELS).width > 100


def test_instances_of_another_run_are_one_more_column():
    image, found = np.full((2, 30, 44, 3), 90, np.uint8)[0], np.ones((30, 44), int)
    rows = [SheetRow("a", image, found), SheetRow("b", image, found)]
    numbers = np.repeat([[1], [2]], 15, axis=0) * np.ones((1, 44), int)
    both = with_instances(rows, [SheetRow("b", image, 2 * found, instances=numbers)])
    assert [row.by_instance is None for row in both] == [True, False]
    sheet, plain = contact_sheet(both, LABELS), contact_sheet(rows, LABELS)
    assert sheet.width == plain.width
    strip = np.asarray(sheet.crop((0, 0, sheet.width // 2, sheet.height)))
    masks, other = (strip[:, start : start + 208] for start in (24 + 214, 24 + 2 * 214))
    assert (masks != 255).any()
    assert not (other[60:] != 255).any(), "the first image is not in the other run"


def test_a_note_stands_beside_the_name():
    image, found = np.full((30, 44, 3), 90, np.uint8), np.zeros((30, 44), int)
    plain, noted = (
        np.asarray(contact_sheet([SheetRow("a.png", image, found, note=note)], LABELS))
        for note in ("", "cosine 0.271")
    )
    assert plain.shape == noted.shape
    rows, columns = np.nonzero((plain != noted).any(-1))
    assert columns.max() - columns.min() > 60
    assert rows.min() > 24 + 22 + 140, "below the image"


def test_a_label_without_room_makes_its_line_of_the_sheet_taller():
    image, found = np.full((120, 160, 3), 90, np.uint8), np.zeros((120, 160), int)
    found[10:110, 10:150] = 1
    speck = found.copy()
    speck[2:4, 2:4] = 2
    heights = [
        contact_sheet([SheetRow("a", image, one)] * 2, LABELS).height for one in (found, speck)
    ]
    assert 20 <= heights[1] - heights[0] <= 40
