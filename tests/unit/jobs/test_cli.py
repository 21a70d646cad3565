"""The command line: fast help, one line per mistake on stderr, documented exit codes."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from schemas import plugins
from schemas.errors import ExitCode

COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands]
ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"(?:^|`)ovseg ([a-z-]+)", f"{README}{QUICKSTART}", re.MULTILINE)


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_help_names_commands_and_exit_codes() -> None:
    result = ovseg("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in (*COMMANDS, *DOCUMENTED, "Exit codes"))
    assert "..." not in result.stdout.partition("Commands:")[2]  # no summary is cut off


@pytest.mark.parametrize(
    "args",
    [
        ["--log-format", "json", "inspect", "nothing"],
        ["inspect", "nothing", "--log-format", "json"],
        ["inspect", "--log-format=json", "nothing"],
    ],
)
def test_log_format_stands_before_or_after_the_command(
    args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_LOG_FORMAT", "text")  # is put back after the test
    result = ovseg(*args)
    assert result.exit_code == ExitCode.USER_ERROR
    assert "nothing is not a run folder" in json.loads(result.stderr)["message"]


def test_a_log_format_that_does_not_exist_is_refused() -> None:
    result = ovseg("inspect", "nothing", "--log-format", "xml")
    assert result.exit_code == 2
    assert "is not one of 'text', 'json'" in result.stderr


def test_exit_codes_are_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", QUICKSTART.partition("| exit code |")[2], re.MULTILINE)
    assert [int(code) for code in rows[: len(ExitCode)]] == list(ExitCode)
    epilog = " ".join(ovseg("--help").stdout.split()).partition("Exit codes: ")[2]
    assert [int(part.split()[0]) for part in epilog.split("; ")] == list(ExitCode)


def test_help_names_every_export_format() -> None:
    shown = "".join(ovseg("export", "--help").stdout.split())
    assert ",".join(plugins.names("pipeline.exporters")) in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = ovseg(command, "--help")
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in result.stdout


def test_help_is_fast_and_light() -> None:
    code = (
        "import sys\n"
        "from jobs.cli import app\n"
        "app(['annotate', '--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'pipeline', 'pyarrow', 'omegaconf'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stderr.strip() == "[]"
    assert time.monotonic() - started < 5  # 0.2 s alone; the machine may be busy


def test_version() -> None:
    result = ovseg("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("ovseg ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["anotate"], "Did you mean 'annotate'"),
        (["annotate", "--wrokers", "3"], "--workers"),
        (["annotate", "--limit", "-1"], "--limit"),
        (["evaluate", "run"], "--truth"),
        (["import-review", "run", "--from", "coco"], "the FILE that the tool wrote"),
        (["inspect"], "RUN"),
        (["demo", "--scenes", "1"], "--scenes"),
    ],
)
def test_usage_errors_exit_2(args: list[str], expected: str) -> None:
    result = ovseg(*args)
    assert result.exit_code == 2
    assert expected in result.stderr


GOOD = "images: in\nout: out\nlabels: [cat]\n"


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("images: [a\n", [], ["job.yaml:2:1: not valid YAML: did not find expected ',' or ']'"]),
        (GOOD + "wrkers: 2\n", [], ["wrkers: unknown key; did you mean 'run.workers'?"]),
        (
            GOOD + "run: {device: gpu, workers: x}\n",
            [],
            ["run.workers: expected a valid integer, got 'x'", "run.device: expected 'auto'"],
        ),
        (
            "images: in\nout: out\nlabels: [cat, cat]\n",
            [],
            ["'cat' is given twice: leave one"],
        ),
        ("images: in\nout: out\nlabels: []\n", [], ["vocabulary.labels: no labels"]),
        (GOOD, ["--labels", ","], ["vocabulary.labels: no labels"]),
        (GOOD, ["--vocabulary", "nothing.txt"], ["nothing.txt: no such file"]),
        (GOOD, ["--set", "masks.min_area"], ["--set expects key=value"]),
        (GOOD, ["--set", "masks.min_area=3"], ["masks.min_area: unknown key; did you mean"]),
        (GOOD, ["--set", "method=clip_dyi"], ["'clip_dyi'"]),
        (GOOD, ["--method", "NACLIP"], ["no 'NACLIP' among the methods: Did you mean 'naclip'?"]),
        (GOOD, ["--method", "Clip-DIY"], ["Did you mean 'clip_diy'?"]),
        (GOOD, ["--set", "masks.Min-Area-PX=3"], ["did you mean 'masks.min_area_px'?"]),
        (GOOD, ["--set", "method.options.scalez=3"], ["method.options.scalez"]),
        (GOOD, ["--images", "no/such/folder", "--set", "clip.model=embedded"], ["no/such/folder"]),
    ],
)
def test_user_errors_are_lines_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, args: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(text, encoding="utf-8")
    result = ovseg("annotate", "job.yaml", "--local", *args)
    assert result.exit_code == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == len(expected), result.stderr
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith("error: ")
        assert part in line
    assert not Path("out").exists()


def test_folder_in_place_of_a_job_file_points_to_images(tmp_path: Path) -> None:
    result = ovseg("annotate", str(tmp_path))
    assert result.exit_code == 1
    assert f"{tmp_path} is a folder, expected a file" in result.stderr
    assert "--images" in result.stderr


def test_missing_fields_are_listed_together() -> None:
    result = ovseg("annotate")
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.stderr.splitlines()] == [
        "images:",
        "out:",
        "vocabulary:",
    ]


def test_method_is_a_flag_that_stands_over_the_file_and_its_options(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"images: {tmp_path}\nout: {tmp_path}/run\nlabels: [cat]\n"
        "method: {name: clip_diy, options: {side_px: 9}}\n"
    )
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    result = ovseg("annotate", str(job), "--method", "naclip", "--dry-run", "--local")
    assert result.exit_code == 0, result.output
    (shown,) = [line.split() for line in result.stdout.splitlines() if line.startswith("method")]
    assert shown == ["method", "naclip"]


def test_missing_job_file() -> None:
    result = ovseg("annotate", "nothing.yaml")
    assert result.exit_code == 1
    assert result.stderr == "error: nothing.yaml: no such file\n"


@pytest.mark.parametrize(
    "args",
    [
        ["annotate", "--images", "s3://b/x", "--labels", "cat", "--out", "s3://b/run", "--local"],
        ["annotate", "s3://b/job.yaml"],
        ["annotate", "s3://b/job.yaml", "--vocabulary", "s3://b/words.txt"],
        ["inspect", "s3://b/run"],
        ["export", "s3://b/run"],
        ["evaluate", "s3://b/run", "--truth", "reviewed"],
        ["review", "s3://b/run", "--port", "0"],
    ],
)
def test_a_store_that_is_away_at_the_start_is_one_line_and_exit_4(
    args: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the S3 client is an extra")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for name, value in (("ENDPOINT_URL", f"http://127.0.0.1:{port}"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    s3fs.S3FileSystem.clear_instance_cache()
    result = ovseg(*args)
    assert result.exit_code == ExitCode.OUTAGE, result.output
    assert re.fullmatch(r"error: cannot (read|look at|list) s3://b/.*\n", result.stderr)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_full_disk_is_one_line_and_exit_4_wherever_it_is_met() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-u", "-m", "jobs", "methods"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == ExitCode.OUTAGE
    assert result.stderr == "error: the disk is full, or your share of it: make room\n"


def test_secrets_in_messages_are_hidden() -> None:
    result = ovseg("annotate", "https://me:hunter2@127.0.0.1:9/x?sig=deadbeef")
    assert result.exit_code == 1
    assert "https://***@127.0.0.1:9/x?***" in result.stderr
    assert "hunter2" not in result.output
    assert "deadbeef" not in result.output


@pytest.mark.parametrize(
    "args", [["--x\x1b[31m"], ["inspect", "a", "b\u202e", "c\nd"], ["export", "a\x1b"]]
)
def test_names_that_the_shell_put_on_the_command_line_are_shown_as_text(args: list[str]) -> None:
    result = CliRunner().invoke(app, args)
    assert result.exit_code in (1, 2)
    assert "\\x1b" in result.stderr or "\\u202e" in result.stderr
    assert not set(result.stderr) & set("\x1b\u202e")
