import numpy as np
from PIL import Image

from pipeline.evaluation.contact_sheet import SheetRow, contact_sheet, sheet_rows, with_instances
from pipeline.exporters import coco
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run


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
        assert row.agreement == "mIoU of masks 1.00"
    with_truth = contact_sheet(rows, LABELS)
    without = contact_sheet(sheet_rows(run, limit=4), LABELS)
    assert with_truth.width == without.width
    assert with_truth.height < without.height, "two tiles in a row are larger than three"
    assert len(set(with_truth.get_flattened_data())) > 50


def test_rows_of_large_images_are_small_and_their_agreement_is_that_of_all_pixels(tmp_path):
    size_hw = 1200, 1800
    masks = np.zeros((2, *size_hw), bool)
    masks[:, 100:1100, 50:1700], masks[1, :, 900:] = True, False
    instances = ((1, 0.9, masks[0]), (2, 0.95, masks[1]))
    plain = Scene("a.png", np.ones(size_hw, np.uint16))
    crowded = Scene("b.png", masks[0].astype(np.uint16), instances=instances)
    truth = tmp_path / "truth"
    truth.mkdir()
    every_other = np.ones(size_hw, np.uint8)
    every_other[:, 1::2] = 2
    Image.fromarray(every_other).save(truth / "a.png")
    Image.fromarray(masks.sum(axis=0).astype(np.uint8)).save(truth / "b.png")
    (one,) = sheet_rows(make_run(tmp_path / "plain", [plain]), str(truth))
    assert one.agreement == "mIoU of masks 0.25", "half of label 1, nothing of label 2"
    spec = RunSpec(masks={"segments": "instances"})
    (two,) = sheet_rows(make_run(tmp_path / "crowded", [crowded], spec), str(truth))
    assert two.agreement == "mIoU of masks 1.00"
    for row in (one, two):
        maps = [row.image, row.found, row.truth, row.instances]
        assert all(kept is None or kept.shape[:2] == (420, 630) for kept in maps)
    assert two.instances is not None
    places = [(25, 12), (200, 100), (200, 500)]  # outside, of both instances, of the first alone
    assert [two.found[place] for place in places] == [0, 2, 1]
    assert [two.instances[place] for place in places] == [0, 2, 1]
    sheet = contact_sheet([one, two], LABELS)
    assert sheet.height < 400


def test_replaced_images_are_left_out_and_named(tmp_path, caplog):
    run = make_run(tmp_path, [Scene(f"{i}.png", label_map(i, 40 + i, 56)) for i in range(3)])
    Image.new("RGB", (70, 50)).save(tmp_path / "photos" / "1.png")
    assert [row.caption for row in sheet_rows(run)] == ["0.png", "2.png"]
    said = "1 image left out, the first is 1.png: it was replaced since the run: it is 70 x 50"
    assert f"{said} pixels now and was 56 x 41" in caplog.text


def test_truth_of_another_size_is_said_and_drawn_where_it_was_read(tmp_path):
    scenes = [Scene("a.png", label_map(0, 20, 30)), Scene("b.png", label_map(1, 60, 90))]
    truth = tmp_path / "truth"
    truth.mkdir()
    run = make_run(tmp_path, scenes)
    for name, shape in (("a", (40, 60)), ("b", (90, 61))):  # the second has too many pixels
        Image.fromarray(np.ones(shape, np.uint8)).save(truth / f"{name}.png")
    rows = sheet_rows(run, str(truth))
    assert [row.agreement for row in rows] == ["truth of another size"] * 2
    assert [row.truth is None for row in rows] == [False, True]


def test_contact_sheet_odd_sizes_and_no_rows():
    rng = np.random.default_rng(0)
    rows = [
        SheetRow("a" * 90, rng.integers(0, 256, (9, 400, 3), np.uint8), np.zeros((18, 800), int)),
        SheetRow("b", rng.integers(0, 256, (300, 2, 3), np.uint8), np.ones((300, 2), int)),
        SheetRow("c", np.zeros((5, 7, 3), np.uint8), np.ones((5, 7), int), np.zeros((7, 5), int)),
    ]
    assert isinstance(contact_sheet(rows, LABELS), Image.Image)
    assert contact_sheet([], LABELS).width > 100
    small = [row.reduced() for row in rows]
    assert [row.found.shape for row in small] == [(14, 630), (300, 2), (5, 7)]
    assert [row.agreement for row in small] == ["", "", "truth of another size"]
    assert contact_sheet(small, LABELS).size == contact_sheet(rows, LABELS).size


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
