import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.evaluation.evaluate import EvaluationRules, evaluate
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.exporters import coco
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run, odd_scenes
from tests.helpers.image_files import png_bomb

TRUE = np.zeros((4, 6), np.uint16)
TRUE[:2, :3] = 1
TRUE[2:, 3:] = 2
FOUND = np.zeros((4, 6), np.uint16)
FOUND[:2, :2] = 1
FOUND[2:, 3:] = 3


def _write(folder: Path, **changes: object) -> str:
    categories = [{"id": 7 * i, "name": name.upper()} for i, name in enumerate(LABELS, 1)]
    dataset = {
        "images": [{"id": 5, "file_name": "sub/a.png", "height": 4, "width": 6}],
        "annotations": [
            _segment(TRUE == 1, 7),
            _segment(TRUE == 2, 14),
        ],
        "categories": categories,
        **changes,
    }
    file = folder / "truth.json"
    file.write_text(json.dumps(dataset))
    return str(file)


def _segment(mask: np.ndarray, category: int | str, **changes: object) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    segmentation = {"size": list(mask.shape), "counts": rle["counts"].decode()}
    base = {"image_id": 5, "category_id": category, "segmentation": segmentation, "iscrowd": 0}
    return {**base, **changes}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene("sub/a.png", FOUND), Scene("broken.png", None)])


def test_evaluate_case_computed_by_hand(run, tmp_path):
    report = evaluate(run, _write(tmp_path), EvaluationRules(groups={"pets": ("cat", "dog")}))
    ious = {label.name: label.iou for label in report.labels}
    assert ious == {"background": 12 / 14, "cat": 4 / 6, "dog": 0, "potted plant": 0}
    assert report.miou == pytest.approx((12 / 14 + 4 / 6) / 4)
    assert report.label_miou == pytest.approx(4 / 6 / 3)
    assert report.pixel_accuracy == pytest.approx(16 / 24)
    assert report.foreground_iou == pytest.approx(10 / 12)
    assert report.groups == {"pets": pytest.approx(4 / 6 / 2)}
    assert (report.num_images, report.num_failed, report.num_left) == (1, 1, 0)
    assert [label.truth_px for label in report.labels] == [12, 6, 6, 0]
    assert [label.predicted_px for label in report.labels] == [14, 4, 0, 6]


def test_evaluate_own_export_is_perfect(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(shard_size=4))
    (truth, _) = coco.export(run, coco.Options())
    report = evaluate(run, f"{run.folder.uri}/{truth}")
    assert report.miou == report.pixel_accuracy == report.foreground_iou == 1
    assert report.num_images == sum(scene.label_map is not None for scene in odd_scenes())
    assert json.loads(report.model_dump_json())["labels"][1]["name"] == "cat"


def test_evaluate_many_images_equal_one_confusion_matrix(tmp_path):
    scenes = [Scene(f"{i}.png", label_map(i, 20 + i, 30)) for i in range(7)]
    run = make_run(tmp_path / "run", scenes)
    folder = tmp_path / "truth"
    folder.mkdir()
    matrix = ConfusionMatrix(4)
    for number, scene in enumerate(scenes):
        true_map = label_map(50 + number, *scene.label_map.shape).astype(np.uint8)
        true_map[:3] = 255
        Image.fromarray(true_map).save(folder / f"{number}.png")
        matrix.add(scene.label_map, true_map)
    report = evaluate(run, str(folder))
    np.testing.assert_allclose([label.iou for label in report.labels], matrix.iou())
    assert report.pixel_accuracy == pytest.approx(matrix.pixel_accuracy())


def test_evaluate_class_in_neither_does_not_count(tmp_path):
    truth = _write(tmp_path)
    run = make_run(tmp_path, [Scene("a.png", np.where(FOUND == 3, 2, FOUND))])
    report = evaluate(run, truth)
    assert report.labels[3].iou is None
    assert report.miou == pytest.approx((12 / 14 + 4 / 6 + 1) / 3)
    assert not any(math.isnan(v) for v in (report.miou, report.label_miou))


def test_evaluate_coco_polygons_and_uncompressed_rle_first_one_wins(run, tmp_path):
    whole = {"counts": [0, 24], "size": [4, 6]}
    polygon = [[0, 0, 3, 0, 3, 2, 0, 2]]
    truth = _write(
        tmp_path,
        annotations=[
            {"image_id": 5, "category_id": 7, "segmentation": polygon, "iscrowd": 0},
            {"image_id": 5, "category_id": 14, "segmentation": whole, "iscrowd": 0},
        ],
    )
    report = evaluate(run, truth)
    assert [label.truth_px for label in report.labels] == [0, 6, 18, 0]


def test_evaluate_crowd_regions_have_their_label_or_are_not_counted(run, tmp_path):
    truth = _write(tmp_path, annotations=[_segment(TRUE == 1, 7, iscrowd=1)])
    assert evaluate(run, truth).labels[1].truth_px == 6
    report = evaluate(run, truth, EvaluationRules(crowd="ignore"))
    assert sum(label.truth_px for label in report.labels) == 24 - 6


def test_evaluate_unknown_category_is_background(run, tmp_path):
    categories = [{"id": 7, "name": "cat"}, {"id": 14, "name": "zebra"}]
    report = evaluate(run, _write(tmp_path, categories=categories))
    assert report.unknown_categories == ("zebra",)
    assert [label.truth_px for label in report.labels] == [18, 6, 0, 0]


def test_evaluate_image_of_another_size_is_left_out(tmp_path, caplog):
    truth = _write(tmp_path)
    run = make_run(tmp_path, [Scene("sub/a.png", FOUND.T), Scene("b/c.png", FOUND)])
    with pytest.raises(UserError, match="nothing to compare: of 2 annotated images 1 are not"):
        evaluate(run, truth)
    assert "6 x 4 in the truth, 4 x 6 in the run" in caplog.text


def test_evaluate_category_named_background_is_background(run, tmp_path):
    names = [{"id": 7, "name": "cat"}, {"id": 14, "name": " Background "}]
    report = evaluate(run, _write(tmp_path, categories=names))
    assert report.unknown_categories == ()
    assert [label.truth_px for label in report.labels] == [18, 6, 0, 0]


IMAGE = {"id": 5, "file_name": "sub/a.png", "height": 4, "width": 6}
CAT, DOG = _segment(TRUE == 1, 7, id=1), _segment(TRUE == 2, 14, id=2)
TWO_CORNERS = _segment(TRUE == 1, 7, id=3, segmentation=[[0, 0, 3, 3]])


@pytest.mark.parametrize(
    ("changes", "kind", "count", "named", "truth_px"),
    [
        ({"annotations": [CAT, DOG, {**CAT, "image_id": 99}]}, "dropped_masks", 1, "id 99", 6),
        ({"annotations": [CAT, {**DOG, "image_id": [5]}]}, "dropped_masks", 1, "expected an id", 6),
        ({"annotations": [CAT, DOG, {**CAT, "segmentation": []}]}, "other_shapes", 1, "a.png", 6),
        (
            {"annotations": [CAT, {**DOG, "segmentation": {"size": [4, 6], "counts": [24]}}]},
            *("dropped_masks", 1, "DOG, empty", 6),
        ),
        ({"images": [IMAGE, {**IMAGE, "id": 6}]}, "repeated", 1, "sub/a.png: with 0 masks", 6),
        ({"images": [{**IMAGE, "id": 6}, IMAGE]}, "repeated", 1, "sub/a.png: with 0 masks", 6),
        ({"images": [{**IMAGE, "file_name": "a.png"}]}, "loose_names", 1, "base name only", 6),
        (
            {"images": [IMAGE, {**IMAGE, "id": 6, "file_name": "who.png"}]},
            *("unknown_images", 1, "who.png", 6),
        ),
    ],
)
def test_evaluate_names_what_is_left_out_of_the_truth(
    changes, kind, count, named, truth_px, run, tmp_path
):
    report = evaluate(run, _write(tmp_path, **changes))
    assert (report.notes[kind].count, report.labels[1].truth_px) == (count, truth_px)
    assert named in report.notes[kind].first[0]
    assert kind in json.loads(report.model_dump_json())["notes"]


def test_evaluate_image_with_an_unreadable_mask_or_boxes_only_has_no_truth(tmp_path):
    run = make_run(tmp_path, [Scene(f"{name}.png", FOUND) for name in "abc"])
    images = [{**IMAGE, "id": k, "file_name": f"{name}.png"} for k, name in enumerate("abc", 5)]
    segments = [{**TWO_CORNERS, "image_id": 6}, {**CAT, "image_id": 7, "segmentation": []}]
    report = evaluate(run, _write(tmp_path, images=images, annotations=[CAT, *segments]))
    assert (report.num_images, report.num_without_truth) == (1, 2)
    assert report.notes["box_only"].first == ("c.png",)
    assert "b.png: annotation 3: a polygon of 2 corners" in report.notes["unreadable"].first[0]


def test_evaluate_truth_of_one_folder_is_not_that_of_another(tmp_path):
    paths = ("cam1/f.png", "cam2/f.png", "f.png")
    run = make_run(tmp_path, [Scene(path, FOUND) for path in paths])
    report = evaluate(run, _write(tmp_path, images=[{**IMAGE, "file_name": "cam1/f.png"}]))
    assert (report.num_images, report.num_without_truth) == (1, 2)
    with pytest.raises(UserError, match="could be several images: 1"):
        evaluate(run, _write(tmp_path, images=[{**IMAGE, "file_name": "cam3/f.png"}]))


def test_evaluate_coco_ids_may_be_text_or_numbers(run, tmp_path):
    expected = evaluate(run, _write(tmp_path)).labels
    changes = {"image_id": "5", "category_id": 7.0}
    segments = [_segment(TRUE == 1, 7, **changes), _segment(TRUE == 2, "14")]
    assert evaluate(run, _write(tmp_path, annotations=segments)).labels == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 7, "name": "zebra"}]}, r"no category .* zebra; the run has cat"),
        ({"images": []}, "images that it does not have"),
        ({"images": [], "annotations": []}, "nothing to compare"),
        ({"images": 3}, "expected a list of images"),
        ({"annotations": [_segment(TRUE == 1, 7, image_id=6)]}, "for example image_id 6"),
        ({"annotations": [_segment(TRUE == 1, 7, image_id=[5])]}, "expected an id"),
        ({"images": [{"file_name": "sub/a.png", "id": 5}]}, r"\(sub/a\.png: 'height' is missing\)"),
        ({"images": [{"file_name": "sub/a.png"}]}, r"image sub/a.png: 'id' is missing"),
        ({"annotations": [{"id": 1}]}, "annotation 1: 'image_id' is missing"),
        ({"annotations": [_segment(TRUE == 1, 99)]}, r"sub/a\.png: .*no category with the id 99"),
        ({"annotations": [_segment(TRUE[:2] == 1, 7)]}, r"image's size \[4, 6\], got \[2, 6\]"),
        ({"annotations": [_segment(TRUE == 1, 7, segmentation=[])]}, r"boxes .* 1 \(sub/a\.png\)"),
    ],
)
def test_evaluate_truth_that_does_not_fit_is_refused(changes, message, run, tmp_path):
    with pytest.raises(UserError, match=message):
        evaluate(run, _write(tmp_path, **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "got a JSON list"),
        ('[{"image_id": 1}]', "got a JSON list"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"images": []}', "annotations, categories missing"),
    ],
)
def test_evaluate_file_that_is_not_coco_is_refused(content, message, run, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=message):
        evaluate(run, str(tmp_path / "x.json"))


def test_evaluate_missing_truth_and_unknown_group_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        evaluate(run, str(tmp_path / "nowhere.json"))
    with pytest.raises(UserError, match="expected a COCO"):
        evaluate(run, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"groups name labels .* zebra"):
        evaluate(run, _write(tmp_path), EvaluationRules(groups={"stripes": ("zebra",)}))


def test_evaluate_label_image_with_unknown_values_is_refused(run, tmp_path):
    folder = tmp_path / "maps" / "sub"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((4, 6), 9, np.uint8)).save(folder / "a.png")
    with pytest.raises(UserError, match="values 0 to 3 and 255"):
        evaluate(run, str(tmp_path / "maps"))


def _save(folder: Path, **maps: np.ndarray) -> str:
    for name, values in maps.items():
        file = folder / f"{name.replace('__', '/').replace('_', '.')}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint8)).save(file)
    return str(folder)


NAMES = ("background", *LABELS)


@pytest.mark.parametrize(
    ("classes", "background", "values", "counted"),
    [
        (None, None, TRUE, 24),
        (None, "0", TRUE, 24),
        (None, "255", np.where(TRUE, TRUE - 1, 255), 24),
        (None, "none", np.where(TRUE, TRUE - 1, 255), 12),
        (NAMES, None, TRUE, 24),
        (("x",), "0", TRUE, 24),
        (LABELS, None, np.where(TRUE, TRUE - 1, 255), 12),
        (("dog", "Background ", "CAT"), None, np.array([1, 2, 0])[TRUE], 24),
    ],
)
def test_evaluate_label_images_by_every_convention(
    classes, background, values, counted, run, tmp_path
):
    folder = _save(tmp_path / "maps", sub__a=values)
    if classes is not None:
        given = {"classes": classes, "ignore": 255}
        (tmp_path / "maps" / "classes.json").write_text(json.dumps(given))
    report = evaluate(run, folder, EvaluationRules(truth_background=background))
    assert [label.truth_px for label in report.labels] == [counted - 12, 6, 6, 0]
    assert report.truth_values


def test_evaluate_classes_that_the_run_does_not_have_are_background(run, tmp_path):
    folder = _save(tmp_path / "maps", sub__a=TRUE)
    file = tmp_path / "maps" / "classes.json"
    file.write_text('{"classes": ["background", "cat", "zebra"]}')
    report = evaluate(run, folder)
    assert report.unknown_categories == ("zebra",)
    assert [label.truth_px for label in report.labels] == [18, 6, 0, 0]
    for content, message in (("[]", "--truth-background"), ('{"classes": ["x"]}', "no category")):
        file.write_text(content)
        with pytest.raises(UserError, match=message):
            evaluate(run, folder)


def test_evaluate_label_image_is_used_for_one_image_only(tmp_path):
    paths = ("a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "deep/d.jpg")
    run = make_run(tmp_path, [Scene(path, FOUND) for path in paths])
    folder = _save(tmp_path / "maps", a=TRUE, b_jpg=TRUE, b_png=TRUE, c=TRUE, d=TRUE, e=TRUE)
    report = evaluate(run, folder)
    assert (report.num_images, report.num_without_truth) == (4, 2)
    assert report.notes["ambiguous_names"].first == ("a.png",)
    assert report.notes["unknown_images"].first == ("e.png",)
    assert "deep/d.jpg" in report.notes["loose_names"].first[0]


def _stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The map of a tool that ignores EXIF: in the frame of the file."""
    return {3: upright[::-1, ::-1], 4: upright[::-1], 6: np.rot90(upright)}[orientation]


@pytest.mark.parametrize("kind", ["label images", "coco"])
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("orientation", [3, 4, 6])
def test_evaluate_truth_of_a_turned_photograph(kind, ignores, orientation, tmp_path):
    """A truth as a person sees the photograph, and one of a tool that ignores its orientation."""
    maps = [label_map(seed, 40, 56) for seed in range(3)]
    names = ["a.png", "b.png", "plain.png"]
    orientations = [orientation, orientation, 1]
    scenes = [
        Scene(name, each, orientation=turn)
        for name, each, turn in zip(names, maps, orientations, strict=True)
    ]
    run = make_run(tmp_path, scenes)
    true = [
        _stored(each, turn) if ignores and turn != 1 else each
        for each, turn in zip(maps, orientations, strict=True)
    ]
    if kind == "coco":
        images = [
            {"id": i, "file_name": name, "height": each.shape[0], "width": each.shape[1]}
            for i, (name, each) in enumerate(zip(names, true, strict=True))
        ]
        segments = [
            _segment(each == label, 7 * label, image_id=i)
            for i, each in enumerate(true)
            for label in range(1, 4)
        ]
        truth = _write(tmp_path, images=images, annotations=segments)
    else:
        truth = _save(tmp_path / "maps", a=true[0], b=true[1], plain=true[2])
    report = evaluate(run, truth)
    assert (report.num_images, report.num_wrong_size) == (3, 0)
    assert report.miou == 1
    noted = report.notes.get("frames")
    assert (noted.count if noted else 0) == (2 if ignores else 0)
    if noted:
        assert noted.first[0].startswith("a.png: the truth ignores its EXIF orientation")


def test_evaluate_a_run_that_is_wrong_is_not_helped_by_a_turn(tmp_path):
    """The other frame must fit clearly better, and sizes that tell the frame count for all."""
    found, true = label_map(0, 40, 56), label_map(1, 40, 56)
    tall = label_map(2, 56, 40)
    run = make_run(tmp_path, [Scene("a.png", found, orientation=3), Scene("b.png", true)])
    report = evaluate(run, _save(tmp_path / "maps", a=true, b=true))
    assert not report.notes
    scenes = [Scene("a.png", found, orientation=3), Scene("b.png", tall, orientation=6)]
    run = make_run(tmp_path / "second", scenes)
    upside_down = evaluate(run, _save(tmp_path / "upright", a=found[::-1, ::-1], b=tall))
    assert not upside_down.notes
    assert upside_down.miou < 0.7


@pytest.mark.parametrize("kind", ["coco", "label images"])
def test_truth_larger_than_every_image_is_left_out_before_it_is_made(run, tmp_path, kind):
    """A small file states 400 million pixels; the run's largest image has 24."""
    scenes = [Scene("sub/a.png", FOUND), Scene("b.png", FOUND)]
    run = make_run(tmp_path / "two", scenes)
    if kind == "coco":
        runs = {"size": [20_000, 20_000], "counts": [0, 20_000 * 20_000]}
        images = [
            {"id": 5, "file_name": "sub/a.png", "height": 20_000, "width": 20_000},
            {"id": 6, "file_name": "b.png", "height": 4, "width": 6},
        ]
        huge = {"image_id": 5, "category_id": 7, "segmentation": runs}
        segments = [huge, _segment(TRUE == 1, 7, image_id=6)]
        truth = _write(tmp_path, images=images, annotations=segments)
    else:
        (tmp_path / "maps/sub").mkdir(parents=True)
        (tmp_path / "maps/sub/a.png").write_bytes(png_bomb(20_000))
        Image.fromarray(TRUE.astype(np.uint8)).save(tmp_path / "maps/b.png")
        truth = str(tmp_path / "maps")
    tracemalloc.start()
    report = evaluate(run, truth)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (report.num_images, report.num_wrong_size) == (1, 1)
    assert peak < 100 << 20
