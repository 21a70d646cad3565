import shlex
from itertools import pairwise

import pytest

from jobs.config import load_config
from pipeline.review import new_run
from schemas.config import JobConfig
from schemas.errors import UserError

CALIBRATION = {"method": "clip_diy", "scores": [0.5], "probabilities": [0.4]}


def _job(**fields) -> JobConfig:
    return JobConfig.model_validate(
        {"images": "photos", "out": "/data/pets", "labels": ["cat"], **fields}
    )


def _words(job: JobConfig, words: tuple[str, ...] = ("dog",), method: str = "clip_diy") -> list:
    return shlex.split(new_run.command(job, words, method))


def test_command_keeps_what_the_run_sets_and_names_a_new_folder() -> None:
    job = _job(clip="embedded", masks={"segments": "components"}, run={"local": True})
    assert _words(job, ("it's", "$(dög)"), "naclip") == [
        "ovseg", "annotate", "--images", "photos", "--labels", "it's,$(dög)",
        "--out", "/data/pets-words", "--method", "naclip", "--local",
        "--set", "clip.model=embedded", "--set", "masks.segments=components",
    ]  # fmt: skip


def test_a_run_with_features_needs_no_images() -> None:
    job = _job(clip="embedded", run={"local": True})
    command = new_run.command(job, ("dog", "red fish"), "clip_diy", "runs/my pets")
    assert shlex.split(command) == [
        "ovseg", "relabel", "runs/my pets", "--labels", "dog,red fish",
        "--out", "runs/my pets-words", "--local",
    ]  # fmt: skip


def test_a_word_with_a_comma_would_be_two_labels() -> None:
    for features_of in ("", "runs/pets"):
        with pytest.raises(UserError, match="'door, double door': expected words without commas"):
            new_run.command(_job(), ("cat", "door, double door"), "clip_diy", features_of)


def test_run_folder_is_named_as_typed_only_where_that_leads_to_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = _job(out="runs/pets")
    assert new_run.place(job, f"{tmp_path}/runs/pets") == "runs/pets"
    assert new_run.place(job, "/moved/pets") == "/moved/pets"


@pytest.mark.parametrize(("method", "is_kept"), [("maskclip", True), ("naclip", False)])
def test_options_of_a_method_go_with_no_other(method: str, is_kept: bool) -> None:
    method_and_options = {"name": "maskclip", "options": {"objectness": {"name": "found"}}}
    command = _words(_job(method=method_and_options), method=method)
    assert any(word.startswith("method.options") for word in command) == is_kept


def test_command_hides_secrets() -> None:
    command = new_run.command(_job(images="s3://key:SECRET@bucket/photos"), ("cat",), "clip_diy")
    assert "SECRET" not in command


CAT = {"name": "cat", "synonyms": ["kitten"]}
DOG = {"name": "dog", "templates": ["a photo of my {}"]}


def _of_vocabulary(**fields) -> JobConfig:
    return JobConfig.model_validate({"images": "p", "out": "/o", "vocabulary": fields})


@pytest.mark.parametrize(
    ("fields", "words", "lost", "lost_by_relabel"),
    [
        ({"labels": ["cat", "dog"]}, ("cat", "fish"), "", ""),
        ({"labels": [CAT, DOG]}, ("Cat", "fish"), "synonyms", "synonyms"),
        ({"labels": [CAT, DOG]}, ("dog",), "templates of their own", "templates of their own"),
        ({"labels": [CAT, DOG]}, ("fish", "bird"), "", ""),
        ({"labels": ["cat"], "templates": ["my {}"]}, ("cat", "dog"), "", ""),
        ({"labels": ["cat"], "templates": ["my ${{}"]}, ("cat", "dog"), "templates", ""),
        ({"labels": ["cat"], "background": ["sky", "wall"]}, ("dog",), "", ""),
        ({"labels": ["cat"], "background": ["sky", "${wall}"]}, ("dog",), "background phrases", ""),
        ({"labels": ["cat"], "background": ["sk\x7fy"]}, ("dog",), "background phrases", ""),
    ],
)
def test_what_the_command_lacks_of_the_vocabulary_is_said(
    fields: dict, words: tuple[str, ...], lost: str, lost_by_relabel: str
) -> None:
    job = _of_vocabulary(**fields)
    for features_of, expected in (("", lost), ("/o", lost_by_relabel)):
        said = new_run.lacks(job, words, features_of)
        assert said.startswith(
            f"This page uses {expected} of the run's vocabulary" * bool(expected)
        )
        assert ("--vocabulary FILE" in said) == bool(expected)


@pytest.mark.parametrize(
    "phrases",
    [("sky", "wall", "grass"), ("a, b", "it's", 'so "far"', "c: d #"), ("yes", "12", "ünï 🐟")],
)
def test_command_makes_a_run_with_the_phrases_of_the_run(phrases: tuple[str, ...]) -> None:
    templates = ("a photo of a {}.", "it's {}: yes")
    job = _of_vocabulary(labels=["cat"], background=phrases, templates=templates)
    parts = _words(job, ("dog", "fish"))
    sets = [after for before, after in pairwise(parts) if before == "--set"]
    flags = {"images": "p", "out": "/o", "labels": "dog,fish"}
    made = load_config(JobConfig, flags=flags, sets=sets).vocabulary
    assert (made.names, made.background, made.templates) == (("dog", "fish"), phrases, templates)


def test_relabel_keeps_what_is_not_said_to_be_lost() -> None:
    job = _of_vocabulary(labels=[CAT, DOG], background=["sky", "wall"], templates=["a {}"])
    fields = job.model_dump(mode="json") | {"calibration": CALIBRATION}
    flags = {"labels": "cat,fish"}
    made = load_config(JobConfig, flags=flags, below=lambda _: fields)
    assert (made.vocabulary.background, made.vocabulary.templates) == (("sky", "wall"), ("a {}",))
    assert [label.synonyms for label in made.vocabulary.labels] == [(), ()]
    assert made.calibration is not None
    without = load_config(JobConfig, flags=flags, sets=["calibration=null"], below=lambda _: fields)
    assert without.calibration is None


def test_that_the_run_is_calibrated_is_said() -> None:
    calibrated = _job(calibration=CALIBRATION)
    assert "the command has no calibration" in new_run.lacks(calibrated, ("dog", "cat"))
    said = new_run.lacks(calibrated, ("dog", "cat"), "runs/pets")
    assert "the command keeps that" in said
    assert "--set calibration=null" in said


@pytest.mark.parametrize(
    ("out", "new"),
    [
        ("runs/pets/", "runs/pets-words"),
        ("pets", "pets-words"),
        ("/data/pets", "/data/pets-words"),
        ("s3://bucket/runs/pets", "s3://bucket/runs/pets-words"),
    ],
)
def test_new_folder_lies_beside_that_of_the_run_as_it_was_typed(out: str, new: str) -> None:
    command = _words(_job(out=out))
    assert command[command.index("--out") + 1] == new


def test_a_run_that_was_made_where_the_user_stood_gets_no_folder_in_it(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = _words(_job(out="."))
    assert command[command.index("--out") + 1] == f"{tmp_path}-words"
    command = shlex.split(new_run.command(_job(out="."), ("dog",), "clip_diy", "."))
    assert command[2:] == [".", "--labels", "dog", "--out", f"{tmp_path}-words"]
