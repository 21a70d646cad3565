"""`ovseg submit` before it reaches a cluster."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app


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
