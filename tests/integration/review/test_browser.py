"""Both pages in Chromium, driven by keys and clicks."""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from jobs.demo.scenes import draw_scene
from pipeline.corrections.imports import store_import
from pipeline.corrections.log import ReviewLog
from pipeline.curation.image_lists import write_list
from pipeline.curation.images import annotated_images
from pipeline.evaluation.compare import compare
from pipeline.review.server import Address
from pipeline.run.folder import RunFolder
from schemas.review import ReviewedImage
from tests.helpers.browser import needs_chromium
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    crowded_run,
    grow_run,
    label_map,
    make_run,
    odd_scenes,
)
from tests.helpers.imageless_runs import begin_run, make_rows, make_tally
from tests.helpers.review_server import Client, serving

pytestmark = needs_chromium
NUM_MANY = 3000


@pytest.fixture
def page(browser):
    """A new page; an error on its console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(60_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    refusal = "Failed to load resource"  # tests that cause one check the text of the page
    yield page
    context.close()
    assert [text for text in wrong if not text.startswith(refusal)] == []


@pytest.fixture(scope="module")
def scenes_run(tmp_path_factory) -> RunFolder:
    """Drawn scenes, annotated with the embedded models."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn = draw_scenes(folder, 4, seed=3)
    command = ["annotate", "--local", "--images", f"{folder}/scene_*.png", "--out", f"{folder}/run"]
    labels = ["--labels", ",".join(drawn.labels), "--set", "clip.model=embedded"]
    sets = ["--set", "run.device=cpu", "--keep-features"]
    done = CliRunner().invoke(app, [*command, *labels, *sets])
    assert done.exit_code == 0, done.output
    return RunFolder.open(f"{folder}/run")


@pytest.fixture
def client(tmp_path: Path):
    scenes = [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(5)]
    scenes.append(Scene("broken.png", None))
    with serving(make_run(tmp_path, scenes)) as client:
        yield client


def paths(page) -> list[str]:
    page.locator("article").first.wait_for()
    return page.locator("article h2").all_inner_texts()


def saved(page) -> None:
    page.locator("#saved", has_text="all saved").wait_for()


def test_open_filter_decide_undo_and_reload(page, client: Client, tmp_path: Path):
    log = ReviewLog(RunFolder.open(str(tmp_path / "run")))
    page.goto(client.url)
    assert paths(page) == ["0.png", "1.png", "2.png", "3.png", "4.png"]  # the least sure first

    page.get_by_label("lowest score").fill("0.65")
    page.locator("#count", has_text="2 images").wait_for()
    assert paths(page) == ["3.png", "4.png"]
    page.locator("select[name=failed]").select_option("truncated")
    page.get_by_label("lowest score").fill("0")
    page.locator("#count", has_text="1 image").wait_for()
    page.locator("select[name=failed]").select_option("")
    page.locator("#count", has_text="5 images").wait_for()
    page.locator("#labels button", has_text="dog").click()
    page.locator("#labels button[aria-pressed=true]", has_text="dog").wait_for()

    page.locator("article").first.click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    masks = page.locator("#masks .mask")
    num_masks = masks.count()
    last = masks.locator(".name").all_inner_texts()[2]
    new = "dog" if last == "cat" else "cat"
    page.keyboard.press("a")
    masks.nth(0).locator(".said.accept").wait_for()
    page.keyboard.press("r")
    masks.nth(1).locator(".said.reject").wait_for()
    page.keyboard.press("l")
    page.keyboard.type(new)
    page.keyboard.press("Enter")
    page.locator("#flash", has_text=f"0.png, {last}: relabelled {new}").wait_for()
    page.locator('#viewer[data-ready="id-1.png"]').wait_for()  # all decided: on to the next
    saved(page)
    log.refresh()
    actions = [decision.action for decision in log.decisions()]
    assert actions == ["accept", "reject", "relabel"][: len(actions)]
    assert len(actions) == num_masks == 3
    page.keyboard.press("u")
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()  # back to what was undone
    page.locator("#masks .said").nth(1).wait_for()
    saved(page)
    log.refresh()
    assert sorted(one.action for one in log.current().values()) == ["accept", "reject"]

    page.reload()  # the page remembers where it was, the server what was decided
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    assert page.locator("#masks .said").all_inner_texts() == ["accepted", "rejected"]
    page.keyboard.press("Escape")
    page.locator("article .badge", has_text="✕ 1 of 3 rejected, not all decided").wait_for()
    struck = page.locator("article .chip span").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).textDecorationLine === 'line-through')"
    )
    assert struck.count(True) == 1, "the label all of whose masks are rejected"
    page.keyboard.press("R")
    page.locator("article .badge", has_text=re.compile("^✕ rejected$")).wait_for()
    page.keyboard.press("u")
    page.locator("#flash", has_text="0.png, whole image: undone").wait_for()
    page.locator("article .badge", has_text="✕ 1 of 3 rejected").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    page.locator("article .badge", has_text="accepted").wait_for()
    page.locator("#state button", has_text="Done").click()
    page.locator("#count", has_text="1 image").wait_for()
    assert paths(page) == ["1.png"]


def test_two_reviewers_undo_only_their_own_decisions(page, browser, client: Client):
    def badge(of, path: str, word: str) -> None:
        of.locator("article", has_text=path).locator(".badge", has_text=word).wait_for()

    def says(of, words: str) -> None:
        of.locator("#flash", has_text=words).wait_for()

    page.goto(client.url)
    paths(page)
    page.keyboard.press("a")
    page.keyboard.press("a")
    badge(page, "1.png", "accepted")
    saved(page)
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(client.url)
        badge(other, "1.png", "accepted")
        other.keyboard.press("u")
        says(other, "no decision to undo")
        other.keyboard.press("ArrowRight")
        other.keyboard.press("r")
        badge(other, "1.png", "rejected")
        saved(other)

        page.reload()
        badge(page, "1.png", "rejected")
        page.keyboard.press("u")
        says(page, "1.png, whole image: your decision is undone; a later decision of another")
        saved(page)
        badge(page, "1.png", "rejected")
        page.keyboard.press("u")
        says(page, "0.png, whole image: undone")
        page.locator("article", has_text="0.png").locator(".badge").wait_for(state="detached")
        badge(page, "1.png", "rejected")
        page.keyboard.press("u")
        says(page, "no decision to undo")

        other.reload()
        badge(other, "1.png", "rejected")
        other.keyboard.press("u")
        says(other, "1.png, whole image: undone")
    assert client.shown(state="done") == []


def test_undo_works_without_local_storage(page, client: Client):
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', "
        "{ get() { throw new DOMException('denied', 'SecurityError'); } })"
    )
    page.goto(client.url)
    paths(page)
    page.keyboard.press("a")
    page.locator("article .badge", has_text="accepted").wait_for()
    page.keyboard.press("u")
    page.locator("article .badge").wait_for(state="detached")
    saved(page)
    assert client.shown(state="done") == []


def test_ten_masks_are_accepted_by_keyboard_within_a_minute(page, client: Client, tmp_path: Path):
    page.goto(client.url)
    page.locator("article").first.wait_for()
    begun = time.monotonic()
    page.keyboard.press("Enter")
    for place in range(10):
        page.locator(f'#viewer[data-ready="id-{place // 3}.png"]').wait_for()
        page.keyboard.press("a")
    saved(page)
    took_s = time.monotonic() - begun
    log = ReviewLog(RunFolder.open(str(tmp_path / "run")))
    assert [one.action for one in log.decisions()] == ["accept"] * 10
    assert took_s < 60
    page.keyboard.press("Shift+A")  # the rest of this image and what is decided of it
    page.locator('#viewer[data-ready="id-4.png"]').wait_for()
    saved(page)
    done = client.shown(state="done")
    assert [item["path"] for item in done] == ["0.png", "1.png", "2.png", "3.png"]


def test_whole_image_is_accepted_and_undone_at_once(page, client: Client):
    page.goto(client.url)
    page.locator("article").first.click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    page.keyboard.press("r")
    page.keyboard.press("s")
    saved(page)
    page.keyboard.press("Shift+A")
    page.locator('#viewer[data-ready="id-1.png"]').wait_for()
    saved(page)
    assert [item["marks"] for item in client.shown(state="done")] == [["done", "begun"]]
    page.keyboard.press("u")
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    page.locator("#flash", has_text="whole image: undone").wait_for()
    said = page.locator("#masks .said")
    assert said.all_inner_texts() == ["rejected", "skipped"]
    clips = said.evaluate_all("(all) => all.map((one) => getComputedStyle(one).clipPath)")
    assert clips == ["none", "none"], "both can be seen"
    assert client.shown(state="done") == []

    page.keyboard.press("Escape")
    page.keyboard.press("a")  # in the grid, of the whole image as well
    page.locator("article", has_text="0.png").locator(".badge", has_text="accepted").wait_for()
    page.locator("article", has_text="0.png").click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    assert page.locator("#masks .said").all_inner_texts() == ["accepted"] * 3
    page.keyboard.press("Escape")
    page.keyboard.press("r")  # of an image that was loaded before
    saved(page)
    page.keyboard.press("p")
    page.keyboard.press("Enter")
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    assert page.locator("#masks .said").all_inner_texts() == ["rejected"] * 3


def test_narrow_screen_shows_the_image_above_its_masks(page, client: Client):
    page.set_viewport_size({"width": 380, "height": 740})
    page.goto(client.url)
    page.locator("article").first.click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    stage, accept = page.locator("#stage").bounding_box(), page.locator(".accept").bounding_box()
    assert (stage["width"], stage["y"]) == (380, 0)
    assert stage["height"] > 200
    assert stage["y"] + stage["height"] < accept["y"] < 740 - accept["height"]
    page.locator(".accept").click()
    page.locator("#masks .said.accept").wait_for()
    page.locator("#saved", has_text="all saved").wait_for(state="attached")

    page.set_viewport_size({"width": 390, "height": 740})
    bar, view = page.locator(".zoom").bounding_box(), canvas(page)
    beside = view[int(bar["y"]) : -2, int(bar["x"] + bar["width"]) + 2 :]
    assert (beside == view[0, 0]).all(), "the image ends above the zoom bar"
    page.set_viewport_size({"width": 1000, "height": 300})
    bar, view = page.locator(".zoom").bounding_box(), canvas(page)
    beside = view[int(bar["y"]) : -2, int(bar["x"] + bar["width"]) + 2 :]
    assert (beside == view[0, 0]).all(), "also where a wide screen is low"
    page.set_viewport_size({"width": 390, "height": 740})
    page.locator("#close").click()
    progress, said = (page.locator(it).bounding_box() for it in (".progress", "#saved"))
    assert said["y"] < progress["y"] + progress["height"], "they share a row"


def test_a_card_shows_labels_as_decided(page, client: Client):
    def chips(card) -> list[str]:
        return sorted(
            card.locator(".chip:not(.more)").evaluate_all("all => all.map((i) => i.title)")
        )

    def colours(card) -> set[tuple[int, ...]]:
        source = card.locator("img.masks").evaluate("async (one) => (await one.decode(), one.src)")
        answer = page.request.get(source)
        with Image.open(io.BytesIO(answer.body())) as picture:
            pixels = np.array(picture).reshape(-1, 4)
        return {tuple(one.tolist()) for one in np.unique(pixels[pixels[:, 3] > 0], axis=0)}

    page.goto(client.url)
    card = page.locator("article", has_text="0.png")
    card.wait_for()
    others = ["dog: 1 mask, score 0.40", "potted plant: 1 mask, score 0.40"]
    assert chips(card) == ["cat: 1 mask, score 0.40", *others]
    predicted = colours(card)
    card.click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    page.keyboard.press("l")
    page.keyboard.type("dog")
    page.keyboard.press("Enter")
    page.locator("#masks .said.relabel").wait_for()
    page.keyboard.press("Escape")
    for is_loaded_again in (False, True):
        if is_loaded_again:
            page.reload()
        card.locator(".was", has_text="was cat").wait_for(state="attached")
        assert chips(card) == sorted([*others, "dog: 1 mask, score 0.40, was cat"])
        assert colours(card) < predicted, "the cat's colour is gone"
    page.keyboard.press("u")
    card.locator(".was").wait_for(state="detached")
    assert colours(card) == predicted


def test_a_small_mask_does_not_have_no_area(page, tmp_path: Path):
    speck = np.zeros((40, 56), np.uint16)
    speck[3, 5], speck[10:20, 5:50] = 1, 2
    with serving(make_run(tmp_path, [Scene("speck.png", speck)])) as client:
        page.goto(f"{client.url}#image=id-speck.png")
        page.locator("#masks .mask", has_text="cat").get_by_text("area < 0.1 %").wait_for()
        page.locator("#masks .mask", has_text="dog").get_by_text("area 20 %").wait_for()


def test_a_selected_mask_shows_on_any_ground_and_a_tiny_one_has_a_ring(page, tmp_path: Path):
    painted = np.zeros((60, 90), np.uint16)
    painted[20, 70:72], painted[10:50, 10:40] = 1, 2
    run = make_run(tmp_path, [Scene("a.png", painted), Scene("b.png", label_map(1))])
    for ground in ((255, 255, 255), (0, 0, 0)):
        Image.new("RGB", (90, 60), ground).save(tmp_path / "photos" / "a.png")
        with serving(run) as client:
            page.set_viewport_size({"width": 820, "height": 600})
            page.goto(f"{client.url}#image=id-a.png")
            page.locator("#viewer[data-ready]").wait_for()
            for key, has_ring in (("1", True), ("2", False)):
                page.keyboard.press(key)
                around = _around(canvas(page), 71, 20.5)
                around[12:28, 10:30] = around[0, 0]  # without the mask and its outline
                assert (np.ptp(around) > 150) == has_ring, (ground, key)
            page.keyboard.press("1")
            page.keyboard.press("z")
            outlined = _around(canvas(page), 45, 30)
            assert outlined.min() < 60, "dark"
            assert outlined.max() > 240, "and light"
            assert np.ptp(outlined[20, 20]) > 40, "and its own colour within"


def test_a_rejected_mask_is_hollow_and_others_keep_their_colour(page, tmp_path: Path):
    painted = np.zeros((60, 90), np.uint16)
    painted[5:55, 5:30], painted[5:55, 60:85] = 1, 2
    run = make_run(tmp_path, [Scene("a.png", painted), Scene("b.png", label_map(1))])
    with serving(run) as client:
        page.goto(f"{client.url}#image=id-a.png")
        page.locator("#viewer[data-ready]").wait_for()
        cat, dog = (17, 30), (72, 30)
        page.keyboard.press("1")
        chosen = _around(canvas(page), *cat)
        page.keyboard.press("2")
        faded = _around(canvas(page), *cat)
        page.locator("#masks .eye").first.click()
        page.locator("#masks .hidden-mask").wait_for()
        bare = _around(canvas(page), *cat)
        page.locator("#masks .eye").first.click()
        tint = np.abs(chosen - bare).mean()
        assert tint > 15
        assert np.abs(faded - bare).mean() > 0.8 * tint
        page.keyboard.press("r")
        page.locator("#masks .said.reject").wait_for()
        page.keyboard.press("1")
        hollow = _around(canvas(page), *dog)
        page.keyboard.press("2")
        page.keyboard.press("v")
        page.locator("#masks .hidden-mask").wait_for()
        np.testing.assert_array_equal(hollow, _around(canvas(page), *dog))


def test_masks_are_listed_in_the_order_of_their_card(page, tmp_path: Path):
    boxes = [np.zeros((60, 90), bool) for _ in range(4)]
    for place, box in enumerate(boxes):
        box[10:50, 5 + 22 * place : 20 + 22 * place] = True
    scores = [(1, 0.4), (1, 0.6), (2, 0.9), (3, 0.7)]
    found = tuple((label, score, box) for (label, score), box in zip(scores, boxes, strict=True))
    scenes = [Scene(f"{n}.png", np.ones((60, 90), np.uint16), instances=found) for n in range(2)]
    with serving(make_run(tmp_path, scenes, RunSpec(masks={"segments": "instances"}))) as client:
        page.goto(client.url)
        card = page.locator("article", has_text="1.png")
        card.wait_for()
        chips = card.locator(".chip:not(.more) > span").evaluate_all(
            "all => all.map((one) => one.textContent)"
        )
        card.click()
        page.locator('#viewer[data-ready="id-1.png"]').wait_for()
        names = page.locator("#masks .name").all_inner_texts()
        assert names == ["dog", "potted plant", "cat 1", "cat 2"]
        assert chips == ["dog", "potted plant", "cat"]
        assert page.locator("#masks .numbers").nth(2).inner_text().startswith("score 0.60")
        box, view = page.locator("#canvas").bounding_box(), canvas(page)
        height, width = view.shape[:2]
        scale = min((width - 48) / 90, (height - 48) / 60)
        for column, name in ((12, "cat 2"), (34, "cat 1"), (56, "dog"), (78, "potted plant")):
            x = box["x"] + (width - scale * 90) / 2 + scale * column
            page.mouse.click(x, box["y"] + height / 2)
            assert page.locator("#masks .current .name").inner_text() == name
            assert page.locator("#masks .hovered .name").inner_text() == name
        page.keyboard.press("1")
        assert page.locator("#masks .current .name").inner_text() == "dog"
        page.keyboard.press("3")
        page.keyboard.press("r")
        page.locator("#masks .said.reject").wait_for()
        saved(page)
        page.keyboard.press("1")
        page.keyboard.press("u")
        page.locator("#masks .said.reject").wait_for(state="detached")
        assert page.locator("#masks .current .name").inner_text() == "cat 1", "what was undone"


def test_an_imported_image_says_that_it_shows_predictions(page, tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)])
    with serving(run) as client:
        page.goto(client.url)
        assert sorted(paths(page)) == ["0.png", "1.png"]
        store_import(
            run, "cvat.zip", [ReviewedImage(image_id="id-1.png", path="1.png", source="x")], []
        )
        statuses = []
        page.on("response", lambda response: statuses.append(response.status))
        page.reload()
        page.locator("article .badge", has_text="reviewed elsewhere").wait_for()
        assert max(statuses) < 400, "the page asks for no list that the import has ended"
        for number, is_shown in ((0, False), (1, True)):
            page.locator("article", has=page.locator("h2", has_text=f"{number}.png")).click()
            page.locator(f'#viewer[data-ready="id-{number}.png"]').wait_for()
            assert page.locator("#imported").is_visible() == is_shown
            page.keyboard.press("Escape")


def test_failed_image_cannot_be_decided(page, client: Client):
    page.goto(f"{client.url}#failed=any")
    page.locator("article").first.click()
    page.locator("#viewer[data-ready]").wait_for()
    page.locator("#masks", has_text="nothing to decide").wait_for()
    page.keyboard.press("a")
    page.keyboard.press("Shift+A")
    saved(page)
    assert page.locator("#hint").inner_text().startswith("truncated")
    assert client.get("/api/run").json["progress"]["done"] == 0


def test_keys_do_nothing_while_an_image_loads(page, client: Client, tmp_path: Path):
    asked = []
    page.route("**/segments?id=id-1.png*", lambda route: asked.append(route))
    page.goto(client.url)
    paths(page)

    page.keyboard.press("Enter")
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    page.keyboard.press("n")
    page.locator("#hint", has_text="loading").wait_for()
    for _ in range(4):
        page.keyboard.press("a")
    asked[0].continue_()
    page.locator('#viewer[data-ready="id-1.png"]').wait_for()
    assert page.locator("#masks .said").count() == 0
    page.keyboard.press("A")  # with Caps Lock: one mask, not all
    page.locator("#masks .said").wait_for()
    page.keyboard.down("r")
    page.keyboard.down("r")  # held
    saved(page)
    log = ReviewLog(RunFolder.open(str(tmp_path / "run")))
    assert [(one.image_id, one.action) for one in log.decisions()] == [
        ("id-1.png", "accept"),
        ("id-1.png", "reject"),
    ]


def test_reload_keeps_the_place_in_a_long_list(page, tmp_path: Path):
    scenes = [Scene(f"{n:03d}.png", label_map(n, 8, 12), 0.2 + n / 200) for n in range(90)]
    with serving(make_run(tmp_path, scenes, RunSpec(shard_size=50))) as client:
        page.goto(f"{client.url}#order=path&image=id-070.png")
        page.locator('#viewer[data-ready="id-070.png"]').wait_for()
        assert page.locator("#place").inner_text() == "71 of 90"
        page.keyboard.press("n")
        page.locator('#viewer[data-ready="id-071.png"]').wait_for()
        client.decide(image_id="id-000.png", action="accept")
        page.goto(f"{client.url}#order=path&state=todo&image=id-000.png")  # only what follows #
        page.locator('#viewer[data-ready="id-000.png"]').wait_for()
        assert page.locator("#place").inner_text() == "not in this list"
        page.keyboard.press("n")
        page.locator('#viewer[data-ready="id-001.png"]').wait_for()


def test_names_that_turn_the_direction_of_text_are_shown_as_escapes(page, tmp_path: Path):
    scenes = [Scene("\u202egnp.exe", label_map(0))]
    run = make_run(tmp_path, scenes, RunSpec(labels=("\u202etac", "dog", "كلب")))
    with serving(run) as client:
        page.goto(client.url)
        page.wait_for_selector("article h2")
        assert page.locator("article h2").text_content() == r"\u202egnp.exe"
        chips = page.locator("#labels button").all_text_contents()
        assert [chip.rstrip("1") for chip in chips] == [r"\u202etac", "dog", "كلب"]
        page.locator("#labels button").first.click()
        page.locator("article").click()
        page.wait_for_selector("#path")
        assert page.locator("#path").text_content() == r"\u202egnp.exe"


def test_decisions_wait_while_another_run_is_served(page, tmp_path: Path):
    scenes = [Scene(f"{n}.png", label_map(n)) for n in range(3)]
    run, other = (make_run(tmp_path / name, scenes) for name in ("run", "other"))
    with serving(run) as client:
        page.goto(client.url)
        paths(page)
    address = Address(port=client.port)
    with serving(other, address):
        page.keyboard.press("a")
        page.locator("#note.bad", has_text="Another run").wait_for()
        page.keyboard.press("Enter")
        page.locator("#hint", has_text="Another run").wait_for()
    with serving(run, address):
        saved(page)
        page.locator("#note").wait_for(state="hidden")
    assert [one.image_id for one in ReviewLog(run).decisions()] == ["id-0.png"]
    assert ReviewLog(other).decisions() == []


def test_page_of_before_an_update_stores_nothing(page, tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(3)])
    with serving(run) as client:
        page.goto(client.url)
        paths(page)
        grow_run(run, changed=[Scene("1.png", label_map(8))])
        assert client.get("/api/run").status == 200  # another page is loaded
        page.keyboard.press("a")
        page.locator("#note.bad", has_text="Not stored: this page shows generation 1").wait_for()
        assert ReviewLog(run).decisions() == []
        page.reload()
        paths(page)
        page.keyboard.press("a")
        page.locator("article .badge", has_text="accepted").wait_for()
        saved(page)
    assert len(ReviewLog(run).decisions()) == 1


def test_decisions_are_sent_when_the_server_is_back(page, tmp_path: Path):
    run = make_run(tmp_path, odd_scenes())
    with serving(run) as client:
        page.goto(client.url)
        assert "<script>alert(1)<script>.png" in paths(page)
        page.keyboard.press("a")
        saved(page)
    for key in "ra":
        page.keyboard.press(key)
    page.locator("#note.bad", has_text="does not answer").wait_for()
    page.locator("#state button", has_text="Rejected").click()
    page.wait_for_timeout(300)
    assert "kept here" in page.locator("#note").inner_text(), "that comes first"
    assert len(ReviewLog(run).decisions()) == 1
    with serving(run, Address(port=client.port)):
        saved(page)
        page.locator("#note").wait_for(state="hidden")
        page.locator("#count", has_text="1 image").wait_for()
    actions = [decision.action for decision in ReviewLog(run).decisions()]
    assert actions == ["accept", "reject", "accept"]


def test_order_is_kept_in_the_address(page, tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(4)])
    other = [Scene(f"{n}.png", label_map(n + 9 if n == 3 else n)) for n in range(4)]
    report = compare(run, make_run(tmp_path / "other", other, RunSpec(shard_size=1)))
    order = page.locator("select[name=order]")
    with serving(run) as client:
        page.goto(client.url)
        assert paths(page) == ["0.png", "1.png", "2.png", "3.png"]
        assert page.locator("article", has_text="IoU").count() == 0
        compared = order.locator("option", has_text="disagreement with").get_attribute("value")
        order.select_option(value=compared)
        page.locator("article", has_text="IoU").first.wait_for()
        ordered = paths(page)
        assert ordered != sorted(ordered), "the last one, where the runs disagree, moves up"
        page.locator("article", has_text="3.png").get_by_text("IoU 0.").wait_for()
        page.locator("article", has_text="1.png").get_by_text("IoU 1.00").wait_for()
        page.reload()
        page.locator("article", has_text="IoU").first.wait_for()
        assert paths(page) == ordered
        page.locator("article", has_text="3.png").click()
        page.locator('#viewer[data-ready="id-3.png"]').wait_for()
        page.locator("#agreement", has_text="mean mask IoU with run-clip_diy").wait_for()
        assert page.locator("#masks .mask", has_text="IoU 0.").count() > 0
        page.keyboard.press("Escape")
        order.select_option("path")
        page.locator("article", has_text="IoU").first.wait_for(state="detached")
        assert paths(page) == sorted(ordered)

        order.select_option(value=compared)
        page.locator("article", has_text="IoU").first.wait_for()
        run.folder.delete(report.file)
        page.reload()
        page.locator("#note.bad", has_text="ovseg compare").wait_for()
        assert paths(page) == ["0.png", "1.png", "2.png", "3.png"]
        assert order.input_value() == "priority"


def test_a_comparison_leaves_room_for_the_doubt_and_the_filters(page, tmp_path: Path):
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n), 0.4 + n / 10) for n in range(4)])
    other = [Scene(f"{n}.png", label_map(n + 9)) for n in range(4)]
    made = make_run(tmp_path / "other", other, RunSpec(shard_size=1))
    moved = Path(made.folder.uri).rename(tmp_path / "a run with a name of many letters")
    compare(run, RunFolder.open(str(moved)))
    order = page.locator("select[name=order]")
    with serving(run) as client:
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(client.url)
        paths(page)
        chosen = order.locator("option", has_text="with a_run_with_a_name_of_many_letters")
        order.select_option(value=chosen.get_attribute("value"))
        page.locator("article", has_text="IoU").first.wait_for()
        bars = page.locator("article .bar").evaluate_all("all => all.map((it) => it.offsetWidth)")
        assert len(bars) == 4
        assert min(bars) >= 40
        texts = "all => all.map((it) => it.scrollWidth - it.clientWidth)"
        for cut in page.locator("article .doubt > span, article h2").evaluate_all(texts):
            assert cut <= 0

        page.set_viewport_size({"width": 390, "height": 844})
        page.locator("#filters-button").click()
        boxes = [page.locator(f"[name={it}]").bounding_box() for it in ("order", "text")]
        starts = [box["x"] for box in boxes]
        ends = [box["x"] + box["width"] for box in boxes]
        assert abs(starts[0] - starts[1]) < 1
        assert abs(ends[0] - ends[1]) < 1
        assert max(ends) < 390


def test_a_wait_moves_no_filter(page, client: Client):
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(client.url)
    paths(page)
    waiting, order = page.locator("#count.busy"), page.locator("select[name=order]")
    before = order.bounding_box()
    held: list = []
    page.route("**/api/view?**", lambda route: held.append(route))
    order.select_option("path")
    waiting.wait_for()
    assert order.bounding_box() == before
    assert waiting.evaluate("(it) => it.scrollWidth <= it.clientWidth"), "room for its text"
    held.pop().continue_()
    waiting.wait_for(state="detached")
    assert order.bounding_box() == before


def test_an_old_label_without_room_is_left_to_the_tooltip(page, tmp_path: Path):
    labels = ("cat", "dog", *(f"a label of letters {n}" for n in range(2)))
    few = np.zeros((40, 56), np.uint16)
    few[3:12, 4:30], few[20:30, 8:50] = 1, 3
    run = make_run(tmp_path, [Scene(f"{n}.png", few) for n in range(2)], RunSpec(labels=labels))
    with serving(run) as client:
        for old, new in ((labels[0], labels[1]), (labels[2], labels[3])):
            answer = client.decide(
                image_id="id-0.png", label=old, action="relabel", new_label=new, segment_index=None
            )
            assert answer.status == 200, answer.body
        page.goto(client.url)
        card = page.locator("article", has_text="0.png")
        short, long = (card.locator(".chip", has_text=it) for it in (labels[1], labels[3]))
        short.wait_for()
        assert short.locator(".was").inner_text() == "was cat"
        assert long.locator(".was").is_hidden()
        assert "was a label of letters 0" in str(long.get_attribute("title"))
        cut = long.locator("span").evaluate("(it) => it.scrollWidth - it.clientWidth")
        assert cut <= 0, "the new label is whole"


def test_keyboard_focus_and_screen_reader_texts(page, client: Client):
    def focused(what: str) -> None:
        page.locator(f"{what}:focus").wait_for()

    page.goto(client.url)
    paths(page)
    grid = page.get_by_role("listbox", name="Images")
    grid.focus()
    page.keyboard.press("ArrowRight")
    option = page.get_by_role("option", name="1.png", selected=True)
    option.wait_for()
    assert grid.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Enter")
    page.locator('#viewer[data-ready="id-1.png"]').wait_for()
    focused("#viewer")
    page.keyboard.press("Shift+Tab")
    assert page.locator(".top :focus, #filters :focus").count() == 0, "that lies behind the image"
    page.locator("#viewer").focus()
    assert page.get_by_role("list", name="Masks").get_by_role("listitem").count() == 3
    announced = page.locator("#announce")
    announced.get_by_text("mask 1 of 3: cat, score 0.50, undecided").wait_for()
    page.keyboard.press("s")
    announced.get_by_text("mask 2 of 3").wait_for()
    page.keyboard.press("k")
    announced.get_by_text("mask 1 of 3: cat, score 0.50, skipped").wait_for()
    page.locator("#close").focus()
    page.keyboard.press("Tab")
    focused("#previous")
    page.keyboard.press("Tab")
    focused("#masks .eye")
    page.keyboard.press("Enter")
    page.locator("#masks .hidden-mask").first.wait_for()
    focused("#masks .eye[aria-pressed=false]")
    page.keyboard.press("l")
    page.keyboard.type("zebra")
    page.get_by_text("No label of this run matches").wait_for()
    page.keyboard.press("Enter")
    assert page.locator("#relabel[open]").count() == 1, "there is nothing to choose"
    page.get_by_role("combobox", name="label").fill("dog")
    page.get_by_role("option", name="dog", exact=True, selected=True).wait_for()
    page.get_by_text("No label of this run matches").wait_for(state="hidden")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    focused("#grid")
    page.keyboard.press("Shift+Tab")
    focused("#filters *")
    saved(page)


def test_masks_are_shown_hidden_and_faded(page, client: Client):
    page.goto(client.url)
    page.locator("article").first.click()
    page.locator('#viewer[data-ready="id-0.png"]').wait_for()
    shown = canvas(page)
    page.keyboard.press("v")
    page.locator("#masks .hidden-mask").first.wait_for()
    hidden = canvas(page)
    assert differing(shown, hidden) > 0.05
    page.keyboard.press("v")
    page.locator("#masks .hidden-mask").first.wait_for(state="detached")
    assert differing(shown, canvas(page)) < 0.001
    page.locator("#opacity-one").fill("0")
    assert differing(hidden, canvas(page)) > 0.05
    page.keyboard.press("+")
    assert differing(shown, canvas(page)) > 0.1


def test_only_visible_cards_are_fetched(page, tmp_path: Path):
    scenes = [Scene(f"{n:04d}.png", label_map(n, 8, 12)) for n in range(40)]
    many = [Scene(f"{n:04d}.png", None) for n in range(40, NUM_MANY)]
    run = make_run(tmp_path, scenes + many, RunSpec(shard_size=500))
    with serving(run) as client:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{client.url}#failed=any")
        page.locator("#count", has_text="2,960 images").wait_for()
        page.locator("article").first.wait_for()
        assert page.locator("article").count() < 60
        scroller = page.locator("#scroller")
        scroller.evaluate("(node) => { node.scrollTop = node.scrollHeight / 2; }")
        page.locator("article[data-index='1480']").wait_for()
        assert page.locator("article").count() < 60
        pages = [url for url in asked if "/api/items" in url]
        assert len(pages) <= 4, "what was jumped over was fetched"
        page.goto("about:blank")
        page.goto(client.url)
        page.locator("article img").first.wait_for()
        page.wait_for_load_state("networkidle")
        photos = {url for url in asked if "/photo" in url}
        assert 0 < len(photos) <= page.locator("article").count() < 40


def test_networks_load_when_the_try_link_is_hovered(page, scenes_run):
    with serving(scenes_run) as client:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(client.url)
        paths(page)
        assert not any("/api/try" in url for url in asked)
        with page.expect_request("**/api/try"):
            page.locator("#try-link").hover()
        page.locator("#scroller").hover()
        page.locator("#try-link").click()
        page.locator("#stage[data-answers='1']").wait_for()
        assert sum(url.endswith("/api/try") for url in asked) == 2, "once on each page"


def test_label_with_a_comma_is_left_out_of_the_words(page, tmp_path: Path):
    labels = ("cat", "door, double door", "dog")
    spec = RunSpec(labels=labels, job={"clip": "embedded", "run": {"device": "cpu"}})
    run = make_run(tmp_path, [Scene(f"{n}.png", label_map(n)) for n in range(2)], spec)
    with serving(run) as client:
        for place in ("try", "try?image=id-1.png"):
            page.goto(f"{client.url}{place}")
            page.locator("#stage[data-answers='1']").wait_for()
            assert sorted(page.locator("#words").input_value().split(", ")) == ["cat", "dog"]
            note = page.locator("#words-note").inner_text()
            assert note.startswith("Left out: 1 label with a comma. Separate them")
            assert "door" not in page.locator("#command").inner_text()


def test_seconds_of_loading_are_not_read_aloud_and_end_with_an_error(page, scenes_run):
    with serving(scenes_run) as client:
        held: list = []
        page.route("**/api/try", lambda route: held.append(route))
        page.goto(f"{client.url}try", wait_until="commit")
        page.locator("#seconds[aria-hidden=true]", has_text="2 s").wait_for()
        said = page.locator("#hint").evaluate("(it) => it.firstChild.textContent")
        assert said == "loading the networks …"
        held[0].continue_()
        page.locator("#stage[data-answers='1']").wait_for()
        assert page.locator("#seconds").count() == 0
        for name in ("run", "view", "items"):
            with refused(page, f"**/api/{name}**"):
                page.reload(wait_until="commit")
                page.locator("#error", has_text="the disk is gone").wait_for()
                assert not page.locator("#hint").is_visible()


def test_seconds_are_counted_while_the_words_are_looked_for(page, scenes_run):
    with serving(scenes_run) as client:
        held: list = []
        page.route("**/api/try/segment", lambda route: held.append(route))
        page.goto(f"{client.url}try")
        page.locator("#hint", has_text="looking …").wait_for()
        page.locator("#seconds[aria-hidden=true]", has_text="2 s").wait_for()
        assert page.locator("#hint").inner_text().startswith("looking … ")
        held[0].continue_()
        page.locator("#stage[data-answers='1']").wait_for()
        assert not page.locator("#hint").is_visible()


def test_words_of_the_image_come_first_where_the_page_is_opened_from_one(page, scenes_run):
    table = scenes_run.read_table("annotations", ["image_id", "label"])
    rows = [row for batch in table for row in batch.to_pylist()]
    by_image: dict[str, set[str]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], set()).add(row["label"])
    with serving(scenes_run) as client:
        for image_id, labels in list(by_image.items())[-2:]:
            page.goto(f"{client.url}try?image={image_id}")
            page.locator("#stage[data-answers='1']").wait_for()
            words = page.locator("#words").input_value().split(", ")
            assert set(words[: len(labels)]) == labels
            assert len(words) == max(6, len(labels))
            assert "found in this image" in page.locator("#words-note").inner_text()


def test_other_words_reuse_the_features_of_the_image(page, scenes_run, tmp_path: Path):
    with serving(scenes_run) as client:
        said: list[dict] = []

        def listen(response) -> None:
            if response.url.endswith("/api/try/segment") and response.ok:
                said.append(response.json())

        page.on("response", listen)
        page.goto(f"{client.url}try")
        stage = page.locator("#stage")
        page.locator("#stage[data-answers='1']").wait_for()
        note = page.locator("#words-note").inner_text()
        assert note.startswith(f"6 of the run's {len(scenes_run.info.job().vocabulary.names)} ")
        first = canvas(page)
        page.locator("#words").fill("red house, blue star")
        page.locator("#stage[data-answers='2']").wait_for()
        page.locator("#reused", has_text="features reused").wait_for()
        assert page.locator("#found .mask").count() == 2
        assert differing(first, canvas(page)) > 0.005
        page.locator("#method option[value=maskclip]").wait_for(state="attached")
        page.locator("#method").select_option("maskclip")
        page.locator("#stage[data-answers='3']").wait_for()
        assert "wall, grass" in page.locator("#method-caution").inner_text(), (
            "all is one of the two"
        )
        assert said[0]["caution"] == "", "the run's own method finds background"
        command = page.locator("#command")
        assert command.inner_text() == said[-1]["command"]
        options = command.locator("span").evaluate_all(
            "all => all.filter((one) => one.textContent.startsWith('--'))"
            ".map((one) => one.offsetHeight)"
        )
        assert len(options) > 3
        assert max(options) < 25, "a line ends between words, not at a hyphen"

        page.locator("#words").fill(",".join(f"word {n}" for n in range(65)))
        page.locator("#error", has_text="expected 1 to 64 words, got 65").wait_for()
        page.locator("#words").fill(" , ")
        page.locator("#hint", has_text="Write the words").wait_for()
        page.locator("#words").fill("blue star")
        page.locator("#stage[data-answers='4']").wait_for()
        page.locator("#error").wait_for(state="hidden")

        drawn = draw_scene(77, (120, 176), 2, False)
        file = tmp_path / "mine.png"
        Image.fromarray(drawn.image).save(file)
        page.locator("#file").set_input_files(str(file))
        page.locator("#stage[data-answers='5']").wait_for()
        caution = "the masks mean something on drawn scenes only"
        assert caution not in note
        assert caution in page.locator("#words-note").inner_text()
        (tmp_path / "words.txt").write_text("no image")
        page.locator("#file").set_input_files(str(tmp_path / "words.txt"))
        page.locator("#error", has_text="not_an_image").wait_for()
        page.evaluate(
            "() => { const dataTransfer = new DataTransfer();"
            " for (const name of 'ab') dataTransfer.items.add(new File(['x'], name));"
            " dispatchEvent(new DragEvent('drop', { dataTransfer })); }"
        )
        page.locator("#error", has_text="One image at a time").wait_for()
        assert stage.get_attribute("data-answers") == "5"

    assert [one["num_encoded"] for one in said] == [1, 1, 2, 2, 3]
    assert [one["encoded"] for one in said] == [True, False, True, False, True]
    commands = [one["command"].split()[1] for one in said]
    assert commands == ["relabel"] * 2 + ["annotate"] * 3, "only the run's method has features"
    assert said[0]["seconds"]["encode_s"] > 0
    assert said[1]["seconds"]["encode_s"] == said[1]["seconds"]["decode_s"] == 0
    assert (said[4]["height"], said[4]["width"]) == (120, 176)


def test_instances_are_told_apart_and_decided_one_by_one(page, tmp_path: Path):
    run = crowded_run(tmp_path)
    with serving(run) as client:
        page.goto(client.url)
        page.locator("article", has_text="one.png").click()
        page.locator('#viewer[data-ready="id-a/one.png"]').wait_for()
        masks = page.locator("#masks .mask")
        assert masks.locator(".name").all_inner_texts() == ["cat 1", "cat 2", "dog", "potted plant"]
        swatches = masks.locator(".name i").evaluate_all(
            "all => all.map((i) => i.style.background)"
        )
        assert len(set(swatches)) == 4
        stage = page.locator("#canvas").bounding_box()
        margin = min(24, stage["width"] / 20)
        sides = (stage["width"] - 2 * margin) / 44, (stage["height"] - 2 * margin) / 30
        scale = min(sides)
        left, top = ((stage[s] - scale * n) / 2 for s, n in (("width", 44), ("height", 30)))

        def at(x: float, y: float) -> tuple[float, float]:
            return stage["x"] + left + scale * x, stage["y"] + top + scale * y

        def current() -> str:
            return page.locator("#masks .mask.current .name").inner_text()

        for expected in ("potted plant", "dog", "cat 2", "potted plant"):
            page.mouse.click(*at(21.5, 15.5))
            assert current() == expected
        page.mouse.click(*at(8, 8))
        assert current() == "cat 1"
        before = canvas(page)
        page.mouse.move(*at(33, 8))
        assert page.locator("#masks .mask.hovered .name").inner_text() == "cat 2"
        assert differing(before, canvas(page)) > 0.001  # its outline
        page.mouse.click(*at(33, 8))
        page.keyboard.press("r")
        masks.nth(1).locator(".said.reject").wait_for()
        page.locator("#flash", has_text="cat 2: rejected").wait_for()
        masks.nth(0).click()
        page.keyboard.press("a")
        masks.nth(0).locator(".said.accept").wait_for()
        masks.nth(2).click()
        page.keyboard.press("l")
        page.keyboard.type("cat")
        page.keyboard.press("Enter")
        masks.nth(2).locator(".said.relabel").wait_for()
        assert masks.nth(2).locator(".name").inner_text() == "cat 3"
        saved(page)
    decided = {one.segment_index: one.action for one in ReviewLog(run).current().values()}
    assert decided == {0: "accept", 1: "reject", 2: "relabel"}


def test_many_instances_of_one_label_have_a_shade_each(page, tmp_path: Path):
    masks = np.zeros((12, 30, 44), bool)
    for number, mask in enumerate(masks):
        mask[2:28, 1 + 3 * number : 4 + 3 * number] = True
    drawn = tuple((2, 0.9 - number / 100, mask) for number, mask in enumerate(masks))
    scenes = [
        Scene("row.png", np.where(masks.any(axis=0), 2, 0).astype(np.uint16), instances=drawn)
    ]
    run = make_run(tmp_path, scenes, RunSpec(masks={"segments": "instances"}))
    with serving(run) as client:
        page.goto(client.url)
        page.locator("article").click()
        page.locator('#viewer[data-ready="id-row.png"]').wait_for()
        styles = page.locator("#masks .mask .name i").evaluate_all(
            "all => all.map((i) => getComputedStyle(i).backgroundColor)"
        )
    shades = np.array([[int(part) for part in re.findall(r"\d+", one)] for one in styles])
    apart = np.abs(shades[:, None] - shades[None]).max(axis=-1)
    assert apart[np.triu_indices(12, 1)].min() >= 8, "no shade repeats"
    assert apart[np.arange(11), np.arange(1, 12)].min() >= 60, "neighbours are plainly apart"


def test_labels_without_room_are_counted_and_unfolded(page, tmp_path: Path):
    labels = tuple(f"a label of many letters {n}" for n in range(12))
    rows = np.arange(48)[:, None] // 4 + np.ones((1, 56), int)
    above = {"all.png": 0, "two.png": 10, "none.png": 12}
    scenes = [Scene(it, np.where(rows > n, rows, 0).astype(np.uint16)) for it, n in above.items()]
    with serving(make_run(tmp_path, scenes, RunSpec(labels=labels))) as client:
        page.set_viewport_size({"width": 820, "height": 700})
        page.goto(client.url)
        many = page.locator("article", has_text="all.png")
        many.locator(".more").wait_for()
        shown = many.locator(".chip:not(.more)").evaluate_all(
            "(all) => all.filter((one) => !one.hidden).length"
        )
        assert shown > 0
        assert many.locator(".more").inner_text() == f"+{12 - shown}"
        assert labels[11] in str(many.locator(".more").get_attribute("title"))
        box = many.locator(".labels").evaluate("(it) => [it.scrollHeight, it.clientHeight]")
        assert box[0] <= box[1] + 1
        tops = page.locator("article h2").evaluate_all(
            "(all) => all.map((one) => one.getBoundingClientRect().top)"
        )
        assert len(tops) == 3
        assert max(tops) - min(tops) < 1, "names of one row of cards are aligned"

        brand, name = (page.locator(it).bounding_box() for it in (".brand b", "#run"))
        tabs = page.locator("nav").bounding_box()
        assert name["width"] > 60
        assert brand["x"] + brand["width"] <= name["x"]
        assert name["x"] + name["width"] <= tabs["x"]

        last = page.get_by_role("button", name=labels[11], exact=False)
        unfold = page.get_by_role("button", name="all 12 labels")
        assert last.get_attribute("title") == "in 2 images, as predicted"
        box, chips = (it.bounding_box() for it in (unfold, page.locator("#labels")))
        assert box["y"] + box["height"] <= chips["y"] + chips["height"] + 1, "beside the labels"
        folded = page.locator("#labels").bounding_box()["height"]
        unfold.click()
        assert page.locator("#labels").bounding_box()["height"] > folded
        page.get_by_role("button", name="fewer labels").click()
        unfold.wait_for()


def test_keys_begin_at_their_top_and_lose_no_key(page, client: Client):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(client.url)
    page.locator("article").first.wait_for()
    page.keyboard.press("?")
    page.locator("#help[open]").wait_for()
    top, inside, whole = page.locator("#help dl").evaluate(
        "(it) => [it.scrollTop, it.clientHeight, it.scrollHeight]"
    )
    assert (top, inside < whole) == (0, True), "it scrolls"
    widths = page.locator("#help dd:not([hidden])").evaluate_all(
        "all => all.map((one) => one.offsetWidth)"
    )
    assert min(widths) > 0.8 * page.locator("#help").bounding_box()["width"], "keys stand above"
    window, close = (page.locator(it).bounding_box() for it in ("#help", "#help button"))
    assert window["y"] >= 0
    assert window["y"] + window["height"] <= 844
    assert close["y"] + close["height"] <= window["y"] + window["height"], "in reach"
    page.locator("#help dl").evaluate("(it) => it.scrollTo(0, it.scrollHeight)")
    last, close = (
        page.locator(it).bounding_box() for it in ("#help dd:last-of-type", "#help button")
    )
    assert last["y"] + last["height"] <= close["y"], "not over the last key"
    page.locator("#help button").click()
    page.locator("#help").wait_for(state="hidden")
    page.keyboard.press("Enter")
    page.locator("#viewer[data-ready]").wait_for()


@pytest.mark.parametrize("has_list", [False, True])
def test_no_filter_stands_alone_on_a_line(page, tmp_path: Path, has_list: bool):
    run = begin_run(str(tmp_path / "run"))  # has vectors and failed images, so every filter
    for shard in run.shards():
        rows = make_rows(shard)
        run.commit(shard.index, "test", rows, make_tally(rows))
    if has_list:
        write_list(annotated_images(run), np.array([2, 0]), {"note": ["", ""]}, "a-long-name")
    with serving(run) as client:
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(client.url)
        paths(page)
        tops = page.locator("#filters label, #state").evaluate_all(
            "all => all.filter((one) => one.checkVisibility())"
            ".map((one) => one.getBoundingClientRect()).map((box) => box.y + box.height / 2)"
        )
    assert len(tops) == 6 + has_list
    lines = [sum(abs(one - other) < 4 for other in tops) for one in tops]
    assert min(lines) > 1, tops


def test_fields_that_nearly_fit_on_a_line_are_narrower_there(page, tmp_path: Path):
    run = begin_run(str(tmp_path / "run"))
    for shard in run.shards():
        rows = make_rows(shard)
        run.commit(shard.index, "test", rows, make_tally(rows))
    path = page.get_by_label("path", exact=True)
    with serving(run) as client:
        page.set_viewport_size({"width": 2000, "height": 900})
        page.goto(client.url)
        paths(page)
        whole = path.bounding_box()
        page.set_viewport_size({"width": int(whole["x"] + whole["width"]) - 30, "height": 900})
        box = path.bounding_box()
        assert abs(box["y"] - whole["y"]) < 1, "it stays on the first line"
        assert 50 < box["width"] < whole["width"]


@pytest.mark.parametrize("width", [390, 820])
def test_relabel_dialog_is_left_by_its_button_or_beside_it(page, client: Client, width: int):
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(f"{client.url}#image=id-1.png")
    page.locator("#viewer[data-ready]").wait_for()
    dialog = page.locator("#relabel")
    relabel = page.locator("[data-act=relabel]")
    relabel.click()
    assert dialog.get_by_text("Enter takes").is_visible() == (width > 640), "no keys on phones"
    assert dialog.locator("kbd").is_visible() == (width > 640)
    page.get_by_role("button", name="Cancel").click()
    dialog.wait_for(state="hidden")
    relabel.click()
    box = dialog.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(3, 3)
    page.mouse.up()
    assert dialog.is_visible(), "text was marked beyond its rim"
    page.mouse.click(box["x"] + 5, box["y"] + 5)
    assert dialog.is_visible()
    page.mouse.click(3, 3)
    dialog.wait_for(state="hidden")
    page.keyboard.press("?")
    page.locator("#help[open]").wait_for()
    page.mouse.click(3, 3)
    page.locator("#help").wait_for(state="hidden")
    assert page.locator("#masks .said").count() == 0


def test_previous_image_is_opened_by_a_button(page, client: Client):
    page.goto(f"{client.url}#image=id-2.png")
    page.locator('#viewer[data-ready="id-2.png"]').wait_for()
    page.get_by_role("button", name="previous image").click()
    page.locator('#viewer[data-ready="id-1.png"]').wait_for()
    page.keyboard.press("n")
    page.locator('#viewer[data-ready="id-2.png"]').wait_for()


def test_whole_image_is_rejected_by_a_button(page, client: Client):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{client.url}#image=id-1.png")
    page.locator("#viewer[data-ready]").wait_for()
    page.get_by_role("button", name="Reject the whole image").click()
    page.locator('#viewer[data-ready="id-2.png"]').wait_for()
    page.locator("#saved", has_text="all saved").wait_for(state="attached")
    assert [item["path"] for item in client.shown(state="rejected")] == ["1.png"]


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_close_bar_of_the_keys_covers_and_leaves_nothing(page, client: Client, width: int):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(client.url)
    paths(page)
    page.keyboard.press("?")
    window, bar = (page.locator(it).bounding_box() for it in ("#help[open]", "#help form"))
    assert bar["y"] + bar["height"] >= window["y"] + window["height"] - 2, "no text below it"
    if width == 1400:
        hidden = "(it) => it.scrollHeight - it.clientHeight"
        assert page.locator("#help dl").evaluate(hidden) == 0, "all keys are whole"
    page.locator("#help dl").evaluate("(it) => it.scrollTo(0, it.scrollHeight)")
    caps = page.locator("#help dt:last-of-type kbd").all()
    bar = page.locator("#help form").bounding_box()
    for cap in caps:
        box = cap.bounding_box()
        assert box["y"] + box["height"] <= bar["y"]


@contextmanager
def refused(page, pattern: str) -> Iterator[None]:
    """Answer some requests of a page with an error."""
    page.route(pattern, lambda route: route.fulfill(status=503, json={"error": "the disk is gone"}))
    yield
    page.unroute(pattern)


def canvas(page) -> np.ndarray:
    """Return the pixels of the stage, when no message lies over it."""
    page.locator("#flash").wait_for(state="hidden")
    with Image.open(io.BytesIO(page.locator("#canvas").screenshot())) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def _around(view: np.ndarray, x: float, y: float, size: tuple[int, int] = (90, 60)) -> np.ndarray:
    """Return the pixels of the stage, some 40 wide, around a place of an image that fills it."""
    height, width = view.shape[:2]
    margin = min(24, width / 20)
    scale = min((width - 2 * margin) / size[0], (height - 2 * margin) / size[1])
    middle = (
        round((height - scale * size[1]) / 2 + scale * y),
        round((width - scale * size[0]) / 2 + scale * x),
    )
    return view[middle[0] - 20 : middle[0] + 20, middle[1] - 20 : middle[1] + 20]


def differing(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of pixels that clearly differ."""
    return float((np.abs(one - other).max(axis=-1) > 12).mean())
