"""The gallery in a browser."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.exporters import gallery
from tests.helpers.browser import CHROMIUM, FLAGS, needs_chromium
from tests.helpers.drawn_runs import RunSpec, Scene, make_run


@contextmanager
def gallery_page(
    folder: Path, labels: Sequence[str], height_px: int, viewport: dict[str, int]
) -> Iterator[Any]:
    """Open the gallery of a run of one image, whose labels stand beside each other."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'"
    )
    numbers = np.arange(1, 1 + len(labels), dtype=np.uint16)
    classes = np.tile(numbers.repeat(4), (height_px, 1))
    run = make_run(folder, [Scene("a.png", classes)], RunSpec(labels=tuple(labels)))
    gallery.export(run, gallery.Options())
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=viewport)
        page.goto(f"file://{run.folder.uri}/exports/gallery/index.html")
        yield page
        browser.close()


@needs_chromium
def test_no_more_labels_are_offered_where_two_lines_show_all(tmp_path: Path) -> None:
    labels = ("dog", "person", "sofa", "grass")
    with gallery_page(tmp_path, labels, 10, {"width": 390, "height": 700}) as page:
        for width in (390, 300):  # fingers, then a mouse
            page.set_viewport_size({"width": width, "height": 700})
            page.wait_for_timeout(200)
            tops = page.locator("button[data-label]").evaluate_all(
                "(all) => all.map((one) => one.getBoundingClientRect().top)"
            )
            assert len(set(tops)) == 2
            assert not page.get_by_role("button", name="all 4 labels").is_visible()


@needs_chromium
def test_all_labels_are_offered_only_where_some_are_hidden(tmp_path: Path) -> None:
    labels = ("cat", "dog", *(f"a label of four words {n}" for n in range(12)))
    with gallery_page(tmp_path, labels, 40, {"width": 500, "height": 700}) as page:
        unfold = page.get_by_role("button", name="all 14 labels")
        unfold.wait_for()
        page.set_viewport_size({"width": 4000, "height": 700})
        unfold.wait_for(state="hidden")


@needs_chromium
def test_a_label_tells_how_many_images_it_shows(tmp_path: Path) -> None:
    with gallery_page(tmp_path, ("dog", "cat"), 10, {"width": 800, "height": 700}) as page:
        chip = page.get_by_role("button", name="cat")
        chip.click()
        page.get_by_role("status").get_by_text("Shown: 1 of 1.").wait_for()
        chip.click()
        page.get_by_text("Shown:").wait_for(state="detached")
