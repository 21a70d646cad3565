"""`ovseg settings` and `ovseg methods`."""

import json
import re

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from schemas.base import dotted_fields
from schemas.config import JobConfig


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_settings_list_every_field_with_its_meaning() -> None:
    shown = ovseg("settings")
    assert shown.exit_code == 0, shown.output
    for field in ("vocabulary.labels.*.synonyms", "run.max_error_share", "method.options.side_px"):
        assert field in shown.stdout
    assert "method.options.objectness.options.folder" in shown.stdout
    schema = json.loads(ovseg("settings", "--json").stdout)
    assert schema["properties"]["shard_size"]["description"].startswith("Images per shard")
    assert schema["additionalProperties"] is False


def test_settings_of_an_unknown_method_are_one_line() -> None:
    shown = ovseg("settings", "--method", "nclip")
    assert shown.exit_code == 1
    assert shown.stdout == ""
    assert shown.stderr.startswith("error: no 'nclip' among the methods")


def test_defaults_of_nested_fields_are_those_of_the_outer_default() -> None:
    lines = ovseg("settings").stdout.splitlines()
    (name,) = [line.split() for line in lines if line.startswith("method.name ")]
    assert name[1] == '"clip_diy"'


def test_methods_are_listed_with_papers_and_licences() -> None:
    shown = ovseg("methods")
    assert shown.exit_code == 0, shown.output
    assert "clip_diy" in shown.stdout
    assert "not measured by this project" in shown.stdout
    assert "Without --method it is clip_diy" in shown.stdout
    listed = json.loads(ovseg("methods", "--json").stdout)
    assert {"maskclip_plus", "text_fusion"} <= {row["name"] for row in listed["students"]}
    rows = listed["methods"] + listed["students"]
    assert all(row[column] for row in rows for column in ("paper", "parts", "weights", "licence"))
    assert all(row["published"] or row["figures"] for row in rows)
    for row in rows:
        assert all(row[column] in shown.stdout for column in ("name", "paper", "parts", "weights"))
        assert row["figures"] in shown.stdout


def test_students_have_a_table_of_their_own_with_the_papers_figures() -> None:
    lines = ovseg("methods").stdout.splitlines()
    (table,) = [n for n, line in enumerate(lines) if "Published mIoU of students" in line]
    (figures,) = [line.split() for line in lines[table:] if line.startswith("maskclip_plus ")]
    assert "67.5" in figures
    assert "arXiv )" not in "".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_name_is_broken_by_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    fields = [path for path, _ in dotted_fields(JobConfig)]
    shown = ovseg("settings", "--method", "proxyclip").stdout
    words = set(shown.split())
    assert not [field for field in fields if field not in words]
    assert "method.options.objectness.options.folder" in words
    shown = ovseg("methods").stdout
    assert {"clip_dinoiser", "maskclip_original", "Cityscapes"} <= {
        word.removesuffix(":") for word in shown.split()
    }
    if width >= 80:
        heads = [line.split() for line in shown.splitlines() if line.startswith("name ")]
        assert ["ADE" in words for words in heads] == [True, True]


def test_methods_end_with_the_table_of_figures_of_one_form() -> None:
    lines = ovseg("methods").stdout.splitlines()
    [title] = [n for n, line in enumerate(lines) if line.strip() == "Published mIoU"]
    figures = [line.split()[1:] for line in lines[title + 2 : title + 9]]
    assert title > len(lines) - 30
    assert not lines[-3]
    assert "not measured by this project" in lines[-1]
    assert all(re.fullmatch(r"-|\d+\.\d", cell) for row in figures for cell in row)
