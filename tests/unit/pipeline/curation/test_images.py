"""The images of a run as columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.curation.images import annotated_images, labels_found
from pipeline.run.folder import RunFolder
from schemas.errors import UserError
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run, odd_scenes


def test_images_are_those_that_were_annotated_in_manifest_order(tmp_path: Path):
    scenes = odd_scenes()
    run = make_run(tmp_path, scenes, RunSpec(unfinished=(2,)))
    images = annotated_images(run)
    maps = {scene.path: scene.label_map for scene in scenes}
    paths = images.paths.to_pylist()
    done = [scene.path for shard in (0, 1, 3) for scene in scenes[3 * shard : 3 * shard + 3]]
    assert paths == [path for path in done if maps[path] is not None]
    assert images.size_px.tolist() == [maps[path].size for path in paths]
    labels = labels_found(images)
    for path, found in zip(paths, labels, strict=True):
        assert set(np.flatnonzero(found) + 1) == set(np.unique(maps[path])) - {0}
    wanted = pa.array([f"id-{paths[3]}", "nothing"])
    assert images.places(wanted).tolist() == [3, -1]
    assert images.row(3)["path"] == paths[3]
    assert images.row(3)["shard"] == run.shard_of(run.places([f"id-{paths[3]}"])[0])


def test_images_that_vanished_are_none(tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(4)])
    grown = grow_run(run, new=[Scene("new.png", label_map(9))], vanished=["1.png"])
    assert annotated_images(grown).paths.to_pylist() == ["0.png", "2.png", "3.png", "new.png"]
    assert len(labels_found(annotated_images(grown))) == 4
    first = RunFolder.open(f"{run.folder.uri}@1")
    assert len(annotated_images(first)) == 4


def test_run_without_annotated_images_is_an_error(tmp_path: Path):
    run = make_run(tmp_path, [Scene("a.png", None), Scene("b.png", None)])
    with pytest.raises(UserError, match="no image is annotated yet"):
        annotated_images(run)
