"""Workers of Ray Train that share a batch: as one worker alone, to rounding."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.errors import ResourceError
from tests.helpers.ray_cluster import ray_cluster
from tests.helpers.student_trainings import STEPS, colour_run, student_config, train

__all__ = ["ray_cluster"]

RAYS_OWN_WARNINGS = "ignore::DeprecationWarning:ray.data.context"


def losses(out: Path) -> list[float]:
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    return [row["loss"] for row in rows if row["loss"] is not None]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings(RAYS_OWN_WARNINGS)
@pytest.mark.timeout(600)  # workers take long to start on a busy machine
def test_two_workers_learn_what_one_learns_with_the_whole_batch(tmp_path: Path) -> None:
    run = colour_run(tmp_path)
    (tmp_path / "photos" / "3.png").unlink()
    two = student_config(run, tmp_path / "two", run={"local": False, "workers": 2})
    report = train(two)
    assert (report.exit_code, report.new_steps) == (3, STEPS)
    assert report.counts == {"learned": 4, "kept for validation": 2, "failed in the run": 1}
    assert set(report.failed) == {"not_found"}
    alone = train(student_config(run, tmp_path / "one"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    assert report.miou == pytest.approx(alone.miou, abs=1e-2)
    assert train(two).new_steps == 0


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings(RAYS_OWN_WARNINGS)
def test_more_workers_than_the_cluster_holds_are_refused(tmp_path: Path) -> None:
    run = colour_run(tmp_path)
    config = student_config(
        run, tmp_path / "a", run={"local": False, "workers": 4, "cpus_per_worker": 2}
    )
    with pytest.raises(
        ResourceError, match=r"run\.workers is 4, but the Ray cluster has room for 2"
    ):
        train(config)
