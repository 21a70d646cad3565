import pytest

from pipeline.annotate.rows import tally_of
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.loss_report import LossReport
from pipeline.run.reader import RunReader
from schemas.base import Frozen
from schemas.errors import RunFolderError
from tests.helpers.drawn_runs import RunSpec, crowded_run, drawn_rows, make_run, odd_scenes


def test_images_segments_of_an_image_that_was_not_annotated_are_an_error(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(1,)))
    shard = run.shards()[1]
    rows = drawn_rows(shard, odd_scenes(), run.info.job())
    (failed,) = (image.image_id for image in rows.images if image.status == "error")
    annotations = [row.model_copy(update={"image_id": failed}) for row in rows.annotations]
    rows = rows.model_copy(update={"annotations": tuple(annotations)})
    run.commit(shard.index, "test", rows, tally_of(rows, {"wall": 1.0}))
    with pytest.raises(RunFolderError, match=f"segments of {failed}"):
        list(segments.images(RunReader(run), LossReport("X", Frozen())))


def _first_image(tmp_path, kind):
    losses = LossReport("X", Frozen())
    _, rows = next(segments.images(RunReader(crowded_run(tmp_path)), losses, kind))
    return rows


def test_instances_of_a_label_are_joined_into_its_class_mask(tmp_path):
    cat, dog, plant = _first_image(tmp_path, "class")
    assert [row["label"] for row in (cat, dog, plant)] == ["cat", "dog", "potted plant"]
    assert cat["area_px"] == 240 + 288
    assert cat["mean_prob"] == pytest.approx((240 * 0.9 + 288 * 0.6) / 528)
    assert cat["area_frac"] == pytest.approx(528 / (30 * 44))
    assert cat["num_components"] == 1  # they touch


def test_instances_are_cut_into_components_that_say_what_they_are_of(tmp_path):
    rows = _first_image(tmp_path, "components")
    assert [row["part_of"] for row in rows] == [0, 1, 2, 3]


def test_smaller_instances_lie_over_larger_ones_where_people_edit(tmp_path):
    rows = _first_image(tmp_path, "as_run")
    assert [row["area_px"] for row in rows] == [240, 288, 270, 16]
    assert segments.z_orders(rows) == [2, 0, 1, 3]
    assert segments.z_orders([{**row, "kind": "component"} for row in rows]) == [0, 1, 2, 3]
