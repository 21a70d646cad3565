"""Lists of a run as filters of the page, and the search by words, in Chromium."""

import json
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from ovseg_core.embedded import CLIP_FOLDER
from pipeline.run.folder import RunFolder
from tests.helpers.browser import needs_chromium
from tests.helpers.copied_images import make_copied_run
from tests.helpers.drawn_runs import Scene, label_map, make_run
from tests.helpers.review_server import serving

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of drawn scenes by the embedded models; its tests write lists into it."""
    return make_copied_run(tmp_path_factory.mktemp("copied"))


def test_list_is_chosen_shown_with_its_notes_and_linked_to(browser, tmp_path: Path):
    scenes = [Scene(f"{n}.png", label_map(n), 0.4 + n / 20) for n in range(9)]
    run = make_run(tmp_path, scenes)
    wrong: list[str] = []
    page = browser.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    with serving(run) as client:
        page.goto(client.url)
        page.locator("article").first.wait_for()
        assert not page.locator("select[name=listed]").is_visible(), "there is no list yet"
        sample = ["sample", run.folder.uri, "--by", "balanced", "--count", "4"]
        assert CliRunner().invoke(app, sample).exit_code == 0
        page.reload()
        page.locator("select[name=listed]").select_option("sample-balanced")
        page.locator("#count", has_text="4 images").wait_for()
        assert page.locator("select[name=order]").input_value() == "listed"
        notes = page.locator("article .listed")
        notes.first.wait_for()
        assert notes.count() == 4
        assert notes.first.inner_text().startswith("for the label: ")
        in_order = page.locator("article h2").all_inner_texts()
        page.reload()  # the address holds the filter
        page.locator("article .listed").first.wait_for()
        assert page.locator("article h2").all_inner_texts() == in_order
        assert page.locator("select[name=listed]").input_value() == "sample-balanced"
        page.locator("select[name=listed]").select_option("")
        page.locator("#count", has_text="9 images").wait_for()
        assert page.locator("select[name=order]").input_value() == "priority"
        assert page.locator("article .listed").count() == 0
        Path(run.folder.uri, "exports/lists/sample-balanced.csv").unlink()
        page.goto("about:blank")
        page.goto(f"{client.base}/#listed=sample-balanced&order=listed")
        page.locator("#count", has_text="9 images").wait_for()
        assert "not in the run folder" in page.locator("#note").inner_text()
    page.close()
    assert wrong == []


def test_review_of_a_list_shows_its_images_alone(browser, tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.4 + n / 20) for n in range(5)])
    out = str(tmp_path / "next.csv")
    sample = ["sample", run.folder.uri, "--count", "2", "--out", out]
    assert CliRunner().invoke(app, sample).exit_code == 0
    with serving(run, only=out) as client:
        page = browser.new_page()
        page.goto(client.url)
        page.locator("#count", has_text="2 images").wait_for()
        page.locator("article h2").nth(1).wait_for()
        assert page.locator("article h2").all_inner_texts() == ["0.png", "1.png"]
        assert page.locator("#done").inner_text() == "0 of 2 reviewed"
        page.close()


def test_every_command_that_chooses_images_is_a_filter_of_the_page(browser, copied: RunFolder):
    place = copied.folder.uri
    commands = (
        ["duplicates", place],
        ["sample", place, "--by", "diverse", "--count", "7"],
        ["sample", place, "--by", "outlier", "--count", "3"],
        ["split", place, "--val", "0.25"],
        ["search", place, "red heart", "--count", "5"],
        ["search", place, "--image", "a/00.png", "--count", "5"],
    )
    for command in commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    notes = {
        "duplicates": "group 1, keep",
        "like-00": "cosine 1.000",
        "sample-diverse": "the first, by chance",
        "sample-outlier": "distance to its fifth nearest image: 0.",
        "search-red-heart": "cosine 0.",
        "split-train": "train",
        "split-val": "val",
        "without-copies": "",
    }
    with serving(copied) as client:
        page = browser.new_page()
        page.goto(client.url)
        page.locator("article").first.wait_for()
        choice = page.locator("select[name=listed]")
        assert choice.locator("option").all_inner_texts() == ["any", *sorted(notes)]
        for name, note in notes.items():
            listed = Path(place, "exports/lists", f"{name}.csv").read_text("utf-8").splitlines()
            choice.select_option(name)
            page.locator("#count", has_text=f"{len(listed) - 1} images").wait_for()
            if note:
                page.locator("article .listed", has_text=note).first.wait_for()
        page.close()


def test_words_rank_the_images_as_the_command_does_and_another_order_ends_it(
    browser, copied: RunFolder
):
    found = CliRunner().invoke(
        app, ["search", copied.folder.uri, "red heart", "--count", "12", "--json"]
    )
    best = [one["path"] for one in json.loads(found.stdout)["images"]]
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    with serving(copied) as client:
        page.goto(client.url)
        page.locator("article").first.wait_for()
        page.keyboard.press("/")
        page.keyboard.type("red heart")
        assert page.locator("article .listed").count() == 0, "words count once they are entered"
        page.keyboard.press("Enter")
        page.locator("article .listed", has_text="cosine 0.").first.wait_for()
        shown = page.locator("article h2").all_inner_texts()
        assert len(shown) > 4
        assert shown[:12] == best[: len(shown)]
        assert page.locator("select[name=order]").input_value() == "searched"
        page.get_by_role("button", name="To do").click()
        page.wait_for_url(re.compile("state=todo"))  # once the list is there
        page.reload()  # the address holds the words
        page.locator("article .listed").first.wait_for()
        assert page.get_by_label("search", exact=True).input_value() == "red heart"
        hash = parse_qs(urlsplit(page.url).fragment)
        assert hash == {"state": ["todo"], "search": ["red heart"], "order": ["searched"]}
        page.locator("select[name=order]").select_option("path")
        page.locator("article .listed").first.wait_for(state="detached")
        page.locator("article h2", has_text="a/00.png").wait_for()
        assert page.get_by_label("search", exact=True).input_value() == ""
        page.get_by_label("search", exact=True).fill("blue star")
        page.keyboard.press("Enter")
        page.locator("article .listed").first.wait_for()
        page.get_by_label("search", exact=True).fill("")
        page.locator("article .listed").first.wait_for(state="detached")
        assert page.locator("select[name=order]").input_value() == "priority"
    page.close()


def test_while_a_search_goes_on_the_list_before_is_faded(browser, copied: RunFolder):
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    with serving(copied) as client:
        page.goto(client.url)
        page.locator("article").first.wait_for()
        before = page.locator("#count").inner_text()
        held: list = []
        page.route("**/api/view?**", lambda route: held.append(route))
        grid = page.locator("#grid")
        for answer in ("abort", "continue_"):
            page.get_by_label("search", exact=True).fill(f"red heart {answer}")
            page.keyboard.press("Enter")
            page.locator("#count.busy", has_text="loading …").wait_for()
            assert grid.get_attribute("aria-busy") == "true"
            assert float(grid.evaluate("(it) => getComputedStyle(it).opacity")) < 0.6
            getattr(held.pop(), answer)()
            page.locator("#grid[aria-busy=false]").wait_for()
            assert page.locator("#count:not(.busy)").inner_text() == before
        page.locator("article .listed", has_text="cosine 0.").first.wait_for()
    page.close()


def test_without_the_weights_the_page_says_so_and_goes_on(
    browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clip = tmp_path / "clip"
    shutil.copytree(CLIP_FOLDER, clip)
    draw_scenes(tmp_path, 3, seed=2)
    command = ["annotate", "--local", "--images", f"{tmp_path}/scene_*.png"]
    command += ["--out", f"{tmp_path}/run", "--labels", "star", "--set", "run.device=cpu"]
    command += ["--set", f"clip.model=local-dir:{clip}", "--set", "vision.model=embedded"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "other machine"))
    page = browser.new_page()
    with serving(RunFolder.open(f"{tmp_path}/run")) as client:
        page.goto(client.url)
        page.get_by_label("search", exact=True).fill("star")
        page.keyboard.press("Enter")
        page.locator("#note", has_text="What a run folder names is not loaded unasked").wait_for()
        assert "end this server and start: ovseg review" in page.locator("#note").inner_text()
        assert page.locator("article").count() == 3
        page.get_by_label("search", exact=True).fill("")
        page.locator("#note").wait_for(state="hidden")
        page.goto("about:blank")
        page.goto(f"{client.base}/#search=star&order=searched")
        page.locator("#note", has_text="is not loaded unasked").wait_for()
        page.locator("#count", has_text="3 images").wait_for()
        assert page.get_by_label("search", exact=True).input_value() == ""
    page.close()
