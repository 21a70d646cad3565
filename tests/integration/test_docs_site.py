"""The documentation as a site: it builds without a broken link, and asks no other host."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a page out of the navigation, or a link or anchor to nothing, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "--site-dir", folder]
    built = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_of_the_repository_is_on_the_site(site):
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "CHANGELOG.md", ROOT / "ARCHITECTURE.md"]
    missing = [page.name for page in pages if not built_page(site, page.stem).is_file()]
    assert not missing


def test_pages_load_nothing_from_other_hosts(site):
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\">]*")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    assert not [found for page in pages for found in loads.findall(page.read_text("utf-8"))]


def test_the_reference_shows_signatures_and_docstrings(site):
    page = re.sub(r"<[^>]+>", "", built_page(site, "api").read_text(encoding="utf-8"))
    for words in (
        "Return a method with its networks loaded",
        "__call__",
        "open_run",
        "min_area_px",
    ):
        assert words in page, words


def built_page(site: Path, stem: str) -> Path:
    return site / ("index.html" if stem == "index" else f"{stem}/index.html")
