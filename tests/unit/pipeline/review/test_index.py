"""The review index against the tables that it reads."""

import numpy as np
import pytest

from pipeline.review.index import ReviewIndex
from tests.helpers.drawn_runs import LABELS, RunSpec, make_run, odd_scenes


@pytest.mark.parametrize("segments", ["class", "components"])
def test_index_equals_the_tables(tmp_path, segments):
    run = make_run(tmp_path, odd_scenes(), RunSpec(masks={"segments": segments}))
    index = ReviewIndex(run)
    images = [row for batch in run.read_table("images") for row in batch.to_pylist()]
    rows = [row for batch in run.read_table("annotations") for row in batch.to_pylist()]
    assert len(index) == len(images) == run.info.num_images
    for place, image in enumerate(images):
        assert index.row(image["image_id"]) == place
        assert index.image(place)["path"] == image["path"]
        part = index.segments.of(place)
        own = [row for row in rows if row["image_id"] == image["image_id"]]
        assert index.segments.label[part].tolist() == [row["category_id"] for row in own]
        assert index.segments.segment_index[part].tolist() == [row["segment_index"] for row in own]
        np.testing.assert_allclose(
            index.segments.score[part], [row["mean_prob"] for row in own], rtol=1e-6
        )
        segments = index.segments_of(place)
        assert [one["segment_index"] for one in segments] == [row["segment_index"] for row in own]
        assert [one["rle_counts"] for one in segments] == [row["rle_counts"] for row in own]
        assert index.marker(place).shard == place // 3
    assert index.row("unknown") is None
    assert index.rows(["unknown", images[2]["image_id"]]) == [None, 2]
    expected = [len({row["image_id"] for row in rows if row["label"] == label}) for label in LABELS]
    assert index.segments.images_by_label(len(LABELS)) == expected
