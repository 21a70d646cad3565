"""Stored features are read shard by shard, in whatever order images are asked for."""

import shutil
from pathlib import Path

import pytest

from jobs.demo.draw import draw_scenes
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.tables.stored_features import StoredFeatures
from schemas.config import JobConfig
from schemas.errors import FeaturesError
from schemas.tables import to_records


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has grown twice: images 0, 3, 6 are of one shard, then 1, 4, 7, then 2, 5."""
    place = tmp_path_factory.mktemp("grown")
    (place / "scenes").mkdir()
    draw_scenes(place / "scenes", 8, 3)
    (place / "images").mkdir()
    scenes = sorted((place / "scenes").glob("*.png"))
    for generation in range(3):
        for scene in scenes[generation::3]:
            shutil.copy(scene, place / "images")
        fields = {
            "images": str(place / "images"),
            "labels": ["red solid circle", "blue striped fish"],
            "out": str(place / "run"),
            "clip": {"model": "embedded"},
            "shard_size": 4,
            "run": {"local": True, "keep_features": "float16", "update": generation > 0},
        }
        job.run(JobConfig.model_validate(fields), Progress())
    return place / "run"


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "run"))


def test_shards_whose_images_come_in_turns_are_read_once(copied: Path) -> None:
    source = StoredFeatures(str(copied))
    refs = list(to_records("manifest", source.images()))
    assert source.run.num_shards == 3
    stored = source.read(refs)
    first = [next(stored) for _ in range(3)]
    shutil.rmtree(copied / "features")
    rest = list(stored)
    assert [one.ref.path for one in (*first, *rest)] == [ref.path for ref in refs]
    assert len({one.features for one in (*first, *rest)}) == 8
    source.close()


def test_every_image_has_its_own_features_whatever_comes_next(kept: Path) -> None:
    source = StoredFeatures(str(kept))
    refs = list(to_records("manifest", source.images()))
    whole = {one.ref.path: one for one in source.read(refs)}
    others = StoredFeatures(str(kept))
    for then in ((), refs[:2], refs[::-1]):
        for part in (refs[5:], refs[:1], refs[::-2]):
            for one in others.read(part, then):
                assert (one.features, one.vector) == (
                    whole[one.ref.path].features,
                    whole[one.ref.path].vector,
                )
    source.close()
    others.close()
    assert len(list(others.read(refs))) == 8, "it can be asked again"
    others.close()


def test_a_damaged_shard_is_said_when_its_images_are_asked_for(copied: Path) -> None:
    source = StoredFeatures(str(copied))
    refs = list(to_records("manifest", source.images()))
    file = sorted((copied / "features").iterdir())[1]
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    own, damaged = refs[::3], refs[1::3]
    for _ in range(2):
        assert len(list(source.read(own, damaged))) == 3
        with pytest.raises(FeaturesError, match="damaged"):
            list(source.read(damaged))
    file.write_bytes(data)
    assert len(list(source.read(damaged))) == 3
    unknown = refs[0].model_copy(update={"path": "zzz.png"})
    with pytest.raises(FeaturesError, match=r"has no image zzz\.png any more"):
        list(source.read([unknown]))
    other = refs[0].model_copy(update={"image_id": "0" * 16})
    with pytest.raises(FeaturesError, match="any more"):
        list(source.read([other]))
    source.close()
