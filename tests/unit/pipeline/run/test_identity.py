"""What is the same run, what differs, and what run.yaml stores."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.annotate.versions import compared_versions
from pipeline.run.folder import RunFolder
from pipeline.run.inspection.inspect import inspect_folder
from schemas.errors import RunFolderError
from schemas.records import Shard, ShardDone
from schemas.tables import SCHEMA_VERSION, to_table
from tests.helpers.imageless_runs import (
    begin_run,
    image_refs,
    make_identity,
    make_rows,
    make_tally,
)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def commit(run: RunFolder, shard: Shard) -> ShardDone:
    rows = make_rows(shard)
    return run.commit(shard.index, "one", rows, make_tally(rows))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"method": "maskclip"}, 'method.name was "clip_diy", now "maskclip"'),
        ({"labels": ["cat", "cow"]}, "the words were: cat, dog; now: cat, cow. Give"),
        ({"labels": ["cat"]}, "the words were: cat, dog; now: cat. Give"),
        ({"labels": ["dog", "cat"]}, "`ovseg review` tries other words on single images"),
        (
            {"labels": [str(n) for n in range(99)]},
            "now: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 87 more.",
        ),
        (
            {"labels": ["cat", {"name": "dog", "synonyms": ["hound"]}]},
            "label 'dog': synonyms.0 was (none), now \"hound\"",
        ),
        ({"shard_size": 5}, "shard_size was 4, now 5"),
        ({"masks": {"min_area_px": 7}}, "masks.min_area_px was 1, now 7"),
        ({"images": "/other"}, 'images was "/data", now "/other"'),
        (
            {"image": {"limit": 3}},
            "it takes all images (image.limit), now the first 3 images. Give",
        ),
        ({"image": {"limit": 3}}, "to more images (--update), never to fewer"),
        ({"compute": {"precision": "bf16"}}, 'compute.precision was "fp32", now "bf16"'),
        ({"compute": {"compile": True}}, "compute.compile was false, now true"),
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


def test_run_of_a_version_without_precisions_was_computed_in_fp32(out: str) -> None:
    """It goes on in fp32, and with no other precision."""
    begin_run(out)
    path = Path(out) / "run.yaml"
    stored = yaml.safe_load(path.read_text())
    del stored["config"]["compute"]
    for key in ("precision", "compile"):
        del stored["identity"][f"compute.{key}"]
    stored["fingerprint"] = "0" * 64  # of other fields
    path.write_text(yaml.safe_dump(stored))
    begin_run(out)
    with pytest.raises(RunFolderError, match=r'compute\.precision was "fp32", now "bf16"'):
        begin_run(out, compute={"precision": "bf16"})


def test_further_differences_are_counted(out: str) -> None:
    labels = [f"a{i}" for i in range(50)]
    begin_run(out, labels=labels)
    with pytest.raises(RunFolderError, match="and 45 more"):
        begin_run(out, labels=[{"name": name, "synonyms": [f"{name}s"]} for name in labels])


def test_run_settings_do_not_change_the_fingerprint(out: str) -> None:
    first = begin_run(out)
    again = begin_run(out, run={"workers": 7, "batch_size": 1, "device": "cpu", "local": True})
    assert again.fingerprint == first.fingerprint


def test_other_weights_are_another_run(out: str) -> None:
    begin_run(out)
    identity = replace(make_identity(out), weights={"clip": "b" * 64, "vision": "c" * 64})
    with pytest.raises(RunFolderError, match=r"weights\.clip was .* weights\.vision was \(none\)"):
        RunFolder.open(out).check_same(identity)


def _begun_with(out: str, **versions: str) -> None:
    """Change the versions in `run.yaml` to those of another machine."""
    path = Path(out) / "run.yaml"
    content = yaml.safe_load(path.read_text())
    content["identity"] |= {f"versions.{library}": text for library, text in versions.items()}
    content["fingerprint"] = "f" * 64
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("library", ["pillow", "torch", "libjpeg", "timm", "open_clip_torch"])
def test_other_versions_of_libraries_are_named(out: str, library: str) -> None:
    both = {"clip": "a" * 64, "vision": "b" * 64}
    identity = replace(make_identity(out), weights=both)
    RunFolder.create_or_resume(out, identity, to_table("manifest", image_refs(9)))
    now = compared_versions(both)[library]
    _begun_with(out, **{library: "0.1"})
    with pytest.raises(RunFolderError) as caught:
        RunFolder.open(out).check_same(identity)
    assert f'other versions of libraries: {library} was "0.1", now "{now}"' in str(caught.value)
    assert "run.accept_versions=true" in str(caught.value)


def test_other_versions_can_be_accepted_and_are_noted_in_markers(out: str) -> None:
    run = begin_run(out)
    first, second = list(run.shards())[:2]
    commit(run, first)
    _begun_with(out, pillow="1.2", torch="0.9")
    accepted = begin_run(out, run={"accept_versions": True})
    marker = commit(accepted, second)
    now = compared_versions({"clip"})
    assert marker.other_versions == {"pillow": now["pillow"], "torch": now["torch"]}
    assert marker.fingerprint == accepted.fingerprint
    assert inspect_folder(accepted).other_versions == {
        f"pillow {now['pillow']}": 1,
        f"torch {now['torch']}": 1,
    }


def test_a_finished_run_may_be_asked_again_under_other_versions(out: str) -> None:
    begin_run(out)
    _begun_with(out, pillow="1.2")
    RunFolder.open(out).check_same(make_identity(out), is_finished=True)
    with pytest.raises(RunFolderError, match="pillow"):
        RunFolder.open(out).check_same(make_identity(out))


def test_accepting_versions_accepts_no_other_setting(out: str) -> None:
    begin_run(out)
    _begun_with(out, pillow="1.2")
    with pytest.raises(RunFolderError, match="shard_size was 4, now 5"):
        begin_run(out, shard_size=5, run={"accept_versions": True})


def test_repairs_of_libraries_are_the_same_run(out: str) -> None:
    """The last number of a version is recorded, not compared."""
    info = begin_run(out).info
    versions = compared_versions({"clip"})
    assert versions["pillow"] == ".".join(info.versions["pillow"].split(".")[:2])
    assert versions["torch"].count(".") == 1
    assert info.versions["torch"].count(".") == 2


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
    path.write_text(
        path.read_text().replace(f"schema_version: {SCHEMA_VERSION}", "schema_version: 99", 1)
    )
    with pytest.raises(RunFolderError, match="version 99"):
        RunFolder.open(out)


def test_no_secret_is_written(out: str) -> None:
    begin_run(
        out,
        images="https://host/list.txt?X-Amz-Signature=SECRET",
        clip={"model": "RN50", "pretrained": "https://user:SECRET@host/w.pt?token=SECRET"},
        method={
            "name": "clip_diy",
            "options": {
                "urls": [["s3://SECRET:SECRET@b/x"]],
                "https://me:SECRET@host/": 1,
                "storage_options": {"secret": "SECRET", "header": "Bearer SECRET0"},
            },
        },
    )
    for name in ("run.yaml", "manifest.parquet"):
        assert b"SECRET" not in (Path(out) / name).read_bytes()
