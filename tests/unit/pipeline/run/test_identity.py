"""What is the same run, what differs, and what run.yaml stores."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.run.folder import RunFolder
from schemas.errors import RunFolderError
from tests.helpers.imageless_runs import begin_run, make_identity


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
def test_changed_setting_is_named(out: str, settings: dict, named: str) -> None:
    begin_run(out)
    with pytest.raises(RunFolderError) as caught:
        begin_run(out, **settings)
    assert named in str(caught.value)
    assert "another output folder" in str(caught.value)


def test_further_differences_are_counted(out: str) -> None:
    begin_run(out, labels=[f"a{i}" for i in range(50)])
    with pytest.raises(RunFolderError, match="and 45 more"):
        begin_run(out, labels=[f"b{i}" for i in range(50)])


def test_run_settings_do_not_change_the_fingerprint(out: str) -> None:
    first = begin_run(out)
    again = begin_run(out, run={"workers": 7, "batch_size": 1, "device": "cpu", "local": True})
    assert again.fingerprint == first.fingerprint


def test_other_weights_are_another_run(out: str) -> None:
    begin_run(out)
    identity = replace(make_identity(out), weights={"clip": "b" * 64, "vision": "c" * 64})
    with pytest.raises(RunFolderError, match=r"weights\.clip was .* weights\.vision was \(none\)"):
        RunFolder.open(out).check_same(identity)


def test_relative_and_absolute_paths_are_the_same_run(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = begin_run(out, images="photos", image={"only": "val.txt"})
    monkeypatch.chdir("/")
    only = {"only": str(tmp_path / "val.txt")}
    again = begin_run(out, images=str(tmp_path / "photos/"), image=only)
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize("text", ["", "[1", "a: 1", "schema_version: 2", "\x00"])
def test_damaged_run_yaml_is_an_error(out: str, text: str) -> None:
    begin_run(out)
    (Path(out) / "run.yaml").write_text(text)
    with pytest.raises(RunFolderError, match="damaged"):
        begin_run(out)


def test_unknown_schema_version_is_refused(out: str) -> None:
    begin_run(out)
    path = Path(out) / "run.yaml"
    path.write_text(path.read_text().replace("schema_version: 2", "schema_version: 99", 1))
    with pytest.raises(RunFolderError, match="version 99"):
        RunFolder.open(out)


def test_no_secret_is_written(out: str) -> None:
    begin_run(
        out,
        images="https://host/list.txt?X-Amz-Signature=SECRET",
        clip={"model": "RN50", "pretrained": "https://user:SECRET@host/w.pt?token=SECRET"},
        method={"name": "clip_diy", "options": {"urls": ["s3://SECRET:SECRET@b/x"]}},
    )
    for name in ("run.yaml", "manifest.parquet"):
        assert b"SECRET" not in (Path(out) / name).read_bytes()
