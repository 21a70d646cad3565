"""Beginning a run and going on with it: what is the same run, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.run.folder import RunFolder
from schemas.errors import RunFolderError
from schemas.tables import to_records
from tests.helpers.imageless_runs import begin_run, image_refs, make_identity


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "maskclip"}, 'method.name was "clip_diy", now "maskclip"'),
        ({"labels": ["cat", "cow"]}, 'vocabulary.labels.1.name was "dog", now "cow"'),
        ({"labels": ["cat"]}, "vocabulary.labels.1 was {"),
        ({"shard_size": 5}, "shard_size was 4, now 5"),
        ({"masks": {"min_area_px": 7}}, "masks.min_area_px was 1, now 7"),
        ({"images": "/other"}, 'images was "/data", now "/other"'),
        ({"image": {"limit": 3}}, "image.limit was 0, now 3"),
        ({"image": {"only": "/val.txt"}}, 'image.only was (none), now "/val.txt"'),
        (
            {"method": {"name": "clip_diy", "options": {"x": 1}}},
            "method.options.x was (none), now 1",
        ),
    ],
)
def test_another_setting_is_named(out: str, settings: dict, named: str) -> None:
    begin_run(out)
    with pytest.raises(RunFolderError) as caught:
        begin_run(out, **settings)
    assert named in str(caught.value)
    assert "another output folder" in str(caught.value)


def test_many_differences_are_counted(out: str) -> None:
    begin_run(out, labels=[f"a{i}" for i in range(50)])
    with pytest.raises(RunFolderError, match="and 45 more"):
        begin_run(out, labels=[f"b{i}" for i in range(50)])


def test_how_the_work_is_spread_may_change(out: str) -> None:
    first = begin_run(out)
    again = begin_run(out, run={"workers": 7, "batch_size": 1, "device": "cpu", "local": True})
    assert again.fingerprint == first.fingerprint


def test_other_weights_are_another_run(out: str) -> None:
    begin_run(out)
    identity = replace(make_identity(out), weights={"clip": "b" * 64, "vision": "c" * 64})
    with pytest.raises(RunFolderError, match=r"weights\.clip was .* weights\.vision was \(none\)"):
        RunFolder.open(out).check_same(identity)


def test_resume_keeps_the_frozen_list(out: str) -> None:
    begin_run(out)
    assert list(to_records("manifest", begin_run(out, num_images=11).manifest())) == image_refs(10)


def test_relative_and_absolute_images_are_the_same(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = begin_run(out, images="photos", image={"only": "val.txt"})
    monkeypatch.chdir("/")
    only = {"only": str(tmp_path / "val.txt")}
    again = begin_run(out, images=str(tmp_path / "photos/"), image=only)
    assert again.fingerprint == first.fingerprint


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"it holds thesis\.tex, but no run\.yaml"):
        begin_run(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_or_hidden_only_folder_is_fine(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "empty").mkdir()
    assert len(begin_run(str(tmp_path)).shards()) == 3


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder \(run\.yaml is missing\)"):
        RunFolder.open(str(tmp_path / "nothing"))


@pytest.mark.parametrize("text", ["", "[1", "a: 1", "schema_version: 2", "\x00"])
def test_a_damaged_run_yaml(out: str, text: str) -> None:
    begin_run(out)
    (Path(out) / "run.yaml").write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        begin_run(out)


def test_tables_of_another_version_are_refused(out: str) -> None:
    begin_run(out)
    path = Path(out) / "run.yaml"
    path.write_text(path.read_text().replace("schema_version: 2", "schema_version: 99", 1))
    with pytest.raises(RunFolderError, match="version 99"):
        RunFolder.open(out)


def test_a_changed_manifest_is_refused(out: str) -> None:
    run = begin_run(out)
    other = begin_run(f"{out}2", num_images=11)
    run.folder.atomic_write("manifest.parquet", other.folder.read_bytes("manifest.parquet"))
    with pytest.raises(RunFolderError, match=r"manifest\.parquet is not the one"):
        RunFolder.open(out).shards()


def test_a_manifest_without_run_yaml_is_taken_up_or_refused(out: str) -> None:
    begin_run(out)
    (Path(out) / "run.yaml").unlink()
    with pytest.raises(RunFolderError, match="another collection"):
        begin_run(out, images="/other")
    # The same collection, in which a file has come since: the frozen list stands.
    assert begin_run(out, num_images=11).info.num_images == 10


def test_two_drivers_begin_at_once(out: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda count: begin_run(out, num_images=count), [10, 10, 11, 12]))
    assert len({run.fingerprint for run in runs}) == 1
    assert len({run.manifest().num_rows for run in runs}) == 1


def test_no_secret_is_written(out: str) -> None:
    begin_run(
        out,
        images="https://host/list.txt?X-Amz-Signature=SECRET",
        clip={"model": "RN50", "pretrained": "https://user:SECRET@host/w.pt?token=SECRET"},
        method={"name": "clip_diy", "options": {"urls": ["s3://SECRET:SECRET@b/x"]}},
    )
    for name in ("run.yaml", "manifest.parquet"):
        assert b"SECRET" not in (Path(out) / name).read_bytes()


def test_an_empty_manifest_makes_no_shards(out: str) -> None:
    run = begin_run(out, num_images=0)
    assert len(run.shards()) == 0
    assert run.info.num_shards == 0
    assert image_refs(0) == []
