"""What README and docs say to type: every command parses, every Python block compiles."""

import ast
import importlib
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs.cli import app
from jobs.config import load_config
from jobs.options import log_format_first
from ovseg_core import methods
from pipeline import exporters
from schemas.config import JobConfig, NamedOptions, StudentConfig
from schemas.errors import ErrorCode, ExitCode
from schemas.plugins import load_plugin, names, read_options

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
OVSEG = typer.main.get_command(app)
ENDS = {"&&", "||", "|", ";", ">", "2>", "&"}
NEEDED = {"images": "photos", "out": "out", "vocabulary": ["cat"]}
"""What a command may leave to its job file."""
PACKAGES = {"schemas", "ovseg_core", "pipeline", "jobs", "training", "benchmarks"}


def fences(page: Path) -> Iterator[tuple[str, int, str]]:
    """Yield the language, line and content of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", text, re.M | re.S):
        line = text.count("\n", 0, block.start()) + 2
        yield block[2], line, textwrap.dedent(block[3])


def typed_commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the arguments of each call of ovseg in the page's blocks of commands."""
    for language, first, block in fences(page):
        if language not in ("", "sh", "bash", "shell", "console"):
            continue
        lines = block.replace("\\\n", "  ").splitlines()
        for number, line in enumerate(lines):
            if not re.search(r"(?:^|[\s/!])ovseg ", line):
                continue
            # Quoted as it is; else without the signs of a synopsis.
            plain = re.sub(r"('[^']*')|\[|\]|\.\.\.|(?<=\w)(?:\|\w+)+", r"\1", line)
            words = shlex.split(plain, comments=True)
            for place, word in enumerate(words):
                if word.lstrip("!").rpartition("/")[2] == "ovseg":
                    args = words[place + 1 :]
                    end = next((n for n, arg in enumerate(args) if arg in ENDS), None)
                    yield first + number, args[:end]


def spoken_commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the words of each command of ovseg in running text."""
    text = re.sub(r"^( *)```.*?^\1```", lambda b: "\n" * b[0].count("\n"), page.read_text("utf-8"),
                  flags=re.M | re.S)  # fmt: skip
    for span in re.finditer(r"`ovseg\s([^`]+)`", text):
        yield text.count("\n", 0, span.start()) + 1, span[1].split()


def parse(args: list[str]) -> None:
    """Let click read a command line without running it."""
    args = log_format_first(args)
    name, *rest = args[2:] if args[:1] == ["--log-format"] else args
    with suppress(typer.Exit):  # of `--help`
        given = OVSEG.commands[name].make_context(name, rest).params
        check_settings(name, given, given.get("sets") or [])


def check_settings(command: str, given: dict[str, Any], sets: list[str]) -> None:
    """Check what `--set` names, where it is no placeholder in capitals and no file to read."""
    sets = [one for one in sets if not one.isupper() and not one.startswith("calibration=")]
    if command in ("annotate", "submit"):
        flags = NEEDED | {"method.name": given["method"]}
        config = load_config(JobConfig, "", flags, sets)
        read_options(methods.__name__, config.method, "method")
    elif command == "export" and not given["to"].isupper():
        options = {key: yaml.safe_load(value) for key, _, value in (s.partition("=") for s in sets)}
        part = NamedOptions(name=given["to"].replace("-", "_"), options=options)
        read_options(exporters.__name__, part, "export")


@pytest.mark.parametrize(
    "wrong",
    [
        "annotate --imagse photos",
        "annotate --set run.wrokers=8",
        "annotate --method nacilp",
        "annotate --method naclip --set method.options.scales=[256]",
        "export RUN --to coco --set polygon=true",
        "anotate",
    ],
)
def test_a_wrong_word_would_be_found(wrong):
    with pytest.raises(Exception, match=r"No such option|unknown key|no 'nacilp'|anotate"):
        parse(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_blocks_parse(page):
    wrong = []
    for line, args in typed_commands(page):
        if args[:1] in (["-h"], ["--help"], ["--version"], ["COMMAND"]):
            continue
        try:
            parse(args)
        except Exception as error:  # noqa: BLE001 - click's, which typer does not export
            said = getattr(error, "format_message", lambda error=error: repr(error))()
            wrong.append(f"{page.name}:{line}: ovseg {shlex.join(args)}: {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_exist_with_their_options(page):
    wrong = []
    for line, words in spoken_commands(page):
        name = words[0]
        if not re.fullmatch(r"[a-z][a-z-]+", name):
            continue
        command = OVSEG.commands.get(name)
        params = command.params if command else ()
        known = {option for param in params for option in (*param.opts, *param.secondary_opts)}
        given = re.findall(r"(?<!\S)\[?(--[a-z-]+)", " ".join(words))
        if command is None or not set(given) <= {*known, "--help"}:
            wrong.append(f"{page.name}:{line}: ovseg {' '.join(words)}")
    assert not wrong, "\n".join(wrong)


def test_pages_have_commands():
    """So that the tests above cannot become empty."""
    assert sum(1 for page in PAGES for _ in typed_commands(page)) > 25
    assert sum(1 for page in PAGES for _ in spoken_commands(page)) > 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_compile_and_import_names_that_exist(page):
    missing = []
    for language, line, block in fences(page):
        if language not in ("python", "py"):
            continue
        tree = ast.parse(block, f"{page.name}:{line}")
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [(alias.name, []) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [(node.module or "", [alias.name for alias in node.names])]
            else:
                continue
            for module, wanted in modules:
                if module.split(".")[0] in PACKAGES:
                    home = importlib.import_module(module)
                    missing += [f"{page.name}:{line}: {module}.{name}"
                                for name in wanted if not hasattr(home, name)]  # fmt: skip
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_job_files_in_blocks_are_valid(page, tmp_path):
    for language, _, block in fences(page):
        if language == "yaml":
            file = tmp_path / "job.yaml"
            file.write_text(block, encoding="utf-8")
            if "student" in yaml.safe_load(block):
                load_config(StudentConfig, str(file), {"out": "out", "teacher": "run"})
            else:
                config = load_config(JobConfig, str(file), below=lambda given: NEEDED | given)
                read_options(methods.__name__, config.method, "method")


def table_keys(page: str, heading: str) -> list[str]:
    """Return the first cells of the first table under a heading, without backquotes."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    table = text[text.index("\n|---") :].partition("\n\n")[0]
    return [cell.strip("` ") for cell in re.findall(r"^\| ([^|]+)\|", table, re.M)]


def test_every_code_has_a_cause_and_a_next_step():
    assert table_keys("troubleshooting.md", "Error codes") == [code.value for code in ErrorCode]
    exits = table_keys("troubleshooting.md", "Exit codes")
    assert exits == [str(code.value) for code in ExitCode]
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    empty = [row for row in rows if not all(cell.strip() for cell in row.split("|")[1:-1])]
    assert not empty


def test_every_paper_can_be_cited():
    text = (DOCS / "citing.md").read_text(encoding="utf-8")
    titles = {" ".join(title.replace("{", "").replace("}", "").split())
              for title in re.findall(r"title\s+= \{(.*)\},?$", text, re.M)}  # fmt: skip
    for name in names(methods.__name__):
        card = load_plugin(methods.__name__, name).CARD
        assert not card.arxiv or f"arXiv:{card.arxiv}" in text, name
        assert card.paper in titles, name
        assert f"`{name}`" in text or name == "student", name


def test_the_citation_file_has_the_packages_version_and_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert f"version = {{{project['version']}}}" in (DOCS / "citing.md").read_text(encoding="utf-8")
