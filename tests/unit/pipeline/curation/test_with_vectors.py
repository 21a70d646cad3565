"""The images of a run that have a vector, and what is said of the others."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.curation.images import annotated_images
from pipeline.curation.with_vectors import images_with_vectors
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from schemas.records import ShardRows
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally, unit_vector
from tests.helpers.tampered_runs import as_version_4


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return begin_run(str(tmp_path / "run"))


def commit(run: RunFolder, without: tuple[int, ...] = ()) -> None:
    for shard in run.shards():
        rows = make_rows(shard)
        if shard.index in without:
            rows = ShardRows(
                images=rows.images, scores=rows.scores, annotations=rows.annotations, vectors=()
            )
        run.commit(shard.index, "t", rows, make_tally(rows))


def test_vectors_are_those_of_the_images_at_their_places(run: RunFolder):
    commit(run)
    images = annotated_images(run)
    found = images_with_vectors(images)
    assert found.num_without == 0
    assert found.places.tolist() == list(range(len(images)))
    ids = images.table["image_id"].to_pylist()
    expected = np.array([unit_vector(one) for one in ids], np.float16)
    assert np.array_equal(found.vectors_ND, expected)


def test_images_without_a_vector_are_counted_and_left_out(
    run: RunFolder, caplog: pytest.LogCaptureFixture
):
    commit(run, without=(1,))
    images = annotated_images(run)
    found = images_with_vectors(images)
    lacking = int((images.table["shard"].to_numpy() == 1).sum())
    assert 0 < lacking == found.num_without == len(images) - len(found.places)
    assert f"{lacking} image" in caplog.text
    assert (np.diff(found.places) > 0).all()


def test_run_of_an_older_ovseg_has_none(run: RunFolder):
    commit(run)
    with pytest.raises(UserError, match="none of its images has a CLIP vector"):
        images_with_vectors(annotated_images(as_version_4(run)))
