"""`ovseg check`: what it prints, and exit codes that a script can rely on."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from jobs.cli import app
from tests.helpers.drawn_runs import RunSpec, Scene, grow_run, label_map, make_run, odd_scenes


def check(*args: str) -> Result:
    return CliRunner().invoke(app, ["check", *args])


def test_a_sound_run_ends_with_0_and_a_damaged_one_with_6_and_advice(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes(), RunSpec(unfinished=(2,)))
    result = check(run.folder.uri)
    assert result.exit_code == 0, result.output
    assert "3 of 4 checked, 1 not finished yet" in result.stdout
    assert result.stdout.endswith("\nnothing is wrong\n")
    name = run.done()[0].files["scores"].name
    Path(run.folder.uri, name).unlink()
    result = check(run.folder.uri)
    assert result.exit_code == 6
    assert f"file: {name}\n    expected: " in result.stdout
    assert "    found:    no such file\n    to do:    give the command that made" in result.stdout
    assert result.stdout.endswith("\n1 finding: 1 file\n")
    report = json.loads(check(run.folder.uri, "--json").stdout)
    assert (report["counts"], report["num_left"]) == ({"file": 1}, 1)
    assert report["findings"][0]["where"] == name
    assert report["not_checked"][0].startswith("exports: ")


def test_a_generation_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, [Scene("a.png", label_map(0)), Scene("b.png", label_map(1))])
    grow_run(run, [Scene("c.png", label_map(2))])
    assert "generation 2, 3" in check(run.folder.uri).stdout
    result = check(f"{run.folder.uri}@1")
    assert result.exit_code == 0
    assert "newest generation" in result.stdout


def test_a_folder_that_is_no_run_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    result = check(str(tmp_path / "nowhere"))
    assert result.exit_code == 1
    assert "nowhere is not a run folder (run.yaml is missing): expected one" in result.stderr


def test_names_of_strangers_reach_no_terminal(tmp_path: Path) -> None:
    run = make_run(tmp_path, odd_scenes())
    (Path(run.folder.uri) / "failed").mkdir()
    (Path(run.folder.uri) / "failed" / "00001.json").write_text('{"\\u001b[2J\\nnothing": 1}')
    result = check(run.folder.uri)
    assert result.exit_code == 6
    assert "\x1b" not in result.stdout
    assert "nothing is wrong" not in result.stdout
