import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.corrections.log import ReviewLog
from pipeline.exporters import gallery
from pipeline.review.filter import Filter
from pipeline.review.session import ReviewSession
from pipeline.run.folder import RunFolder
from pipeline.storage.weights import CACHE_ENV
from schemas.review import ReviewDecision
from tests.helpers.drawn_runs import LABELS, RunSpec, Scene, label_map, make_run, odd_scenes

LEAST = "no image is less doubtful"


class _Page(HTMLParser):
    """Tags and texts of a page, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, wanted: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == wanted]


def _export(run: RunFolder, **options: int) -> _Page:
    gallery.export(run, gallery.Options(**options))
    return _Page(run.folder.read_bytes("exports/gallery/index.html").decode())


def _losses(run: RunFolder) -> str:
    return run.folder.read_bytes("exports/gallery/LOSSES.txt").decode()


def _doubts(page: _Page) -> list[str]:
    return [text for text in page.texts if re.fullmatch(rf"more doubtful.*|reviewed|{LEAST}", text)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path, odd_scenes())


def test_export_every_image_once_highest_priority_first(run):
    page = _export(run)
    paths = [scene.path for scene in odd_scenes() if scene.label_map is not None]
    shown = [text for text in page.texts if text in paths]
    assert sorted(shown) == sorted(paths)
    doubt = [100 * place // 9 for place in range(8, 0, -1)]
    assert _doubts(page) == [*(f"more doubtful than {one} %" for one in doubt), LEAST]
    assert len(doubt) + 1 == len(paths)
    assert page.texts.count("run") == 2, "the page is called as the run, in its tab and above"


def test_export_escapes_names_and_has_one_script(run):
    page = _export(run)
    assert "<script>alert(1)<script>.png" in page.texts
    assert len(page.all("script")) == 1
    (policy,) = (m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy


def test_export_escapes_labels_and_offers_them_as_filters(tmp_path):
    labels = ("<b>cat</b>", 'dog" onclick="x', "plant")
    run = make_run(tmp_path, [Scene("a.png", label_map(0))], RunSpec(labels=labels))
    page = _export(run)
    assert not page.all("b")
    *buttons, others = page.all("button")
    assert all(set(button) == {"data-label", "aria-pressed", "title"} for button in buttons)
    assert {button["title"] for button in buttons} == {"in 1 of these images"}
    assert [button["data-label"] for button in buttons] == ["1", "2", "3"]
    assert others["aria-controls"] == "labels"
    assert set(labels) <= {text.strip() for text in page.texts}


def test_export_shows_what_turns_the_direction_of_text_as_escapes(tmp_path: Path) -> None:
    scenes = [Scene("\u202egnp.exe", label_map(0))]
    page = _export(make_run(tmp_path, scenes, RunSpec(labels=("\u202etac", "dog", "كلب"))))
    texts = {text.strip() for text in page.texts}
    assert {"\\u202egnp.exe", "\\u202etac", "dog", "كلب"} <= texts


def test_export_refers_to_its_own_pictures_only(run):
    page = _export(run)
    folder = Path(run.folder.uri, "exports/gallery")
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 2 * sum(scene.label_map is not None for scene in odd_scenes())
    for source in sources:
        assert (folder / source).is_file()
    assert not any("src" in tag and tag["src"] not in sources for _, tag in page.tags)
    assert "http" not in (folder / "index.html").read_text("utf-8").replace("http-equiv", "")


def test_export_masks_fit_the_photograph_to_the_pixel(tmp_path):
    scene = Scene("a.png", label_map(3, 100, 140))
    page = _export(make_run(tmp_path, [scene]), side_px=140)
    folder = tmp_path / "run" / "exports" / "gallery"
    photo, masks = (image["src"] for image in page.all("img"))
    with Image.open(folder / photo) as picture:
        assert picture.size == (140, 100)
    with Image.open(folder / masks) as picture:
        np.testing.assert_array_equal(np.array(picture)[..., 3] > 0, scene.label_map > 0)


def test_export_limit_keeps_the_highest_priority_and_deletes_older_pictures(run):
    whole = [t for t in _export(run).texts if t.endswith((".png", ".jpg"))]
    page = _export(run, limit=3)
    assert [t for t in page.texts if t.endswith((".png", ".jpg"))] == whole[:3]
    assert "6 less doubtful images are left out" in " ".join(page.texts)
    pictures = {
        f"pictures/{file.name}"
        for file in Path(run.folder.uri, "exports/gallery/pictures").iterdir()
    }
    assert pictures == {image["src"] for image in page.all("img")}, "older pictures were left"
    assert "6  images beyond the limit" in _losses(run)


def test_doubt_stays_that_of_the_review_page_when_images_are_reviewed(tmp_path: Path) -> None:
    scenes = [Scene(f"{n}.png", label_map(n), 0.3 + n / 10) for n in range(5)]
    run = make_run(tmp_path, scenes)
    before = _doubts(_export(run))
    decisions = [("id-0.png", "reject"), ("id-1.png", "accept")]
    ReviewLog(run).append(
        ReviewDecision(image_id=image_id, action=action, at_s=1.0) for image_id, action in decisions
    )
    page = _export(run)
    shown = [text for text in page.texts if text.endswith(".png")]
    assert shown == ["2.png", "3.png", "4.png", "1.png"], "the rejected one is left out"
    assert _doubts(page) == [*before[2:], "reviewed"]
    assert "left out" not in " ".join(page.texts)
    session = ReviewSession(run)
    items = session.items(session.open_view(Filter())["view"], 0, 9)
    percents = {item["path"]: int(100 * item["doubt"] + 1e-9) for item in items}
    told = [LEAST if not percents[it] else f"more doubtful than {percents[it]} %" for it in shown]
    assert _doubts(page)[:3] == told[:3]


def test_losses_name_no_limit_that_was_not_reached(run):
    _export(run, limit=9)
    assert "limit" not in _losses(run).partition("\nWritten:")[2]


def test_export_image_that_is_missing_is_shown_with_its_error(tmp_path):
    run = make_run(tmp_path, [Scene("a.png", label_map(1)), Scene("b.png", label_map(2))])
    (tmp_path / "photos" / "a.png").unlink()
    page = _export(run)
    assert len(page.all("article")) == 2
    assert any("the photograph cannot be read any more: not_found" in text for text in page.texts)
    assert sorted(str(image["class"]) for image in page.all("img")) == ["alone", "masks", "photo"]


def test_masks_do_not_lie_over_a_photograph_that_was_replaced(tmp_path):
    run = make_run(tmp_path, [Scene("a.png", label_map(1)), Scene("b.png", label_map(2))])
    Image.new("RGB", (30, 90)).save(tmp_path / "photos" / "a.png")
    page = _export(run)
    assert any("was replaced since the run" in text for text in page.texts)
    assert sorted(str(image["class"]) for image in page.all("img")) == ["alone", "masks", "photo"]
    assert "1  photographs that were replaced since the run" in _losses(run)
    assert "a.png" in _losses(run)


def test_export_of_another_machines_run_shows_masks_and_how_to_see_the_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = label_map(1, 40, 90)
    run = make_run(tmp_path, [Scene("<b>.png", painted), Scene("b.png", label_map(2))])
    own = _export(run)
    assert len(own.all("img")) == 4
    assert "--images-root" not in "".join(own.texts)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "of somebody else"))
    page = _export(RunFolder.open(run.folder.uri), side_px=90)
    assert [image["class"] for image in page.all("img")] == ["alone", "alone"]
    told = [text for text in page.texts if f"--images-root {tmp_path / 'photos'}" in text]
    assert len(told) == 1, "one line says what to do"
    sizes = set()
    for image in page.all("img"):
        with Image.open(Path(run.folder.uri, "exports/gallery", str(image["src"]))) as picture:
            sizes.add(picture.size)
            drawn = np.array(picture)[..., 3] > 0
            if picture.size == (90, 40):
                np.testing.assert_array_equal(drawn, painted > 0)
    assert (90, 40) in sizes


def test_export_components_of_a_label_are_one_chip(tmp_path):
    run = make_run(
        tmp_path, [Scene("a.png", label_map(1))], RunSpec(masks={"segments": "components"})
    )
    page = _export(run)
    chips = [tag for tag in page.all("span") if tag.get("class") == "chip"]
    assert len(chips) == len(LABELS)
    assert any("× ≤" in text for text in page.texts)


def test_export_counts_failed_and_unfinished_images(tmp_path):
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(0,)))
    text = " ".join(_export(run).texts)
    assert "Failed: truncated 1." in text
    assert "3 images are not annotated yet." in text


def test_export_says_where_the_models_do_not_fit_the_images(tmp_path):
    said = "nothing on photographs"
    photos = make_run(
        tmp_path / "photos", [Scene("a.png", label_map(1))], RunSpec(job={"clip": "embedded"})
    )
    page = _export(photos)
    assert any(said in text for text in page.texts)
    assert {"class": "note"} in page.all("div"), "it stands out, as on the review page"
    assert "ovseg demo" in page.texts, "code is marked up"
    assert not any("`embedded`" in text for text in page.texts)
    assert any(text.endswith("weights are used.") for text in page.texts)
    own = make_run(tmp_path / "own", [Scene("a.png", label_map(1))])
    assert not any(said in text for text in _export(own).texts)
