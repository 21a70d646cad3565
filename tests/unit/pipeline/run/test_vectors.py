"""The vectors of a run's images: current images only, shard by shard, older shards have none."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.run.folder import RunFolder
from pipeline.run.inspection.check import check_run
from pipeline.run.inspection.inspect import inspect_folder
from pipeline.run.vectors import VectorBatch, image_vectors, num_vectors, vector_clip
from schemas.errors import RunFolderError, UserError
from schemas.records import ImageVector
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally, unit_vector
from tests.helpers.tampered_runs import as_version_4, rewrite
from tests.unit.pipeline.run.test_generations import begin, update


def commit_left(run: RunFolder) -> None:
    for index in run.shards_left(run.done()):
        rows = make_rows(run.shards()[index])
        run.commit(index, "t", rows, make_tally(rows))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = begin_run(str(tmp_path / "run"))
    commit_left(run)
    return run


def by_path(run: RunFolder) -> dict[str, tuple[str, tuple[float, ...]]]:
    batches: list[VectorBatch] = list(image_vectors(run))
    assert all(batch.vectors_ND.dtype == np.float16 for batch in batches)
    return {
        path: (image_id, tuple(vector))
        for batch in batches
        for image_id, path, vector in zip(
            batch.image_ids, batch.paths, batch.vectors_ND.tolist(), strict=True
        )
    }


def test_every_annotated_image_has_its_vector_under_its_path(run: RunFolder) -> None:
    images = [row for batch in run.read_table("images") for row in batch.to_pylist()]
    ok = {row["path"]: row["image_id"] for row in images if row["status"] == "ok"}
    assert by_path(run) == {path: (one, unit_vector(one)) for path, one in ok.items()}
    assert len(list(image_vectors(run))) == 3  # one batch a shard
    assert num_vectors(run) == inspect_folder(run).num_vectors == len(ok) < len(images)
    assert vector_clip(run).weights == {"clip": "a" * 64}


def test_vectors_of_superseded_images_are_left_out(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    commit_left(begin(out, dict.fromkeys("abcdef", 0)))
    before = by_path(RunFolder.open(out))
    run = update(out, dict.fromkeys("acde", 0) | {"f": 1, "g": 0})
    commit_left(run)
    assert "b" in before
    assert by_path(run).keys() == {"a", "d", "e", "f", "g"}  # c failed
    assert num_vectors(run) == 5
    assert by_path(RunFolder.open(f"{out}@1")) == before


def test_a_run_of_version_4_goes_on_and_its_new_shards_have_vectors(tmp_path: Path) -> None:
    run = begin_run(str(tmp_path / "run"))
    rows = make_rows(run.shards()[0])
    run.commit(0, "t", rows, make_tally(rows))
    old = as_version_4(run)
    assert list(image_vectors(old)) == []
    fingerprint = old.fingerprint
    again = begin_run(str(tmp_path / "run"))
    assert again.fingerprint == fingerprint != run.fingerprint
    assert list(again.done()) == [0]
    commit_left(again)
    assert len(by_path(again)) == 5
    assert check_run(again).is_clean
    assert again.shard_rows(again.done()[0]).vectors == ()


def test_vectors_of_two_lengths_are_refused(run: RunFolder) -> None:
    marker = run.done()[1]
    rows = run.shard_rows(marker)
    short = tuple(ImageVector(image_id=it.image_id, vector=(1.0,)) for it in rows.vectors)
    run.commit(1, "u", rows.model_copy(update={"vectors": short}), marker.tally, marker)
    with pytest.raises(RunFolderError, match=r"expected vectors of 4 .*delete done/00001\.json"):
        list(image_vectors(run))


def test_a_second_vector_of_an_image_is_found(run: RunFolder, tmp_path: Path) -> None:
    first = next(image_vectors(run)).image_ids[0]
    changed = rewrite(run, tmp_path / "copy", "vectors", {"image_id": lambda _: first})
    findings = check_run(changed).findings
    assert any("one row an image" in finding.expected for finding in findings)
    assert any("not of this shard" in finding.found for finding in findings)


def test_a_method_without_clip_has_no_vectors(tmp_path: Path) -> None:
    run = begin_run(str(tmp_path / "run"))
    run.info = run.info.model_copy(update={"weights": {"student": "b" * 64}})
    with pytest.raises(UserError, match="have no vectors, as the method clip_diy"):
        vector_clip(run)
