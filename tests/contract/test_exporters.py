"""Rules for every exporter in the package."""

import hashlib
import io
import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from pipeline.run.folder import RunFolder
from pipeline.storage.folder import Folder
from schemas import plugins
from schemas.base import Frozen
from schemas.errors import ConfigError, UserError
from tests.helpers.drawn_runs import (
    RunSpec,
    Scene,
    awkward_scenes,
    crowded_run,
    label_map,
    make_run,
    odd_scenes,
)
from tests.helpers.exported_masks import READERS, run_masks

PACKAGE = "pipeline.exporters"
EXPORTERS = plugins.names(PACKAGE)


def _export(name: str, run: RunFolder) -> list[str]:
    part = plugins.load_plugin(PACKAGE, name)
    return part.export(run, part.Options())


def _digests(run: RunFolder, name: str) -> dict[str, str]:
    """Return the hash of every file of an export without the fingerprint.

    The fingerprint depends on the collection's address.
    """
    files = run.folder.list(plugins.load_plugin(PACKAGE, name).FOLDER)
    return {file: _digest(run.folder.read_bytes(file), run.fingerprint) for file in files}


def _digest(data: bytes, fingerprint: str) -> str:
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Names, times and contents, because compression hides the fingerprint.
            members = [(entry.filename, entry.date_time) for entry in archive.infolist()]
            data = repr(members).encode() + b"".join(map(archive.read, archive.namelist()))
    return hashlib.sha256(data.replace(fingerprint.encode(), b"")).hexdigest()


def _one_image_without_segments() -> list[Scene]:
    return [Scene("a.png", np.zeros((9, 14), np.uint16)), Scene("b.png", None)]


def test_exporters_are_found():
    assert {"coco", "gallery"} <= set(EXPORTERS)


@pytest.mark.parametrize("name", EXPORTERS)
def test_docs_list_every_exporter(name):
    text = Path(__file__, "../../../docs/exports.md").resolve().read_text(encoding="utf-8")
    assert f"| `{name}` | `" in text


@pytest.mark.parametrize("name", EXPORTERS)
def test_options_are_a_closed_model_with_defaults(name):
    options = plugins.load_plugin(PACKAGE, name).Options
    assert issubclass(options, Frozen)
    assert all(field.description for field in options.model_fields.values())
    options()


@pytest.mark.parametrize("name", EXPORTERS)
@pytest.mark.parametrize(
    ("scenes", "spec"),
    [
        (odd_scenes(), RunSpec()),
        (odd_scenes(), RunSpec(masks={"segments": "components", "min_area_px": 9})),
        (odd_scenes(), RunSpec(unfinished=(0, 2))),
        (odd_scenes(), RunSpec(unfinished=(0, 1, 2, 3))),
        (_one_image_without_segments(), RunSpec()),
        ([Scene("broken.jpg", None), Scene("too.jpg", None)], RunSpec()),
    ],
    ids=["odd-names", "components", "unfinished", "nothing-done", "no-segments", "all-failed"],
)
def test_export_returns_files_or_the_folder_that_it_wrote(name, scenes, spec, tmp_path):
    run = make_run(tmp_path, scenes, spec)
    before = set(run.folder.list())
    written = _export(name, run)
    after = set(run.folder.list())
    folder = plugins.load_plugin(PACKAGE, name).FOLDER
    assert set(written) <= (after - before) | {folder}
    assert all(new.startswith(f"{folder}/") for new in after - before), "a file elsewhere"
    assert not [new for new in after if "tmp" in new], "a temporary file was left"


@pytest.mark.parametrize("name", EXPORTERS)
def test_export_of_the_same_run_has_the_same_bytes(name, tmp_path):
    first = make_run(tmp_path / "one", odd_scenes())
    second = make_run(tmp_path / "two", odd_scenes())
    _export(name, first)
    once = _digests(first, name)
    _export(name, first)
    assert _digests(first, name) == once
    _export(name, second)
    assert _digests(second, name) == once


@pytest.mark.parametrize("name", EXPORTERS)
def test_failed_export_leaves_an_older_one_complete(name, tmp_path):
    run = make_run(tmp_path, odd_scenes())
    _export(name, run)
    before = _digests(run, name)
    part = run.done()[2].files["annotations"].name
    Path(run.folder.uri, part).write_bytes(b"x" * run.folder.size(part))
    with pytest.raises(Exception, match=r"(?i)parquet"):
        _export(name, run)
    assert _digests(run, name) == before


@pytest.mark.parametrize("name", EXPORTERS)
def test_export_through_a_link_is_refused_and_changes_nothing(name, tmp_path):
    """A run folder is shared: whoever made it may have put a link where exports are written."""
    run = make_run(tmp_path, odd_scenes()[:2])
    _export(name, run)
    folder = Path(run.folder.uri, plugins.load_plugin(PACKAGE, name).FOLDER)
    places = {folder.parent, folder, *(file.parent for file in folder.rglob("*"))}
    elsewhere = tmp_path / "elsewhere"
    for place in sorted(places):
        place.rename(elsewhere)
        place.symlink_to(elsewhere)
        before = _content(elsewhere)
        with pytest.raises(UserError, match="is a symbolic link: inside a run folder"):
            _export(name, run)
        assert _content(elsewhere) == before
        place.unlink()
        elsewhere.rename(place)


def _content(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


@pytest.mark.parametrize("name", EXPORTERS)
def test_unknown_option_is_refused_by_name(name):
    from schemas.config import NamedOptions

    with pytest.raises(ConfigError, match="unknown key"):
        plugins.read_options(PACKAGE, NamedOptions(name=name, options={"nonsense": 1}), "export")


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("segments", ["class", "components"])
def test_exact_format_returns_every_mask_to_the_pixel(name, segments, tmp_path):
    spec = RunSpec(masks={"segments": segments})
    run = make_run(tmp_path, awkward_scenes(), spec)
    _export(name, run)
    # Label images hold no components: the class mask of each label comes back.
    whole = name == "semantic_png"
    expected = run_masks(make_run(tmp_path / "whole", awkward_scenes()) if whole else run)
    assert len(expected) > 9
    assert sorted(READERS[name](run)) == expected


@pytest.mark.parametrize("name", sorted(READERS.keys() - {"panoptic", "semantic_png"}))
def test_format_of_single_masks_keeps_instances_that_touch_and_overlap_apart(name, tmp_path):
    run = crowded_run(tmp_path)
    _export(name, run)
    assert sorted(READERS[name](run)) == run_masks(run)
    losses = run.folder.read_bytes(f"exports/{name}/LOSSES.txt").decode()
    assert "lie in part" not in losses


@pytest.mark.parametrize("name", EXPORTERS)
def test_export_of_a_run_in_a_bucket_has_the_same_files(name, tmp_path, s3_folder):
    local = make_run(tmp_path, odd_scenes())
    there = Folder(s3_folder).child(PurePosixPath(local.folder.uri).name)  # pages show the name
    for file in local.folder.list():
        there.atomic_write(file, local.folder.read_bytes(file))
    bucket = RunFolder.open(there.uri)
    written = _export(name, local)
    assert _export(name, bucket) == written
    assert _digests(bucket, name) == _digests(local, name)


def test_label_map_of_the_helper_has_all_labels():
    assert set(np.unique(label_map(0))) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_file_has_a_name_that_the_exporter_states(name, tmp_path):
    """By these names `ovseg delete` knows what ovseg wrote."""
    run = make_run(tmp_path, odd_scenes())
    _export(name, run)
    exporter = plugins.load_plugin(PACKAGE, name)
    folder = f"{exporter.FOLDER}/"
    written = [file.removeprefix(folder) for file in run.folder.list(exporter.FOLDER)]
    copies = {f"images/{scene.path}" for scene in odd_scenes()}
    unknown = [file for file in written if not re.fullmatch(exporter.FILES, file)]
    assert {*unknown} - copies <= {"LOSSES.txt"}
