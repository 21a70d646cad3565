"""The metrics of a job, scraped from the endpoint of a Ray node; the dashboard asks for them."""

import json
import re
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from pipeline.job import job
from pipeline.job.monitoring.metrics import METRICS
from pipeline.job.progress import Progress
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
)

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]
DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "ovseg.json"
RAYS_OWN = {"ray_node_gpus_utilization"}
"""What the dashboard shows of Ray's own metrics; without a GPU a node has none of it."""


def scrape() -> str:
    """Return what Prometheus reads from this machine's node; empty: nothing yet."""
    node = next(node for node in ray.nodes() if node["Alive"])
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


def samples(text: str, run: str) -> dict[str, dict[str, float]]:
    """Return the values of a run by metric and by labels, without those of Ray."""
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(ray_ovseg_\w+)\{(.*)\} (\S+)$", text, re.M):
        if f'run="{run}"' in labels:
            own = re.findall(r'\b(stage|code|state|what|device)="(\w+)"', labels)
            key = ",".join(value for _, value in own)
            at = found.setdefault(name, {})
            at[key] = at.get(key, 0.0) + float(value)
    return found


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Return the highest value of each sample while a job goes on, in which a worker dies."""
    folder = tmp_path_factory.mktemp("metrics")
    images = paint_collection(folder / "images", 40, {30: "kill"})
    (images / "003.png").write_bytes(b"no image")
    config = colour_config(images, folder / "run", run={"local": False, "workers": 2})
    build = BuildColourSegmenter(SegmenterFaults(kill_on="kill", seconds_per_image=1.0))
    work = threading.Thread(target=job.run, args=(config, Progress(), build))
    work.start()
    highest: dict[str, dict[str, float]] = {}
    while work.is_alive():
        time.sleep(1.0)
        for name, values in samples(scrape(), config.out).items():
            for labels, value in values.items():
                at = highest.setdefault(name, {})
                at[labels] = max(value, at.get(labels, 0.0))
    return highest


def test_every_metric_is_at_the_endpoint(scraped: dict[str, dict[str, float]]) -> None:
    shown = {
        re.sub(r"_(total|sum|count|bucket)$", "", name.removeprefix("ray_")) for name in scraped
    }
    assert shown == set(METRICS)
    assert len(METRICS) >= 12


def test_the_numbers_are_those_of_the_job(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["ray_ovseg_errors_total"]["not_an_image"] == 1
    assert scraped["ray_ovseg_shards"]["running"] == 2
    assert scraped["ray_ovseg_workers"]["ready"] == 2
    assert 0 < scraped["ray_ovseg_images_left"][""] <= 40
    assert scraped["ray_ovseg_worker_restarts_total"][""] >= 1
    images = scraped["ray_ovseg_images_total"][""]
    assert 20 <= images <= 48  # all, but for the last seconds and what a dead worker took with it
    by_stage = scraped["ray_ovseg_stage_seconds_count"]
    assert set(by_stage) == {"read", "decode", "segment", "rle"}
    assert scraped["ray_ovseg_stage_seconds_sum"]["segment"] >= 0.8 * images
    assert scraped["ray_ovseg_written_bytes_total"][""] > 0
    assert scraped["ray_ovseg_read_bytes_total"][""] > 20 * 100
    assert scraped["ray_ovseg_memory_bytes"]["cpu"] > 50e6


def test_the_dashboard_asks_for_metrics_that_are_there(
    scraped: dict[str, dict[str, float]],
) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [
        one["query"]["query"] for one in dashboard["templating"]["list"] if one["name"] == "run"
    ]
    asked = {name for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert asked - set(scraped) == RAYS_OWN
    plain = {re.sub(r"_(total|sum|count)$", "", name.removeprefix("ray_")) for name in asked}
    assert set(METRICS) <= plain  # and each of ours is shown
