"""The section "A bucket from first to last" of docs/cluster.md, typed as it stands there.

`OVSEG_BUCKET_IMAGES=20000` in the environment has it typed at full size, with the fastest method
and four workers as on the page (most of an hour on two cores).
"""

import io
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import s3fs
import yaml

from jobs.demo.draw import draw_scenes
from tests.helpers.colour_segmenter import table_rows
from tests.integration.ray_head import Head, ray_head

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
NUM_IMAGES = int(os.environ.get("OVSEG_BUCKET_IMAGES", "48"))
NUM_NEW, PER_ARCHIVE, PER_SHARD = (
    max(n, NUM_IMAGES // m) for n, m in ((6, 40), (12, 40), (4, 100))
)
OVSEG = [sys.executable, "-m", "jobs"]
IS_FULL = NUM_IMAGES > 1000
NUM_KILLS = 3 if IS_FULL else 1
pytestmark = pytest.mark.timeout(9000 if IS_FULL else 900)  # five jobs; a busy machine is slow


@pytest.fixture
def head(s3_endpoint: str) -> Iterator[Head]:  # its jobs find the store by the environment
    with ray_head(num_cpus=2) as started:
        yield started


class Bucket:
    """The section's bucket, and what a person types with it.

    Args:
        folder: of this test, on disk.
        url: of an empty prefix in the store.
        head: of a cluster.
    """

    def __init__(self, folder: Path, url: str, head: Head) -> None:
        self._folder, self._head = folder, head
        self.url = url
        self._text = PAGE.read_text(encoding="utf-8").split("## A bucket from first to last")[1]
        self._text = self._text.split("\n## ")[0]
        self._scenes = folder / "scenes"
        self._scenes.mkdir()
        self._drawn = draw_scenes(self._scenes, NUM_IMAGES + NUM_NEW, seed=7)
        self._typed = iter(re.findall(r"^ovseg (.*)$", self._text, re.M))

    def write_job(self) -> None:
        """Write the section's job, with the small models that need no network."""
        [text] = re.findall(r"```yaml\n(.*?)```", self._text, re.S)
        job = yaml.safe_load(text.replace("s3://bucket", self.url))
        job["vocabulary"]["labels"] = list(self._drawn.labels)[:8]
        job |= {"clip": {"model": "embedded"}, "shard_size": PER_SHARD}
        job["run"] |= {"device": "cpu"}
        if IS_FULL:
            job["method"] = {"name": "maskclip"}
        else:
            job["run"]["workers"] = 2  # each takes long to start
        for name in ("pets", "undisturbed"):
            job["out"] = f"{self.url}/runs/{name}"
            (self._folder / f"{name}.yaml").write_text(json.dumps(job), encoding="utf-8")

    def put_archives(self, first: int, last: int) -> None:
        """Put the scenes from first to before last into archives of the bucket."""
        files = sorted(self._scenes.iterdir())[first:last]
        for start in range(0, len(files), PER_ARCHIVE):
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for file in files[start : start + PER_ARCHIVE]:
                    archive.add(file, file.name)
            name = f"{(first + start) // PER_ARCHIVE:03d}.tar"
            s3fs.S3FileSystem().pipe_file(f"{self.url}/train/{name}", packed.getvalue())

    def next_command(self) -> list[str]:
        """Return what is typed next, with this bucket and head in the place of the page's."""
        line = next(self._typed).replace("s3://bucket", self.url)
        address = self._head.address.removeprefix("http://")
        args = shlex.split(line.replace("HEAD:8265", address), comments=True)
        return [*OVSEG, *args]

    def is_all_typed(self) -> bool:
        return next(self._typed, None) is None

    def type(self, command: list[str]) -> str:
        """Run a command to its end, and return what it prints."""
        done = subprocess.run(
            command, cwd=self._folder, env=self._head.env, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout + done.stderr}"
        return done.stdout + done.stderr

    def kill(self, command: list[str], after_shards: int) -> None:
        """Run a command, and kill its job on the cluster after so many new shards."""
        before = self.num_done()
        with subprocess.Popen(
            command, cwd=self._folder, env=self._head.env, stdout=subprocess.DEVNULL
        ) as process:
            while self.num_done() < before + after_shards:
                assert process.poll() is None
                time.sleep(0.2)
            for one in psutil.Process(self._head.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if one.cmdline()[-2:] == ["annotate", "job.yaml"]:
                        one.send_signal(signal.SIGKILL)
            process.communicate(timeout=120)
        assert process.returncode != 0

    def num_done(self) -> int:
        store = s3fs.S3FileSystem()
        store.invalidate_cache()
        with suppress(FileNotFoundError):
            return len(store.ls(f"{self.url}/runs/pets/done"))
        return 0

    def rows(self, name: str = "pets") -> list[tuple[str, str]]:
        """Return path and status of every image, as the tables of a run have them."""
        return sorted((row["path"], row["status"]) for row in self.tables(name)["images"])

    def tables(self, name: str = "pets") -> dict[str, list[dict[str, Any]]]:
        """Return the rows of a run's tables, each in the order of what names a row."""

        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return row["image_id"], row.get("label", ""), row.get("segment_index", 0)

        rows = table_rows(f"{self.url}/runs/{name}")
        return {table: sorted(found, key=key) for table, found in rows.items()}

    def expected_rows(self, number: int) -> list[tuple[str, str]]:
        names = [path.name for path in sorted(self._scenes.iterdir())][:number]
        return [(f"{n // PER_ARCHIVE:03d}.tar/{name}", "ok") for n, name in enumerate(names)]


def test_every_step_of_the_page_works_and_all_rows_are_exact(
    tmp_path: Path, s3_folder: str, head: Head
) -> None:
    bucket = Bucket(tmp_path, s3_folder, head)
    bucket.write_job()
    bucket.put_archives(0, NUM_IMAGES)
    assert re.search(rf"images +{NUM_IMAGES:,} in ", bucket.type(bucket.next_command()))
    submit = bucket.next_command()
    for _ in range(NUM_KILLS):
        bucket.kill(submit, after_shards=random.randint(1, 5 * NUM_KILLS - 3))
    assert f"{NUM_IMAGES:,} of {NUM_IMAGES:,} images done" in bucket.type(submit)
    assert bucket.rows() == bucket.expected_rows(NUM_IMAGES)

    bucket.put_archives(NUM_IMAGES, NUM_IMAGES + NUM_NEW)
    said = bucket.type(bucket.next_command())
    assert f"{NUM_NEW} new" in said
    assert len(bucket.rows()) == NUM_IMAGES
    said = bucket.type(bucket.next_command())
    total = NUM_IMAGES + NUM_NEW
    assert f"{total:,} of {total:,} images done" in said
    assert bucket.rows() == bucket.expected_rows(total)
    # One thread, as each worker has: with two, sums are rounded otherwise.
    bucket.type(["env", "OMP_NUM_THREADS=1", *OVSEG, "annotate", "undisturbed.yaml", "--local"])
    undisturbed = bucket.tables("undisturbed")
    for table, rows in bucket.tables().items():
        pairs = zip(rows, undisturbed[table], strict=True)
        assert not [pair for pair in pairs if pair[0] != pair[1]][:3], table

    for _ in ("relabel", "check", "export"):
        bucket.type(bucket.next_command())
    assert bucket.rows("pets-5") == bucket.expected_rows(total)
    coco = f"{bucket.url}/runs/pets-5/exports/coco/instances.json"
    exported = json.loads(s3fs.S3FileSystem().cat_file(coco))
    assert len(exported["images"]) == total
    named = {category["name"] for category in exported["categories"]}
    assert named == {"cat", "dog", "sofa", "bed", "rug"}
    assert bucket.is_all_typed()
