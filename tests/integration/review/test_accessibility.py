"""The pages on phones, in dark colours, and as axe-core judges them."""

import json
from pathlib import Path

import pytest

from pipeline.exporters import gallery
from pipeline.run.folder import RunFolder
from tests.helpers.browser import needs_chromium
from tests.helpers.drawn_runs import Scene, label_map, make_run
from tests.helpers.review_server import Client, serving

axe = pytest.importorskip(
    "axe_playwright_python", reason="axe-core is not installed: pip install -e '.[dev]'"
)
pytestmark = needs_chromium
AXE = Path(axe.__file__).with_name("axe.min.js")
PHONE, DESK = (390, 844), (1400, 900)
TARGETS = "button, select, nav a, input:not([type=file])"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    scenes = [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(4)]
    run = make_run(tmp_path_factory.mktemp("run"), [*scenes, Scene("broken.png", None)])
    (Path(run.folder.uri).parent / "photos" / "3.png").unlink()
    gallery.export(run, gallery.Options())
    return run


@pytest.fixture(scope="module")
def client(run: RunFolder):
    with serving(run) as client:
        client.decide(image_id="id-0.png", action="reject")
        client.decide(image_id="id-1.png", action="accept")
        yield client


def _pages(client: Client, run: RunFolder) -> dict[str, tuple[str, str]]:
    """Return the address of every page, and what is there once it is shown."""
    return {
        "grid": (client.url, "article img.masks"),
        "image": (f"{client.url}#image=id-1.png", "#viewer[data-ready]"),
        "try": (f"{client.url}try", "#strip button img"),
        "gallery": (f"file://{run.folder.uri}/exports/gallery/index.html", "article img"),
    }


@pytest.mark.parametrize("name", ["grid", "image", "try", "gallery"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(
    browser, client: Client, run: RunFolder, name: str
) -> None:
    url, shown = _pages(client, run)[name]
    with browser.new_context(viewport={"width": PHONE[0], "height": PHONE[1]}) as context:
        page = context.new_page()
        page.goto(url)
        page.locator(shown).first.wait_for()
        if name == "grid":
            page.get_by_role("button", name="Filters").click()
        # By the debugger: the pages' security policy runs no script but their own.
        debugger = context.new_cdp_session(page)
        debugger.send("Runtime.evaluate", {"expression": AXE.read_text("utf-8")})
        for width, height in (PHONE, DESK):
            page.set_viewport_size({"width": width, "height": height})
            for colours in ("light", "dark"):
                page.emulate_media(color_scheme=colours)
                where = f"{name}, {width} px, {colours}"
                assert page.evaluate("document.documentElement.scrollWidth") <= width, where
                ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (ground == "rgb(20, 23, 26)") == (colours == "dark"), where
                assert _faults(debugger) == [], where


def _faults(debugger) -> list[str]:
    """Return the serious faults that axe-core finds on a page."""
    run = "axe.run({resultTypes: ['violations']}).then(JSON.stringify)"
    ask = {"expression": run, "awaitPromise": True, "returnByValue": True}
    found = json.loads(debugger.send("Runtime.evaluate", ask)["result"]["value"])
    assert len(found["passes"]) > 10
    return [
        f"{one['impact']} {one['id']}: {[node['target'] for node in one['nodes']]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_on_a_phone_all_is_within_reach_of_a_finger(browser, client: Client, run: RunFolder):
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True) as context:
        for name, (url, shown) in _pages(client, run).items():
            page = context.new_page()
            page.goto(url)
            page.locator(shown).first.wait_for()
            if name == "grid":
                page.get_by_role("button", name="Rejected").wait_for(state="hidden")
                page.get_by_role("button", name="Filters").click()
                page.get_by_role("button", name="Rejected").click()
                page.get_by_role("button", name="Filters (1)").wait_for()
                page.locator("#count", has_text="1 image").wait_for()
                page.locator("#saved", has_text="all saved").wait_for()
            sizes = page.locator(TARGETS).evaluate_all(
                "(all) => all.filter((one) => one.checkVisibility())"
                ".map((one) => [one.id || one.textContent, one.getBoundingClientRect()])"
            )
            small = [text for text, box in sizes if min(box["width"], box["height"]) < 44]
            assert len(sizes) > 3
            assert not small, name
            if name == "gallery":
                page.locator("figure").first.tap()
                masks = page.locator("figure .masks").first
                assert masks.evaluate("(one) => getComputedStyle(one).opacity") == "0"
            page.close()


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_eye_of_a_mask_leaves_a_gap_to_its_colour_under_a_finger(browser, client: Client, width):
    view = {"width": width, "height": 900}
    with browser.new_context(viewport=view, has_touch=True) as context:
        page = context.new_page()
        page.goto(f"{client.url}#image=id-1.png")
        page.locator("#viewer[data-ready]").wait_for()
        rows = page.locator("#masks .mask").all()
        assert len(rows) > 1
        for row in rows:
            eye, colour = (row.locator(part).bounding_box() for part in (".eye", ".name i"))
            assert eye["width"] >= 44
            assert colour["x"] - (eye["x"] + eye["width"]) >= 4


def test_skip_link_leads_to_the_images(browser, client: Client, run: RunFolder):
    with browser.new_context() as context:
        page = context.new_page()
        for name, target in (("grid", "#grid"), ("gallery", "#images")):
            page.goto(_pages(client, run)[name][0])
            page.locator("article").first.wait_for()
            page.keyboard.press("Tab")
            page.get_by_role("link", name="to the images").press("Enter")
            page.locator(f"{target}:focus").wait_for()
        assert page.title() == "run"


def test_image_that_has_moved_says_where_it_was_looked_for_and_how_to_go_on(
    browser, client: Client, run: RunFolder
) -> None:
    place = Path(run.folder.uri).with_name("photos") / "3.png"
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{client.url}#image=id-3.png")
        page.locator("#hint", has_text=str(place)).wait_for()
        page.locator("#hint", has_text="--images-root FOLDER").wait_for()
        page.goto(f"{client.url}try?image=id-3.png")
        page.locator("#hint", has_text=str(place)).wait_for()


def test_numbers_and_decisions_are_named(browser, client: Client):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(client.url)
        card = page.locator("article", has_text="0.png")
        card.locator(".badge", has_text="✕ rejected").wait_for()
        doubt = card.locator(".doubt")
        assert doubt.inner_text() == "more doubtful than 75 %"
        page.set_viewport_size({"width": 390, "height": 844})
        page.locator(".doubt .room").first.wait_for()
        assert doubt.inner_text() == "more doubtful than 75 % of the images", "where it has room"
        last = page.locator("article", has_text="3.png").locator(".doubt")
        assert last.inner_text() == "no image is less doubtful"
        assert "share of the run's images" in (doubt.get_attribute("title") or "")
        page.locator("article", has_text="1.png").locator(".badge", has_text="✓").wait_for()
        page.locator("article", has_text="0.png").click()
        page.locator("#viewer[data-ready]").wait_for()
        assert page.locator("#doubt").inner_text() == "more doubtful than 75 % of the images"
        numbers = page.locator(".numbers").first
        assert numbers.get_by_text("area").get_attribute("title")
        page.get_by_role("button", name="zoom in").wait_for()
        page.get_by_label("mask opacity").last.wait_for()


@pytest.mark.parametrize("size", [PHONE, (820, 1100), DESK], ids=lambda size: f"{size[0]} px")
def test_message_over_an_image_covers_no_button(browser, client: Client, size: tuple[int, int]):
    with browser.new_context(viewport={"width": size[0], "height": size[1]}) as context:
        page = context.new_page()
        page.goto(f"{client.url}#image=id-1.png")
        page.locator("#viewer[data-ready]").wait_for()
        page.keyboard.press("u")  # another browser's decisions are not this one's to undo
        page.locator("#flash", has_text="you have no decision to undo").wait_for()
        box = page.locator("#flash").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0]
        covered = page.locator(".viewer button, .viewer input").evaluate_all(
            """(all, box) => all.filter((one) => one.checkVisibility()).filter((one) => {
              const its = one.getBoundingClientRect();
              return its.left < box.x + box.width && its.right > box.x
                && its.top < box.y + box.height && its.bottom > box.y;
            }).map((one) => one.textContent)""",
            box,
        )
        assert covered == []
