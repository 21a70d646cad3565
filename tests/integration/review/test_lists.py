"""Lists of a run as filters of the page, in Chromium."""

from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app
from tests.helpers.browser import needs_chromium
from tests.helpers.copied_images import make_copied_run
from tests.helpers.drawn_runs import Scene, label_map, make_run
from tests.helpers.review_server import serving

pytestmark = needs_chromium


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


def test_every_command_that_chooses_images_is_a_filter_of_the_page(browser, tmp_path: Path):
    run = make_copied_run(tmp_path)
    place = run.folder.uri
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
        "sample-diverse": "distance to the sample so far: 1.0",
        "sample-outlier": "distance to its fifth nearest image: 0.",
        "search-red-heart": "cosine 0.",
        "split-train": "train",
        "split-val": "val",
        "without-copies": "",
    }
    with serving(run) as client:
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
