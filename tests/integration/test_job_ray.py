"""A whole job on a real Ray cluster: same tables as without Ray, and mistakes in one line."""

import io
import os
import time
from dataclasses import dataclass

import pytest
import ray

from pipeline.annotate.build import Built
from pipeline.job import job
from pipeline.job.progress import LineProgress, Progress
from schemas.errors import ResourceError, WeightsError
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    ColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
    table_rows,
)

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
ON_RAY = {"local": False, "workers": 2}


@pytest.fixture
def images(tmp_path):
    folder = paint_collection(tmp_path / "images", 21)
    (folder / "013.png").write_bytes(b"no image")
    return folder


@dataclass(frozen=True)
class BuildWithoutWeights:
    def __call__(self, config, device):
        raise WeightsError("clip.pretrained: no such weights; `embedded` needs none")


@dataclass(frozen=True)
class BuildByProcess:
    """Each worker process comes with weights of its own; one alone does not finish first."""

    def __call__(self, config, device):
        return Built(
            ColourSegmenter(SegmenterFaults(seconds_per_image=3.0)),
            {"colours": f"{os.getpid():064d}"},
        )


def all_cores_come_free(within_s):
    """Ray ends an actor and takes note of it a moment later."""
    deadline = time.monotonic() + within_s
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_ray_and_local_run_give_the_same_tables(images, tmp_path, monkeypatch):
    here = colour_config(images, tmp_path / "here")
    job.run(here, Progress(), BuildColourSegmenter())
    monkeypatch.chdir(tmp_path)  # the workers' own folder is another
    spread = colour_config("images", "spread", run=ON_RAY)
    stream = io.StringIO()
    report = job.run(spread, LineProgress(stream), BuildColourSegmenter())
    assert (report.exit_code, report.num_done, report.errors) == (0, 21, {"not_an_image": 1})
    assert stream.getvalue().splitlines()[-1].startswith("21/21 images")
    assert table_rows(spread.out) == table_rows(here.out)
    # Nothing is left of the workers, and a second run starts none.
    assert all_cores_come_free(within_s=30)
    again = job.run(spread, Progress(), BuildWithoutWeights())
    assert (again.exit_code, again.num_new) == (0, 0)


class Counts(Progress):
    """Keeps what a person would have seen."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def tick(self):
        self.seen.append(self.done)


def test_images_count_before_their_shard_ends(images, tmp_path):
    slow = BuildColourSegmenter(SegmenterFaults(seconds_per_image=0.2))
    config = colour_config(images, tmp_path / "run", shard_size=21, run={**ON_RAY, "batch_size": 2})
    counts = Counts()
    job.run(config, counts, slow)
    assert counts.seen == sorted(counts.seen)
    assert any(0 < done < 21 for done in counts.seen)
    assert counts.done == 21


def test_missing_weights_end_the_job_with_the_message_of_the_build(images, tmp_path):
    config = colour_config(images, tmp_path / "run", run=ON_RAY)
    with pytest.raises(WeightsError, match=r"^clip\.pretrained: no such weights"):
        job.run(config, Progress(), BuildWithoutWeights())
    assert not (tmp_path / "run").exists()


def test_workers_with_different_weights_are_refused(images, tmp_path):
    slow = colour_config(images, tmp_path / "run", run=ON_RAY, shard_size=1)
    with pytest.raises(WeightsError, match="differ"):
        job.run(slow, Progress(), BuildByProcess())


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        ({"device": "cuda"}, r"run\.device"),
        ({"cpus_per_worker": 64}, r"run\.cpus_per_worker is 64"),
    ],
)
def test_missing_hardware_is_refused_at_once(images, tmp_path, wish, named):
    if wish.get("device") == "cuda" and ray.cluster_resources().get("GPU"):
        pytest.skip("this machine has a GPU")
    config = colour_config(images, tmp_path / "run", run={**ON_RAY, **wish})
    with pytest.raises(ResourceError, match=named):
        job.run(config, Progress(), BuildColourSegmenter())
