import pytest

from pipeline.annotate.rows import tally_of
from pipeline.exporters.shared import segments
from pipeline.exporters.shared.loss_report import LossReport
from pipeline.run.reader import RunReader
from schemas.base import Frozen
from schemas.errors import RunFolderError
from tests.helpers.drawn_runs import RunSpec, drawn_rows, make_run, odd_scenes


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
