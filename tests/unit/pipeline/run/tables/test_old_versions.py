"""Tables and markers of older schema versions under today's names."""

from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from pipeline.run.identity import parse_run_file
from pipeline.run.tables import old_versions
from schemas import plugins
from schemas.records import STAGES, ShardDone, ShardTally
from schemas.tables import TABLES

METHODS = "ovseg_core.methods"
RUN_FILE = Path(__file__).parents[4] / "fixtures" / "run_v1" / "run" / "run.yaml"


@pytest.mark.parametrize("name", sorted(old_versions.RENAMED_COLUMNS))
def test_stored_columns_are_renamed_back(name):
    columns = TABLES[name][0].names
    stored = old_versions.stored_columns(name, columns, version=1)
    table = pa.table({column: [1] for column in stored})
    found = old_versions.with_new_columns(name, table, 1, {"kind": "class"})
    assert found.column_names == columns
    assert set(stored) - set(columns) == set(old_versions.RENAMED_COLUMNS[name])


@pytest.mark.parametrize("columns", [None, ["num_frames", "path", "color_profile"]])
def test_columns_that_version_2_lacks_read_as_their_defaults(columns):
    wanted = columns or TABLES["images"][0].names
    stored = old_versions.stored_columns("images", wanted, version=2)
    assert "num_frames" not in stored
    table = old_versions.with_new_columns(
        "images", pa.table({column: ["x", "y"] for column in stored}), 2, {}, columns
    )
    assert table.column_names == wanted
    assert table.column("num_frames").to_pylist() == [1, 1]
    assert table.column("color_profile").to_pylist() == ["", ""]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_segments_of_older_versions_are_of_the_runs_kind_and_have_no_proposal(version):
    columns = ["label", "proposal_score", "kind"]
    stored = old_versions.stored_columns("annotations", columns, version)
    assert stored == ["label"]
    table = old_versions.with_new_columns(
        "annotations",
        pa.table({"label": ["cat", "dog"]}),
        version,
        {"kind": "component"},
        columns,
    )
    assert table.column("kind").to_pylist() == ["component", "component"]
    assert table.column("proposal_score").to_pylist() == [1.0, 1.0]
    assert table.schema.field("kind").type == TABLES["annotations"][0].field("kind").type


def test_a_column_that_version_3_has_is_read_from_its_file():
    assert old_versions.stored_columns("images", ["num_frames"], version=3) == ["num_frames"]


def test_stages_of_a_marker_are_renamed():
    seconds = {"read": 1.0, "decode": 2.0, "segment": 3.0, "encode": 4.0, "wall": 5.0}
    marker = ShardDone(
        schema_version=1,
        shard=0,
        attempt="a",
        fingerprint="f",
        files={},
        tally=ShardTally(num_images=1, num_segments=0, seconds=seconds),
    )
    renamed = old_versions.with_new_stages(marker)
    assert renamed.tally.seconds == dict(zip((*STAGES, "wall"), seconds.values(), strict=True))
    assert renamed.schema_version == 1


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("clip_diy", {"recipe": "demo", "stride_divisor": 2}),
        ("clip_dinoiser", {"least_affinity": 0.3, "sure": 0.9, "presence_top": 4}),
        ("naclip", {"std_patches": 3.0}),
        ("sc_clip", {"min_cosine": 0.5, "class_weight": 0.2}),
        ("maskclip_original", {"denoise_below": 0.5, "smooth_below": 0.5}),
    ],
)
def test_options_of_a_job_are_renamed(method, options):
    stored = yaml.safe_load(RUN_FILE.read_text())
    stored["config"]["method"] = {"name": method, "options": options}
    job = parse_run_file(yaml.safe_dump(stored, sort_keys=False).encode(), "run").job()
    assert list(job.method.options.values()) == list(options.values())
    plugins.read_options(METHODS, job.method, "method")  # knows every name


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_folder_of_regions_is_one_of_proposals(version):
    stored = yaml.safe_load(RUN_FILE.read_text())
    stored["config"]["method"] = {"name": "sclip", "options": {"region_folder": "/masks"}}
    stored["schema_version"] = version
    job = parse_run_file(yaml.safe_dump(stored, sort_keys=False).encode(), "run").job()
    assert job.method.options == {"proposals": {"name": "folder", "options": {"folder": "/masks"}}}


def test_no_method_has_an_option_of_an_old_name():
    for method in plugins.names(METHODS):
        known = plugins.load_plugin(METHODS, method).Options.model_fields
        assert not known.keys() & old_versions.RENAMED_OPTIONS.keys()


def test_a_job_without_a_method_has_the_default():
    stored = yaml.safe_load(RUN_FILE.read_text())
    del stored["config"]["method"]
    assert parse_run_file(yaml.safe_dump(stored).encode(), "run").job().method.name == "clip_diy"


@pytest.mark.parametrize("method", ["clip_diy", 5, None, {"name": "naclip", "options": [1]}])
def test_a_method_of_another_form_is_left_to_the_checks_of_the_job(method):
    config = {"images": "a", "method": method}
    assert old_versions.with_new_options(config) == config
