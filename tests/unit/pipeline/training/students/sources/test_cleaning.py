"""Which of the teacher's pixels are learned."""

from pathlib import Path

import numpy as np
import pytest

from ovseg_core.rle.encode import encode_rle
from ovseg_core.training.students import IGNORED
from pipeline.run.folder import RunFolder
from pipeline.run.tables.damaged import Row
from pipeline.training.students.sources.cleaning import Cleaning
from schemas.config import Calibration, CleaningConfig
from schemas.errors import UserError
from tests.helpers.student_trainings import colour_run

SIZE_HW = 12, 20


def row(label: str, category: int, score: float, mask: np.ndarray) -> Row:
    counts = encode_rle(mask, SIZE_HW)[1].counts
    return {"label": label, "category_id": category, "mean_prob": score, "rle_counts": counts}


@pytest.fixture
def rows() -> list[Row]:
    left, right = np.zeros(SIZE_HW, np.uint8), np.zeros(SIZE_HW, np.uint8)
    left[:, :6], right[:, 10:] = 1, 1
    return [row("cat", 1, 0.4, left), row("dog", 2, 0.8, right)]


def cleaned(rows: list[Row], calibration: Calibration | None = None, **rules: object) -> np.ndarray:
    masks = Cleaning(CleaningConfig.model_validate(rules), calibration).paint(rows, SIZE_HW)
    assert set(np.unique(masks.painted)) == {0, 1, 2}
    return masks.cleaned


def test_without_rules_every_mask_is_learned(rows: list[Row]) -> None:
    found = cleaned(rows)
    assert (found[:, :6] == 1).all()
    assert (found[:, 6:10] == 0).all()
    assert (found[:, 10:] == 2).all()


def test_masks_below_the_score_are_ignored(rows: list[Row]) -> None:
    found = cleaned(rows, min_score=0.5)
    assert (found[:, :6] == IGNORED).all()
    assert (found[:, 10:] == 2).all()


def test_calibrated_thresholds_count_by_label(rows: list[Row]) -> None:
    calibration = Calibration(
        method="maskclip", scores=(0.0, 1.0), probabilities=(0.0, 0.5), thresholds={"dog": 0.45}
    )
    found = cleaned(rows, calibration)
    assert (found[:, :6] == 1).all()
    assert (found[:, 10:] == IGNORED).all()  # 0.8 is 0.4 when it is calibrated


@pytest.mark.parametrize("edge_px", [1, 2])
def test_edges_between_labels_are_ignored_and_the_frame_is_none(
    edge_px: int, rows: list[Row]
) -> None:
    found = cleaned(rows, edge_px=edge_px)
    columns = [6 - edge_px, 6 + edge_px, 10 - edge_px, 10 + edge_px]
    ignored = np.zeros(20, bool)
    ignored[columns[0] : columns[1]] = ignored[columns[2] : columns[3]] = True
    np.testing.assert_array_equal(found == IGNORED, np.tile(ignored, (12, 1)))


def test_image_without_masks_is_background() -> None:
    masks = Cleaning(CleaningConfig(edge_px=1)).paint([], SIZE_HW)
    assert masks.cleaned.shape == SIZE_HW
    assert not masks.cleaned.any()


def test_calibration_files_are_checked(tmp_path: Path) -> None:
    run: RunFolder = colour_run(tmp_path, 1)
    file = tmp_path / "calibration.json"
    config = CleaningConfig(thresholds=str(file))
    with pytest.raises(UserError, match=r"cleaning\.thresholds: there is no file"):
        Cleaning.of_run(config, run)
    file.write_text("{}")
    with pytest.raises(UserError, match="is not a file of `ovseg calibrate`"):
        Cleaning.of_run(config, run)
    good = Calibration(method="clip_diy", scores=(0.5,), probabilities=(0.5,))
    file.write_text(good.model_dump_json())
    assert Cleaning.of_run(config, run).identity["thresholds"]["scores"] == [0.5]
    file.write_text(good.model_copy(update={"method": "maskclip"}).model_dump_json())
    with pytest.raises(UserError, match="calibration is of the method 'maskclip'"):
        Cleaning.of_run(config, run)


def test_instances_are_painted_by_score_and_a_hidden_one_of_low_score_hides_nothing() -> None:
    left, right = np.zeros(SIZE_HW, np.uint8), np.zeros(SIZE_HW, np.uint8)
    left[:, :12], right[:, 8:18] = 1, 1
    rows = [row("cat", 1, 0.8, left), row("dog", 2, 0.4, right)]
    rows = [{**one, "kind": "instance", "area_px": 144} for one in rows]
    found = cleaned(rows, min_score=0.5)
    assert (found[:, :12] == 1).all()
    assert (found[:, 12:18] == IGNORED).all()
    assert (found[:, 18:] == 0).all()
