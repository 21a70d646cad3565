"""What is remembered of runs: their manifests and the roots of their images."""

from pathlib import Path

import pytest

from pipeline.run.trust.confirmed import (
    Confirmed,
    confirmed,
    remember_folder,
    remember_manifest,
    remember_roots,
)
from schemas.config import JobConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def job(images: str, **run: object) -> JobConfig:
    given = {"images": images, "out": "s3://b/run", "labels": ["cat"], "run": run}
    return JobConfig.model_validate(given)


def test_a_manifest_of_this_user_is_known_by_its_hash_alone() -> None:
    remember_manifest("a" * 64, job("http://10.0.0.1/photos/", allow_private_addresses=True))
    known = confirmed("a" * 64, "/anywhere")
    assert known == Confirmed(is_own=True, hosts=("10.0.0.1:80",), allow_private=True)
    assert known.places.roots is None
    assert known.places.may_call("10.0.0.2", 22)
    assert confirmed("b" * 64, "/anywhere") == Confirmed()
    assert confirmed("b" * 64, "/anywhere").places.roots == ()


def test_roots_add_up(cache: Path) -> None:
    first = Confirmed.from_flags(["/data/photos/", "s3://b/*.jpg"], allow_private=False)
    assert first.roots == ("/data/photos", "s3://b")
    remember_roots("a" * 64, first)
    remember_roots("a" * 64, Confirmed(roots=("/data/photos", "/more")))
    assert confirmed("a" * 64, "/run").roots == ("/data/photos", "s3://b", "/more")
    assert len(list((cache / "runs").iterdir())) == 1


def test_a_root_with_a_secret_is_not_written_down(cache: Path) -> None:
    remember_roots("a" * 64, Confirmed(roots=("https://SECRETTOKEN@h.test/x", "/data")))
    assert confirmed("a" * 64, "/run").roots == ("/data",)
    assert all(b"SECRET" not in file.read_bytes() for file in (cache / "runs").iterdir())


def test_the_folder_of_a_submitted_job_has_its_root_and_no_more() -> None:
    remember_folder("s3://b/run/", job("s3://b/photos/*.jpg"))
    known = confirmed("c" * 64, "s3://b/run")
    assert known == Confirmed(roots=("s3://b/photos",))
    remember_manifest("s3://b/run", job("/data"))  # a key of the other kind
    assert not confirmed("c" * 64, "s3://b/run").is_own
    remember_folder("s3://b/other", job("s3://b/list.csv"))
    assert confirmed("c" * 64, "s3://b/other") == Confirmed()


@pytest.mark.parametrize("content", ["", "{", '{"is_own": "maybe"}', '{"more": 1}', "[]"])
def test_a_damaged_note_confirms_nothing(cache: Path, content: str) -> None:
    remember_manifest("a" * 64, job("/data"))
    (note,) = (cache / "runs").iterdir()
    note.write_text(content)
    assert confirmed("a" * 64, "/run") == Confirmed()


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "file"))
    remember_manifest("a" * 64, job("/data"))
    assert confirmed("a" * 64, "/run") == Confirmed()
