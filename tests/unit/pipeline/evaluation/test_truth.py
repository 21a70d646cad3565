"""Every public layout, every rule that turns a pixel's value into a label."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.protocol import load_protocol
from pipeline.evaluation.truth import (
    ProtocolTruth,
    Truth,
    Wanted,
    open_protocol_truth,
    open_truth,
)
from pipeline.run.file_names import FileNames
from pipeline.storage.folder import Folder
from schemas.errors import UserError
from schemas.protocol import ImageFiles, PixelValues, TruthMaps
from tests.helpers import public_datasets as layouts
from tests.helpers.drawn_runs import Scene, make_run
from tests.helpers.image_files import png_bomb
from tests.helpers.public_datasets import Maps

NO_SUCH_THING = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
"""Category ids of COCO, from 1 to 91, that no object has."""
THING_IDS = [i - 1 for i in range(1, 91) if i not in NO_SUCH_THING]
STUFF_IDS = [*THING_IDS, *range(91, 182)]
"""Values of pixel maps, which count from 0, in the order of the classes."""
CITY_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
"""cityscapesScripts: the ids that have a train id, in its order."""
CITY_VALUES = (*CITY_IDS, 0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)


def by_place(ids: list[int], otherwise: int) -> Callable[[int], int]:
    """Return a rule: label k is the k-th of the ids."""
    return lambda value: ids.index(value) + 1 if value in ids else otherwise


def not_counted(*values: int, shift: int = 0) -> Callable[[int], int]:
    """Return a rule: some values do not count, the others are shifted."""
    return lambda value: -1 if value in values else value + shift


VOC, VOC_SPLIT = (*range(21), 255), "ImageSets/Segmentation/val.txt"
CONTEXT, CONTEXT_SPLIT = (*range(60), 255), "ImageSets/SegmentationContext/val.txt"
TRAIN_IDS = (*range(171), 255)
RAW_IDS = (*STUFF_IDS, 255)

CASES = [
    ("voc21", lambda p: layouts.voc(p, VOC_SPLIT, "SegmentationClass", VOC), not_counted(255)),
    ("voc20", lambda p: layouts.voc(p, VOC_SPLIT, "SegmentationClass", VOC), not_counted(0, 255)),
    (
        "context60",
        lambda p: layouts.voc(p, CONTEXT_SPLIT, "SegmentationClassContext", CONTEXT),
        not_counted(255),
    ),
    (
        "context59",
        lambda p: layouts.voc(p, CONTEXT_SPLIT, "SegmentationClassContext", CONTEXT),
        not_counted(0, 255),
    ),
    (
        "stuff",
        lambda p: layouts.coco(p, "val2017", "stuffthingmaps/val2017*.png", RAW_IDS),
        by_place(STUFF_IDS, -1),
    ),
    (
        "stuff",
        lambda p: layouts.coco(
            p, "images/val2017", "annotations/val2017*_labelTrainIds.png", TRAIN_IDS
        ),
        not_counted(255, shift=1),
    ),
    (
        "object",
        lambda p: layouts.coco(p, "val2017", "stuffthingmaps/val2017*.png", RAW_IDS),
        by_place(THING_IDS, 0),
    ),
    (
        "object",
        lambda p: layouts.coco(
            p, "val2017", "stuffthingmaps/val2017*_labelTrainIds.png", TRAIN_IDS
        ),
        by_place(list(range(80)), 0),
    ),
    (
        "cityscapes",
        lambda p: layouts.cityscapes(p, "_gtFine_labelTrainIds.png", (*range(19), 255)),
        not_counted(255, shift=1),
    ),
    (
        "cityscapes",
        lambda p: layouts.cityscapes(p, "_gtFine_labelIds.png", CITY_VALUES),
        by_place(CITY_IDS, -1),
    ),
    (
        "ade20k",
        lambda p: layouts.plain(p, "images/validation*.jpg", "annotations/validation", range(151)),
        not_counted(0),
    ),
    (
        "camvid",
        lambda p: layouts.plain(p, "test*.png", "testannot", range(12)),
        not_counted(11, shift=1),
    ),
]
IDS = [f"{name}-{number}" for number, (name, *_) in enumerate(CASES)]


def opened(name: str, data: Path, paths: Iterable[str] = ()) -> Truth:
    protocol = load_protocol(name)
    return open_protocol_truth(name, protocol, protocol.truth, str(data), Wanted([], [*paths]))


@pytest.mark.parametrize(("name", "make", "rule"), CASES, ids=IDS)
def test_open_protocol_truth_every_layout_and_rule(
    name: str, make: Callable[[Path], Maps], rule: Callable[[int], int], tmp_path: Path
) -> None:
    maps = make(tmp_path)
    truth = opened(name, tmp_path, maps)
    seen = set()
    for path, values in maps.items():
        expected = np.vectorize(rule)(values.astype(int))
        found = truth.label_map(path)
        assert found is not None
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected)
        seen |= set(expected.ravel().tolist())
    assert truth.num_images == len(maps)
    assert truth.label_map("another.jpg") is None
    protocol = load_protocol(name)
    labels = set(range(1, len(protocol.classes) + 1))
    assert seen - {-1} == labels | ({0} if protocol.has_background else set())


def test_open_protocol_truth_prefers_train_ids(tmp_path: Path) -> None:
    layouts.cityscapes(tmp_path, "_gtFine_labelIds.png", [7])
    maps = layouts.cityscapes(tmp_path, "_gtFine_labelTrainIds.png", [18])
    found = opened("cityscapes", tmp_path).label_map(next(iter(maps)))
    assert found is not None
    assert np.unique(found).tolist() == [19]


def test_protocol_truth_finds_an_unambiguous_file_name_in_another_folder(tmp_path: Path) -> None:
    maps = TruthMaps(folder=("t",), ending="_t.png", values=PixelValues(labels=(0, 1)))
    images = (ImageFiles(folder=("i",), ending="_i.png"),)
    for place, value in (("a/x", 0), ("b/x", 1), ("b/y", 1)):
        layouts.grey(tmp_path / f"{place}_t.png", np.full((4, 6), value, np.uint8))
    paths = ["other/y_i.png", "other/x_i.png", "a/x.jpeg"]
    truth = ProtocolTruth(Folder(str(tmp_path)), maps, images, Wanted([], paths))
    found = truth.label_map("other/y_i.png")
    assert found is not None
    assert found.max() == found.min() == 2
    assert truth.label_map("other/x_i.png") is None
    assert truth.label_map("a/x.jpeg") is not None  # converted by the user


def test_protocol_truth_is_not_used_for_two_images_of_one_file_name(tmp_path: Path) -> None:
    maps = TruthMaps(folder=("t",), ending="_t.png", values=PixelValues(labels=(0, 1)))
    layouts.grey(tmp_path / "x_t.png", np.full((4, 6), 1, np.uint8))
    images = (ImageFiles(folder=("i",), ending=".png"),)
    truth = ProtocolTruth(
        Folder(str(tmp_path)), maps, images, Wanted([], ["cam1/x.png", "cam2/x.png"])
    )
    assert truth.label_map("cam1/x.png") is None
    assert truth.label_map("cam2/x.png") is None


def test_protocol_truth_lists_unknown_pixel_values(tmp_path: Path) -> None:
    layouts.voc(tmp_path, VOC_SPLIT, "SegmentationClass", [0, 1, 99, 200])
    with pytest.raises(UserError, match=r"SegmentationClass/2007_000000\.png: .*: 99, 200;"):
        opened("voc21", tmp_path).label_map("2007_000000.jpg")


def test_protocol_truth_colour_and_damaged_images_are_refused(tmp_path: Path) -> None:
    layouts.voc(tmp_path, VOC_SPLIT, "SegmentationClass", VOC)
    folder = tmp_path / "SegmentationClass"
    Image.open(folder / "2007_000000.png").convert("RGB").save(folder / "2007_000000.png")
    whole = (folder / "2007_000001.png").read_bytes()
    (folder / "2007_000001.png").write_bytes(whole[: len(whole) // 2])
    (folder / "2007_000002.png").write_bytes(b"text")
    truth = opened("voc21", tmp_path)
    with pytest.raises(UserError, match="one channel of bytes, or a palette, got RGB"):
        truth.label_map("2007_000000.jpg")
    for name in ("2007_000001.jpg", "2007_000002.jpg"):
        with pytest.raises(UserError, match="cannot be read"):
            truth.label_map(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("voc21", r"voc21: no truth in .*: expected SegmentationClass/\*\.png there"),
        ("context59", r"SegmentationClassContext/\*\.png"),
        ("object", r"stuffthingmaps/val2017/\*_labelTrainIds\.png or annotations/val2017"),
        ("cityscapes", r"gtFine/val/\*_gtFine_labelTrainIds\.png or .*_gtFine_labelIds\.png"),
    ],
)
def test_open_protocol_truth_missing_truth_is_one_line(
    name: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        opened(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_label_images_of_our_own_exports_are_found_by_names_of_any_length(tmp_path: Path) -> None:
    paths = [
        "n" * 248 + ".jpg",
        "ü" * 124 + ".png",
        "m" * 245 + ".jpg",
        "m" * 245 + ".png",
        "a.jpg",
    ]
    run = make_run(tmp_path / "run", [Scene(path, np.ones((4, 5), np.uint16)) for path in paths])
    names = FileNames(run, lambda what, name: None)
    for number, path in enumerate(paths):
        drawn = np.zeros((4, 5), np.uint8)
        drawn[:, :number] = 1
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(drawn).save(tmp_path / "labels" / f"{names.of_image(path)}.png")
    truth = open_truth(str(tmp_path / "labels"), Wanted(["cat"], paths))
    for number, path in enumerate(paths):
        found = truth.label_map(path)
        assert found is not None
        assert int((found == 1).sum()) == 4 * number


def test_other_names_are_refused_where_nothing_names_the_values(tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.ones((4, 6), np.uint8)).save(truth / name)
    wanted = Wanted(["sofa", "dog"], ["a.jpg", "b.jpg"])
    renamed = wanted._replace(renamed={"couch": "sofa"})
    assert open_truth(str(truth), wanted).num_images == 2
    with pytest.raises(UserError, match=r"--label couch=sofa: .*json names \(there is none"):
        open_truth(str(truth), renamed)
    (truth / "classes.json").write_text('{"classes": ["background", "couch"]}')
    found = open_truth(str(truth), renamed).label_map("b.jpg")
    assert found is not None
    assert (found == 1).all()
    with pytest.raises(UserError, match="--truth-background takes its place"):
        open_truth(str(truth), renamed, background="0")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png_bomb(40_000), "has 40000 x 40000 pixels: expected at most 1,073,741,824"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "cannot be read"),
        (b"<html>", "cannot be read"),
        (b"", "cannot be read"),
    ],
)
def test_label_images_that_are_none_are_refused_by_their_header(
    tmp_path: Path, content: bytes, why: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    values = PixelValues(labels=(1, 2), background=(0,), ignored=(255,))
    files = TruthMaps(folder=(".",), ending=".png", values=values)
    of_protocol = ProtocolTruth(Folder(str(tmp_path)), files, [], Wanted([], ["a.jpg"]))
    of_folder = open_truth(str(tmp_path), Wanted(["cat"], ["a.jpg"]))
    for truth in (of_protocol, of_folder):
        with pytest.raises(UserError, match=why):
            truth.label_map("a.jpg")
