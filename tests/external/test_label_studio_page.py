"""Label Studio's own page in a real Chromium: masks are drawn in place and submitted."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

from ovseg_core.images.label_colours import label_colours
from pipeline.corrections.import_review import import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.run.folder import RunFolder
from tests.external.label_studio import USER, Server, opt_in
from tests.helpers.browser import CHROMIUM, FLAGS, needs_chromium
from tests.helpers.drawn_runs import EXIF_ORIENTATION, LABELS, Scene, make_run
from tests.helpers.exported_masks import run_masks

pytestmark = [*opt_in, needs_chromium]
GREY = 128
DRAWN_S = 60


@pytest.fixture
def page(studio: Server) -> Iterator[Page]:
    """A page of a user who is logged in; it may send requests to the server only."""
    with sync_playwright() as session:
        browser = session.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(DRAWN_S * 1000)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"{studio.url}/user/login/")
        page.fill("input[name=email]", USER)
        page.fill("input[name=password]", studio.password)
        page.click("button[type=submit]")
        page.wait_for_url(f"{studio.url}/")
        yield page
        browser.close()
        ours = (studio.url, "data:", f"blob:{studio.url}")
        assert [url for url in requests if not url.startswith(ours)] == []


def _scene(name: str, size_hw: tuple[int, int], orientation: int) -> Scene:
    height, width = size_hw
    label_map = np.zeros((height, width), np.uint16)
    label_map[height // 10 : height * 6 // 10, width // 12 : width // 3] = 1
    label_map[height // 5 : height * 4 // 10, width // 8 : width // 4] = 0
    label_map[height * 7 // 10 : height * 9 // 10, width // 2 : width * 11 // 12] = 2
    return Scene(name, label_map, 0.7, orientation)


def _run(folder: Path) -> tuple[RunFolder, dict[str, np.ndarray]]:
    """Return a run and its label maps.

    The photographs are grey, so that what has a colour on the page is a mask; the lower left corner
    is black, and tells which way the page turned them.
    """
    scenes = [_scene("upright.jpg", (240, 320), 1), _scene("turned #6.jpg", (320, 240), 6)]
    run = make_run(folder, scenes)
    label_maps = {scene.path: scene.label_map for scene in scenes if scene.label_map is not None}
    for scene in scenes:
        height, width = label_maps[scene.path].shape
        shown = np.full((height, width, 3), GREY, np.uint8)
        shown[height * 5 // 6 :, : width // 6] = 0
        stored = np.rot90(shown) if scene.orientation == 6 else shown
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = scene.orientation
        photo = Image.fromarray(np.ascontiguousarray(stored))
        photo.save(folder / "photos" / scene.path, "JPEG", exif=exif)
    return run, label_maps


def test_masks_are_drawn_in_place_and_come_back_from_the_page(
    studio: Server, page: Page, tmp_path: Path
) -> None:
    run, label_maps = _run(studio.root / "page")
    project = studio.new_project(run, studio.root / "page" / "photos")
    for task in studio.tasks(project):
        page.goto(f"{studio.url}/projects/{project}/data?task={task['id']}")
        drawn, wanted = _drawn(page, label_maps[task["data"]["file_name"]])
        for label in (1, 2):
            one, other = drawn == label, wanted == label
            # The rim of what is enlarged to the screen is half a mask, a pixel wide.
            assert (one & other).sum() / (one | other).sum() > 0.95
        with page.expect_response(lambda answer: "/annotations" in answer.url and answer.ok):
            page.get_by_role("button", name="Submit").click()
    review = tmp_path / "review.json"
    review.write_bytes(studio.fetch(f"/api/projects/{project}/export?exportType=JSON"))
    report = import_review(run, "label-studio", str(review))
    layer = ReviewedLayer(run)
    masks = [mask for image_id in layer.images for mask in layer.masks(image_id)]
    paths = {image_id: image.path for image_id, image in layer.images.items()}
    ours = sorted((paths[mask.image_id], mask.label, mask.rle_counts) for mask in masks)
    assert ours == run_masks(run)
    assert {mask.verdict for mask in masks} == {"accepted"}
    assert report.num_images == report.num_images_with_time == len(label_maps)


def _drawn(page: Page, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that the page shows and those that it should, a number a screen pixel."""
    pixels, box, photo = _at_rest(page)
    height, width = truth.shape
    rows = (np.arange(len(pixels)) + 0.5 + box["y"] - photo["y"]) / photo["height"] * height
    columns = (np.arange(pixels.shape[1]) + 0.5 + box["x"] - photo["x"]) / photo["width"] * width
    seen = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    lines, places = rows[seen[0]].astype(int), columns[seen[1]].astype(int)
    shown = pixels[np.ix_(*seen)]
    corner = np.ix_(lines // (height // 12) == 11, places // (width // 12) == 0)
    assert shown[corner].size
    assert np.median(shown[corner]) < 20, "the photograph is turned another way"
    return _labels(shown), truth[np.ix_(lines, places)]


def _at_rest(page: Page) -> tuple[np.ndarray, FloatRect, FloatRect]:
    """Return the pixels (h, w, 3) of the canvas once masks stand still, its place and the photo's.

    The photograph reaches beyond the canvas where the page has zoomed in.
    """
    canvas, image = page.locator("canvas").last, page.locator("img[src^=blob]").last
    before = np.zeros((0, 0))
    deadline = time.monotonic() + DRAWN_S
    while time.monotonic() < deadline:
        page.wait_for_timeout(500)
        box, photo = canvas.bounding_box(), image.bounding_box()
        if box is None or photo is None:
            continue  # both are replaced while the page finds its layout
        shot = page.screenshot(clip=box)
        pixels = np.array(Image.open(io.BytesIO(shot)).convert("RGB")).astype(float)
        if (_labels(pixels) > 0).any() and np.array_equal(pixels, before):
            return pixels, box, photo
        before = pixels
    raise AssertionError("no mask was drawn")


def _labels(pixels: np.ndarray) -> np.ndarray:
    """Tell pixels (h, w, 3): 0 is the grey photograph, 1 and 2 a label over it, -1 neither."""
    over = pixels - GREY
    labels = np.where(np.abs(over).max(-1) < 4, 0, -1)
    for label in (1, 2):
        full = np.array(label_colours(LABELS)[label - 1], float) - GREY
        opacity = over @ full / (full @ full)
        away = np.abs(over - opacity[..., None] * full).max(-1)
        labels[(opacity > 0.2) & (opacity <= 1) & (away < 12)] = label
    return labels
