"""Runs under review, a server of one of them, and a browser."""

from pathlib import Path

import pytest

from pipeline.run.folder import RunFolder
from tests.helpers.browser import CHROMIUM, FLAGS
from tests.helpers.drawn_runs import Scene, label_map, make_run, odd_scenes
from tests.helpers.review_server import serving


@pytest.fixture(scope="module")
def read_run(tmp_path_factory) -> RunFolder:
    """Odd names, an image without masks and one that failed; nothing is decided on it."""
    return make_run(tmp_path_factory.mktemp("read"), odd_scenes())


@pytest.fixture(scope="module")
def client(read_run):
    with serving(read_run) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'"
    )
    with playwright.sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(4)])
