"""What a student learns from public data sets, in their own folders and files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_core.training.students import IGNORED
from pipeline.training.students.sources.protocol_data import ProtocolData
from schemas.config import ImageConfig
from schemas.errors import UserError
from tests.helpers.camvid import BICYCLIST, SPLITS, VOID, write_camvid
from tests.helpers.public_datasets import blocks, grey, photo


@pytest.fixture(scope="module")
def camvid(tmp_path_factory) -> Path:
    return write_camvid(tmp_path_factory.mktemp("data") / "CamVid")


def learned(name: str, data: Path) -> ProtocolData:
    return ProtocolData(name, str(data), ImageConfig())


def test_camvid_is_learned_from_train_and_validated_with_val(camvid):
    data = learned("camvid", camvid)
    paths = data.images.column("path").to_pylist()
    assert data.num_training == SPLITS["train"]
    assert len(paths) == SPLITS["train"] + SPLITS["val"]
    assert paths[0] == "training/0000.png"
    assert paths[-1] == f"validation/{SPLITS['val'] - 1:04d}.png"
    assert len(set(data.images.column("image_id").to_pylist())) == len(paths)
    assert data.without_truth == ()
    assert len(data.vocabulary.names) == 11
    assert data.vocabulary.background == ()


@pytest.mark.parametrize(("part", "folder"), [("training", "train"), ("validation", "val")])
def test_camvids_void_is_ignored_and_classes_count_from_one(camvid, part, folder):
    labels = learned("camvid", camvid).label_map(f"{part}/0002.png")
    values = np.array(Image.open(camvid / f"{folder}annot/0002.png"))
    assert ((labels == IGNORED) == (values == VOID)).all()
    assert (labels[values < VOID] == values[values < VOID].astype(int) + 1).all()
    assert labels.max() == BICYCLIST + 1
    assert labels.dtype == np.int16


@pytest.mark.parametrize(
    ("ending", "values"),
    [("_gtFine_labelTrainIds.png", (0, 18, 255)), ("_gtFine_labelIds.png", (7, 33, 4))],
)
def test_cityscapes_is_learned_from_its_training_cities(tmp_path, ending, values):
    for index, city in enumerate(("aachen", "ulm")):
        name = f"{city}/{city}_00000{index}_000019"
        photo(tmp_path / f"leftImg8bit/train/{name}_leftImg8bit.png", index, (30, 44))
        grey(tmp_path / f"gtFine/train/{name}{ending}", blocks(index, values, (30, 44)))
    photo(tmp_path / "leftImg8bit/train/ulm/ulm_000009_000019_leftImg8bit.png", 9, (30, 44))
    data = learned("cityscapes", tmp_path)
    assert data.num_training == data.images.num_rows == 2
    assert data.without_truth == ("training/ulm/ulm_000009_000019_leftImg8bit.png",)
    labels = data.label_map("training/aachen/aachen_000000_000019_leftImg8bit.png")
    assert set(np.unique(labels)) == {IGNORED, 1, 19}


def test_a_data_set_without_a_training_split_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"voc21 has no split for training.*camvid or cityscapes"):
        learned("voc21", tmp_path)


def test_a_wrong_folder_says_what_was_expected(tmp_path):
    with pytest.raises(UserError, match=r"train/\*\.png"):
        learned("camvid", tmp_path)


def test_images_without_any_label_image_of_their_name_are_an_error(tmp_path):
    photo(tmp_path / "train/a.png", 1, (20, 30))
    grey(tmp_path / "trainannot/b.png", np.zeros((20, 30), np.uint8))
    photo(tmp_path / "val/a.png", 1, (20, 30))
    grey(tmp_path / "valannot/a.png", np.zeros((20, 30), np.uint8))
    with pytest.raises(UserError, match="none of the 1 training images"):
        learned("camvid", tmp_path)


def test_a_label_image_with_values_of_another_data_set_is_an_error(camvid, tmp_path):
    write_camvid(tmp_path)
    grey(tmp_path / "trainannot/0001.png", np.full((96, 128), 77, np.uint8))
    with pytest.raises(UserError, match="77"):
        learned("camvid", tmp_path).label_map("training/0001.png")
