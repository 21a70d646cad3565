"""The review page on 100,000 images: seconds to the first grid, and what scrolling fetches.

Makes a run folder with the tables' own writers, serves it by the command that a person types, and
opens it in Chromium (`OVSEG_CHROMIUM`, or the one on the path) through Playwright.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg_core.rle.encode import Rle, encode_rle
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from schemas.config import JobConfig
from schemas.errors import ErrorCode
from schemas.records import (
    Annotation,
    ImageRef,
    ImageResult,
    ScoreRow,
    Shard,
    ShardRows,
    ShardTally,
)
from schemas.score_columns import SCORE_COLUMNS
from schemas.tables import to_table

NUM_IMAGES = 100_000
LABELS = ("cat", "dog", "sofa", "potted plant")
SIZE_HW = (240, 320)
NUM_PHOTOS = 8
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
SECONDS_BETWEEN = """
() => performance.getEntriesByType("resource").filter((one) => one.name.includes("/tint"))
  .map((one) => one.responseEnd / 1000).sort((one, other) => one - other)
"""


class Many:
    """A made run: few photographs and masks, many images that show them.

    Args:
        folder: empty.
    """

    def __init__(self, folder: Path) -> None:
        self._rng = np.random.default_rng(0)
        self._photos = folder / "photos"
        self._photos.mkdir()
        self._masks = [self._draw(number) for number in range(NUM_PHOTOS)]
        config = JobConfig.model_validate(
            {"images": str(self._photos), "out": str(folder / "run"), "labels": list(LABELS)}
        )
        refs = [
            ImageRef(
                image_id=f"{number:016x}",
                path=f"batch_{number // 1000:03d}/photo_{number:06d}.jpg",
                uri=str(self._photos / f"{number % NUM_PHOTOS}.jpg"),
            )
            for number in range(NUM_IMAGES)
        ]
        self.run = RunFolder.create_or_resume(
            config.out, RunIdentity(config, {}), to_table("manifest", refs)
        )
        for shard in self.run.shards():
            self._commit(shard)

    def _draw(self, number: int) -> dict[int, Rle]:
        coarse = self._rng.integers(0, len(LABELS) + 1, (6, 8))
        label_map = np.kron(coarse, np.ones((40, 40), int)).astype(np.uint16)
        colours = self._rng.integers(40, 220, (len(LABELS) + 1, 3)).astype(np.uint8)
        Image.fromarray(colours[label_map]).save(self._photos / f"{number}.jpg")
        return encode_rle(label_map, SIZE_HW)

    def _commit(self, shard: Shard) -> None:
        images, scores, annotations = [], [], []
        failed = 0
        for ref in shard.refs:
            base = {"image_id": ref.image_id, "path": ref.path, "uri": ref.uri}
            number = int(ref.image_id, 16)
            if number % 200 == 7:
                failed += 1
                images.append(ImageResult(**base, status="error", error_code=ErrorCode.TRUNCATED))
                continue
            masks = self._masks[number % NUM_PHOTOS]
            size = {"height": SIZE_HW[0], "width": SIZE_HW[1]}
            doubt = float(self._rng.random())
            images.append(
                ImageResult(**base, **size, num_segments=len(masks), review_priority=doubt)
            )
            for index, (label, rle) in enumerate(masks.items()):
                annotations.append(self._annotation(ref.image_id, index, label, rle))
            scores += [
                ScoreRow(image_id=ref.image_id, label=name, category_id=place, max_prob=0.5,
                         mean_prob=0.2, area_frac=0.1)
                for place, name in enumerate(LABELS, start=1)
            ]  # fmt: skip
        rows = ShardRows(images=tuple(images), scores=tuple(scores), annotations=tuple(annotations))
        errors = {"truncated": failed} if failed else {}
        tally = ShardTally(num_images=len(images), num_segments=len(annotations), errors=errors)
        self.run.commit(shard.index, "bench", rows, tally)

    def _annotation(self, image_id: str, index: int, label: int, rle: Rle) -> Annotation:
        scores = dict.fromkeys(SCORE_COLUMNS, 0.5) | {
            "mean_prob": float(self._rng.random()),
            "area_frac": rle.area_px / (SIZE_HW[0] * SIZE_HW[1]),
            "num_components": 1,
        }
        return Annotation(
            image_id=image_id, label=LABELS[label - 1], category_id=label, segment_index=index,
            kind="class", height=SIZE_HW[0], width=SIZE_HW[1], rle_counts=rle.counts,
            area_px=rle.area_px, bbox_xywh=rle.bbox_xywh, **scores,
        )  # fmt: skip


def look(url: str) -> dict[str, float]:
    """Open the page, jump to its middle and end; return seconds and counts."""
    chromium = os.environ.get("OVSEG_CHROMIUM") or shutil.which("chromium")
    if chromium is None or not find_spec("playwright"):
        print("no Chromium or no Playwright: the page itself is not measured", file=sys.stderr)
        return {}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as session:
        browser = session.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1360, "height": 850})
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto("about:blank")  # a browser that is open already: its own start is not ours
        page.wait_for_timeout(1000)
        page.goto(url)
        page.locator("article").first.wait_for()
        in_sight = page.locator("article").count()
        page.wait_for_load_state("networkidle")
        loaded = page.evaluate(SECONDS_BETWEEN)
        first = list(requests)
        requests.clear()
        scroller = page.locator("#scroller")
        begun = time.monotonic()
        scroller.evaluate("(node) => { node.scrollTop = node.scrollHeight / 2; }")
        page.locator("article[data-index='49750']").wait_for()
        jump_s = time.monotonic() - begun
        page.wait_for_load_state("networkidle")
        browser.close()
    return {
        "page_to_first_thumbnail_s": round(loaded[0], 3),
        "page_to_thumbnails_in_sight_s": round(loaded[in_sight - 1], 3),
        "images_in_sight": in_sight,
        "requests_for_the_first_grid": len(first),
        "jump_to_the_middle_s": round(jump_s, 3),
        "requests_for_the_jump": len(requests),
    }


def main() -> dict[str, Any]:
    """Return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Many(Path(folder)).run.folder.uri
        begun = time.monotonic()
        command = [sys.executable, "-m", "jobs", "review", run, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().removeprefix("review at").strip()
                figures = {"command_to_address_s": round(time.monotonic() - begun, 2)}
                figures |= look(url)
                again = look(url).get("page_to_thumbnails_in_sight_s")
                figures |= {"second_visit_thumbnails_in_sight_s": again} if again else {}
                status = Path(f"/proc/{server.pid}/status").read_text(encoding="ascii")
                peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
                figures["server_peak_mb"] = round(int(peak.split()[1]) / 1024)
            finally:
                server.terminate()
    return {"ratios": {}, "figures": {f"review_{k}": v for k, v in figures.items()}}


if __name__ == "__main__":
    print(json.dumps(main()))
