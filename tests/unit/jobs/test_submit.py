"""`ovseg submit` before it reaches a cluster."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.submit import cluster_script


def ovseg(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


GOOD = "images: in\nout: out\nlabels: [cat]\n"


@pytest.mark.parametrize(
    "text", [GOOD, "images: /in\nout: /out\nlabels: [cat]\nimage: {only: val.txt}\n"]
)
def test_submit_refuses_relative_paths(tmp_path: Path, text: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(text, encoding="utf-8")
    result = ovseg("submit", str(job), "--address", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "relative to this machine" in result.stderr


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("images: https://host/list.csv?X-Amz-Signature=SECRET", "images"),
        ("clip: {model: RN50, pretrained: 'https://me:SECRET@host/w.pt'}", "clip.pretrained"),
        (
            "method: {name: clip_diy, options: {maps: [{k: ['s3://b/x?sig=SECRETSECRET']}]}}",
            "method.options.maps.0.k.0",
        ),
        ("image: {only: 'https://hf_SECRETSECRETSECRETSECRET@host/val.txt'}", "image.only"),
    ],
)
def test_submit_uploads_no_secret_but_names_its_place(
    tmp_path: Path, setting: str, place: str
) -> None:
    job = tmp_path / "job.yaml"
    text = f"images: /in\nout: /out\nlabels: [cat]\n{setting}\n".replace(
        "images: /in\n", "" if setting.startswith("images") else "images: /in\n", 1
    )
    job.write_text(text, encoding="utf-8")
    result = ovseg("submit", str(job), "--address", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert f"error: {place}: it holds a password, token or signature" in result.stderr
    assert "SECRET" not in result.stderr


def test_submit_refuses_a_task_without_ray(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("images: /in\nout: /out\nlabels: [cat]\nrun: {shards: 1/8}\n", encoding="utf-8")
    result = ovseg("submit", str(job), "--address", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "error: run.shards: '1/8' is one of several tasks" in result.stderr


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "s3://bucket", "auto://x"])
def test_an_address_that_is_no_job_servers_is_refused(tmp_path: Path, address: str) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("images: /in\nout: /out\nlabels: [cat]\n", encoding="utf-8")
    result = ovseg("submit", str(job), "--address", address)
    assert result.exit_code == 1
    assert "such as http://head:8265 (`ray start --head` prints it)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("is_there", [True, False])
def test_the_node_uses_an_interpreter_that_has_ovseg_or_says_that_there_is_none(
    tmp_path: Path, is_there: bool
) -> None:
    own = sys.executable if is_there else "/no/such folder/python"
    (tmp_path / "annotate.sh").write_text(cluster_script(own))
    (tmp_path / "job.yaml").write_text("out: run\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")  # without ovseg
    (tmp_path / "bin" / "python").chmod(0o755)
    (tmp_path / "bin" / "hostname").symlink_to("/bin/echo")
    result = subprocess.run(
        ["/bin/sh", "annotate.sh"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    if is_there:
        assert "error: images: missing" in result.stderr
    else:
        assert result.stderr.startswith("error: ovseg is not installed on the cluster's nodes")
        assert "/no/such folder/python has it" in result.stderr
        assert "then `ray start`" in result.stderr
        assert len(result.stderr.splitlines()) == 1
