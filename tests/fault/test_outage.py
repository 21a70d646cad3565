"""Images that cannot be read for a while: the next call tries just those; the rows are exact."""

import shutil

import pytest

from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.inspect import inspect_folder
from pipeline.run.reader import RunReader
from schemas.errors import ErrorCode
from schemas.records import TABLE_NAMES
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    table_rows,
)

EVERY_SHARD = range(1, 20, 4)


@pytest.fixture
def collection(images, tmp_path):
    return shutil.copytree(images, tmp_path / "images")


@pytest.fixture
def expected(undisturbed, images, collection):
    """The rows of an undisturbed run, had it been over the copy."""
    return {
        **undisturbed,
        "images": [
            {**row, "uri": row["uri"].replace(str(images), str(collection))}
            for row in undisturbed["images"]
        ],
    }


def run(config, retry=(), faults=None):
    return job.run(config, Progress(), BuildColourSegmenter(faults or SegmenterFaults()), retry)


def take_away(collection, numbers):
    """Move images out of the collection; return what brings them back."""
    away = collection.with_name("away")
    away.mkdir()
    paths = [path for path in sorted(collection.iterdir()) if int(path.name[:3]) in numbers]
    for path in paths:
        path.rename(away / path.name)

    def bring_back():
        for path in paths:
            (away / path.name).rename(path)

    return bring_back


@pytest.mark.parametrize("on_ray", [False, True])
def test_only_images_that_wait_are_tried_again(on_ray, collection, expected, tmp_path, request):
    if on_ray:
        request.getfixturevalue("ray_cluster")
    config = colour_config(collection, tmp_path / "run", run={"local": not on_ray, "workers": 2})
    bring_back = None

    class TakeAway(Progress):
        """Moves images as soon as the list is frozen."""

        def begin(self):
            nonlocal bring_back
            bring_back = bring_back or take_away(collection, EVERY_SHARD)

    report = job.run(config, TakeAway(), BuildColourSegmenter())
    assert report.waiting == {"not_found": 5}
    assert (report.num_done, report.exit_code) == (20, 3)
    assert "nothing was left to do" not in report.summary()
    run_folder = RunFolder.open(config.out)
    assert inspect_folder(run_folder).waiting == {"not_found": 5}
    before, reader = run_folder.done(), RunReader(run_folder)
    assert job.plan(config).num_to_retry == dict.fromkeys(range(5), 1)
    bring_back()
    report = run(config)
    assert (report.num_new, report.exit_code, report.errors) == (5, 0, {})
    assert table_rows(config.out) == expected
    after = run_folder.done()
    assert all(after[shard].attempt != before[shard].attempt for shard in before)
    # A reader that began before the second call still reads the rows that it found.
    assert [len(shard.images) for shard in reader.shards()] == [3] * 5
    assert len(run_folder.orphans()) == 5 * len(TABLE_NAMES)
    run_folder.clean()
    assert table_rows(config.out) == expected
    assert "nothing was left to do" in run(config).summary()


def test_images_that_stay_away_keep_their_rows(collection, tmp_path):
    config = colour_config(collection, tmp_path / "run")
    run(config)
    sorted(collection.iterdir())[3].unlink()
    assert "nothing was left to do" in run(config).summary()


def test_job_stops_when_the_collection_is_gone_and_goes_on_later(collection, expected, tmp_path):
    config = colour_config(collection, tmp_path / "run", shard_size=2)
    away = collection.with_name("away")

    class Unmount(Progress):
        def begin(self):
            collection.rename(away)

    report = job.run(config, Unmount(), BuildColourSegmenter())
    assert report.exit_code == 3
    assert "not_found" in report.stop_reason
    assert 0 < report.num_done < 20
    away.rename(collection)
    report = run(config)
    assert (report.exit_code, report.num_new) == (0, 20)
    assert table_rows(config.out) == expected


def test_lasting_errors_are_tried_again_when_wanted(collection, expected, tmp_path):
    config = colour_config(collection, tmp_path / "run")
    image = sorted(collection.iterdir())[6]
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert run(config).errors == {"truncated": 1}
    image.write_bytes(content)
    assert "nothing was left to do" in run(config).summary()
    assert "nothing was left to do" in run(config, [ErrorCode.UNDECODABLE]).summary()
    report = run(config, [ErrorCode.TRUNCATED])
    assert (report.num_new, report.errors) == (1, {})
    assert table_rows(config.out) == expected


def test_image_that_kills_its_worker_when_it_is_back_gets_its_code(
    collection, tmp_path, ray_cluster
):
    config = colour_config(collection, tmp_path / "run", run={"local": False, "workers": 1})

    class TakePoison(Progress):
        def begin(self):
            poison = next(collection.glob("*-poison*"))
            poison.rename(poison.with_suffix(".away"))

    assert job.run(config, TakePoison(), BuildColourSegmenter()).waiting == {"not_found": 1}
    away = next(collection.glob("*.away"))
    away.rename(away.with_suffix(".png"))
    report = run(config, faults=SegmenterFaults(kill_on="poison"))
    assert (report.errors, report.num_done) == ({"worker_lost": 1}, 20)
    assert len(table_rows(config.out)["images"]) == 20
