"""The gallery in a browser."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.exporters import gallery
from tests.helpers.browser import CHROMIUM, FLAGS, needs_chromium
from tests.helpers.drawn_runs import RunSpec, Scene, make_run


@needs_chromium
def test_no_more_labels_are_offered_where_two_lines_show_all(tmp_path: Path) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'"
    )
    labels = ("dog", "person", "sofa", "grass")
    classes = np.tile(np.arange(1, 5, dtype=np.uint16).repeat(4), (10, 1))
    run = make_run(tmp_path, [Scene("a.png", classes)], RunSpec(labels=labels))
    gallery.export(run, gallery.Options())
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 700})
        page.goto(f"file://{run.folder.uri}/exports/gallery/index.html")
        for width in (390, 300):  # fingers, then a mouse
            page.set_viewport_size({"width": width, "height": 700})
            page.wait_for_timeout(200)
            tops = page.locator("button[data-label]").evaluate_all(
                "(all) => all.map((one) => one.getBoundingClientRect().top)"
            )
            assert len(set(tops)) == 2
            assert not page.get_by_role("button", name="all 4 labels").is_visible()
        browser.close()


@needs_chromium
def test_all_labels_are_offered_only_where_some_are_hidden(tmp_path: Path) -> None:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'"
    )
    labels = ("cat", "dog", *(f"a label of four words {n}" for n in range(12)))
    classes = np.tile(np.arange(1, 15, dtype=np.uint16).repeat(4), (40, 1))
    run = make_run(tmp_path, [Scene("a.png", classes)], RunSpec(labels=labels))
    gallery.export(run, gallery.Options())
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 500, "height": 700})
        page.goto(f"file://{run.folder.uri}/exports/gallery/index.html")
        unfold = page.get_by_role("button", name="all 14 labels")
        unfold.wait_for()
        page.set_viewport_size({"width": 4000, "height": 700})
        unfold.wait_for(state="hidden")
        browser.close()
