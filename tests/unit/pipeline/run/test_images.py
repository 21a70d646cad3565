"""The images of a run: read where they are confirmed, and nowhere else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo.draw import draw_scenes
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages, check_own
from pipeline.run.reader import Row, RunReader
from pipeline.run.trust.confirmed import Confirmed
from schemas.config import JobConfig
from schemas.errors import ErrorCode, ImageError, RunFolderError
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run
from tests.helpers.tampering import change_uris

SCENES = [Scene(f"{place}.png", label_map(place)) for place in range(4)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Return a run of two shards that this user began; `photos` lies beside it."""
    return make_run(tmp_path, SCENES, RunSpec(shard_size=2))


@pytest.fixture
def elsewhere(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process one of another machine, once the run is there."""
    assert run.is_first
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "another cache"))


def rows(run: RunFolder) -> list[Row]:
    return [row for shard in RunReader(run).shards() for row in shard.images.values()]


def refusal(images: RunImages, row: Row) -> ImageError:
    with pytest.raises(ImageError) as caught:
        images.read_bytes(row)
    return caught.value


def again(run: RunFolder, *roots: str) -> RunImages:
    confirmed = Confirmed.from_flags(roots, allow_private=False)
    return RunImages(RunFolder.open(run.folder.uri, confirmed))


def test_images_of_an_own_run_are_read_without_a_word(run: RunFolder, tmp_path: Path) -> None:
    moved = shutil.move(run.folder.uri, tmp_path / "moved")
    images = RunImages(RunFolder.open(str(moved)))
    assert images.notice == ""
    for number, row in enumerate(rows(run := RunFolder.open(str(moved)))):
        assert images.read_bytes(row) == (tmp_path / f"photos/{number}.png").read_bytes()
        pixels = images.read_image(row).rgb
        assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / f"photos/{number}.png")))
    assert run.manifest().num_rows == 4


def test_the_manifest_alone_says_where_an_image_lies(run: RunFolder, tmp_path: Path) -> None:
    manifest = (tmp_path / "run/manifest.parquet").read_bytes()
    run_file = (tmp_path / "run/run.yaml").read_text()
    change_uris(tmp_path / "run", lambda *_: "/etc/passwd")
    (tmp_path / "run/manifest.parquet").write_bytes(manifest)
    (tmp_path / "run/run.yaml").write_text(run_file)
    images = RunImages(RunFolder.open(run.folder.uri))
    assert images.ref(rows(run)[3]).uri == f"{tmp_path}/photos/3.png"
    with pytest.raises(ImageError, match="does not have this image"):
        images.ref({**rows(run)[3], "shard": 0})


@pytest.mark.usefixtures("elsewhere")
def test_another_machines_run_needs_a_root_once(
    run: RunFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row, images = rows(run)[3], RunImages(run)
    assert refusal(images, row).code is ErrorCode.PERMISSION_DENIED
    assert refusal(images, row).code is ErrorCode.PERMISSION_DENIED
    assert f"--images-root {tmp_path}/photos" in images.notice
    assert [record.getMessage() for record in caplog.records] == [images.notice]
    assert again(run, f"{tmp_path}/photos/").read_bytes(row)
    remembered = again(run)
    assert remembered.notice == ""
    assert remembered.read_bytes(row)


def test_a_changed_manifest_is_not_an_own_one(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "photos/link.png").symlink_to(tmp_path / "secret")
    bad = ["/etc/passwd", f"{tmp_path}/photos/../secret", f"{tmp_path}/photos\\..\\..\\secret"]
    change_uris(tmp_path / "run", lambda number, uri: (*bad, f"{tmp_path}/photos/link.png")[number])
    images = again(run)
    assert images.notice
    for row in rows(run):
        assert refusal(images, row).code is ErrorCode.PERMISSION_DENIED
    images = again(run, f"{tmp_path}/photos")
    codes = [str(refusal(images, row).code) for row in rows(run)]
    assert set(codes) == {"permission_denied"}


@pytest.mark.usefixtures("elsewhere")
def test_what_the_run_names_is_shown_and_not_obeyed(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "run/run.yaml"
    text = path.read_text()
    path.write_text(
        text.replace(f"images: {tmp_path}/photos", 'images: "/x\\e[2J\\u202e\\ny\'z"', 1)
    )
    notice = again(run).notice
    assert notice.isprintable()
    assert "\\x1b[2J\\u202e\\ny" in notice
    path.write_text(text.replace(f"images: {tmp_path}/photos", "images: /data/list.csv", 1))
    assert f"names --images-root {tmp_path}/photos" in again(run).notice


@pytest.mark.usefixtures("elsewhere")
def test_limits_of_another_machines_run_are_no_higher_than_the_default(
    run: RunFolder, tmp_path: Path
) -> None:
    path = tmp_path / "run/run.yaml"
    text = path.read_text()
    path.write_text(text.replace("max_pixels: 100000000", "max_pixels: 900000000000"))
    config = again(run, f"{tmp_path}/photos").config
    assert config.max_pixels == 100_000_000
    path.write_text(text.replace("max_bytes: 500000000", "max_bytes: 7"))
    assert again(run, f"{tmp_path}/photos").config.max_bytes == 7


def job(run: RunFolder, images: str, **settings: object) -> JobConfig:
    values = {**run.info.config, "images": images, "run": settings}
    return JobConfig.model_validate(values)


@pytest.mark.usefixtures("elsewhere")
def test_a_resume_elsewhere_reads_only_what_the_job_names(run: RunFolder, tmp_path: Path) -> None:
    photos = f"{tmp_path}/photos"
    check_own(run, job(run, photos))
    assert RunImages(run).notice == "", "from now on it is this user's"
    change_uris(tmp_path / "run", lambda number, uri: "/etc/passwd" if number == 1 else uri)
    changed = RunFolder.open(run.folder.uri)
    with pytest.raises(RunFolderError, match=r"1 of its images .* '/etc/passwd'"):
        check_own(changed, job(run, photos))
    check_own(changed, job(run, photos, images_roots=["/etc"]))


@pytest.mark.usefixtures("elsewhere")
def test_a_list_is_read_again_for_a_resume_elsewhere(run: RunFolder, tmp_path: Path) -> None:
    given = tmp_path / "list.txt"
    given.write_text("".join(f"photos/{place}.png\n" for place in range(3)))
    with pytest.raises(RunFolderError, match=r"1 of its images .*/3\.png"):
        check_own(run, job(run, str(given)))
    given.write_text("".join(f"photos/{place}.png\n" for place in range(4)))
    check_own(run, job(run, str(given)))


def test_embedded_models_are_said_unless_all_images_are_drawn_scenes(tmp_path: Path) -> None:
    spec = RunSpec(shard_size=1, job={"clip": {"model": "embedded"}})
    scenes = [Scene(f"scenes/scene_{place:03}.png", label_map(place)) for place in range(4)]
    run = make_run(tmp_path, scenes, spec)  # photographs of such names
    assert "nothing on photographs" in RunImages(run).note_on_models
    draw_scenes(tmp_path / "photos" / "scenes", 4, seed=1)
    assert RunImages(run).note_on_models == ""
    mixed = make_run(tmp_path / "mixed", [*scenes, Scene("holiday.png", label_map(0))], spec)
    draw_scenes(tmp_path / "mixed" / "photos" / "scenes", 4, seed=1)
    assert "nothing on photographs" in RunImages(mixed).note_on_models
    assert RunImages(make_run(tmp_path / "other", SCENES)).note_on_models == ""


def test_images_of_a_stranger_are_not_read_to_tell_whether_they_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(job={"clip": {"model": "embedded"}})
    run = make_run(tmp_path, [Scene("scene_000.png", label_map(0))], spec)
    draw_scenes(tmp_path / "photos", 2, seed=1)
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "another cache"))
    assert "nothing on photographs" in again(run).note_on_models


def test_images_that_have_moved_are_found_below_a_root_and_where_not_it_is_said(
    run: RunFolder, tmp_path: Path
) -> None:
    row = rows(run)[3]
    content = (tmp_path / "photos/3.png").read_bytes()
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    failure = refusal(RunImages(run), row)
    assert failure.code is ErrorCode.NOT_FOUND
    assert f"{tmp_path}/photos/3.png" in str(failure)
    assert "--images-root" in str(failure)
    wrong = refusal(again(run, f"{tmp_path}/run"), row)
    assert f"nor as 3.png below {tmp_path}/run" in str(wrong)
    assert again(run, f"{tmp_path}/moved").read_bytes(row) == content
    assert again(run).read_bytes(row) == content, "it is remembered"
    assert again(run).read_image(row).rgb.shape[:2] == (row["height"], row["width"])


@pytest.mark.usefixtures("elsewhere")
def test_a_link_at_the_new_place_of_another_machines_images_is_not_followed(
    run: RunFolder, tmp_path: Path
) -> None:
    shutil.move(tmp_path / "photos", tmp_path / "here")
    shutil.move(tmp_path / "here/3.png", tmp_path / "secret.png")
    (tmp_path / "here/3.png").symlink_to(tmp_path / "secret.png")
    images = again(run, f"{tmp_path}/photos", f"{tmp_path}/here")
    assert images.read_bytes(rows(run)[2])
    assert refusal(images, rows(run)[3]).code is ErrorCode.NOT_FOUND


def test_images_of_a_run_that_has_grown_are_its_users_own(run: RunFolder, tmp_path: Path) -> None:
    (gone,) = (row for row in rows(run) if row["path"] == "1.png")
    grown = grow_run(run, [Scene("n.png", label_map(7))], [Scene("0.png", label_map(8))], {"1.png"})
    images = RunImages(grown)
    assert images.notice == ""
    for row in rows(grown):
        assert images.read_bytes(row) == (tmp_path / "photos" / row["path"]).read_bytes()
    assert [row["path"] for row in rows(grown)] == ["2.png", "3.png", "0.png", "n.png"]
    assert refusal(images, gone).code is ErrorCode.NOT_FOUND


def test_a_generation_of_another_machine_is_confirmed_anew(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(tmp_path / "run", ours)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("OVSEG_CACHE", str(tmp_path / "another cache"))
        grow_run(run, [Scene("n.png", label_map(7))])
    grown = RunFolder.open(run.folder.uri)
    assert RunImages(RunFolder.open(str(ours))).notice == ""
    assert "not begun on this machine" in RunImages(grown).notice
    check_own(grown, job(grown, f"{tmp_path}/photos"))
    assert RunImages(grown).notice == ""
