"""Files, flags and `--set` become one model; every mistake is one line."""

import json
from pathlib import Path

import pytest

import jobs.config
from jobs.config import ProtocolFlags, load_config, vocabulary_file
from ovseg_core.methods import check_options
from ovseg_core.training.students import check_student
from schemas.config import HeadConfig, JobConfig, StudentConfig
from schemas.errors import ConfigError, UserError, VocabularyError

CONFIGS = Path(jobs.config.__file__).parent / "configs"
OBJECTNESS_HEAD = ["method.options.objectness.options.head=FILE"]
GOOD = """
images: s3://photos/cats
out: runs/cats
labels: [cat, dog]
method: maskclip
"""


NO_PROTOCOL = ProtocolFlags()


def job_config(path="", flags=None, sets=(), protocol=NO_PROTOCOL) -> JobConfig:
    return load_config(JobConfig, path, flags, sets, protocol.fields)


def write(folder: Path, text: str, name: str = "job.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_stand_over_the_file_and_sets_over_both(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "masks: {min_area_px: 9}\nrun: {workers: 3}\n")
    flags = {"images": "other", "image.limit": 5, "run.local": True}
    config = job_config(path, flags, ["run.workers=7", "vocabulary.background=[sky, grass]"])
    assert config.images == "other"
    assert config.vocabulary.names == ("cat", "dog")
    assert config.vocabulary.background == ("sky", "grass")
    assert config.method.name == "maskclip"
    assert (config.run.workers, config.run.local, config.image.limit) == (7, True, 5)
    assert config.masks.min_area_px == 9


def test_labels_flag_replaces_the_labels_only(tmp_path: Path) -> None:
    path = write(tmp_path, "images: a\nout: b\nvocabulary: {labels: [x], templates: ['a {}']}\n")
    config = job_config(path, {"labels": "cat, red  car ,"}, [])
    assert config.vocabulary.names == ("cat", "red  car")
    assert config.vocabulary.templates == ("a {}",)


def test_labels_that_are_not_parted_by_commas_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = job_config(write(tmp_path, GOOD), {"labels": "potted plant;dog ; sofa"})
    assert config.vocabulary.names == ("potted plant;dog ; sofa",)
    assert "is one label: a comma parts labels, such as 'potted plant,dog,sofa'" in caplog.text


def test_vocabulary_file_replaces_the_whole_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path, "images: a\nout: b\nvocabulary: {labels: [x], templates: ['a {}']}\n")
    words = write(tmp_path, "labels: [{name: cat, synonyms: [kitten]}]\n", "words.yaml")
    config = job_config(path, {"vocabulary": vocabulary_file(words)}, [])
    assert config.vocabulary.labels[0].phrases == ("cat", "kitten")
    assert config.vocabulary.templates == ()


def test_protocol_gives_the_fields_that_are_not_given_otherwise(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/a.jpg").touch()
    under = ProtocolFlags("voc20", str(tmp_path))
    bare = job_config("", {"out": "run"}, [], under)
    assert bare.method.name == "clip_diy"
    assert bare.method.options == {"objectness": {"name": "none"}}
    assert bare.vocabulary.background == ()
    assert (bare.clip.model, bare.image.only[-8:]) == ("auto", "/val.txt")
    words = ["vocabulary.labels=[cat, dog]", "method.options.templates=plain"]
    file = write(tmp_path, "images: mine\nout: run\nmethod: naclip\nimage: {limit: 3}\n")
    own = job_config(file, {}, words, under)
    assert (own.images, own.image.only, own.image.limit) == ("mine", "", 3)
    assert own.vocabulary.names == ("cat", "dog")
    assert own.vocabulary.background == ()
    assert own.method.options == {"templates": "plain"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.txt", "# pets\ncat\n\n  dog \n"),
        ("words.yaml", "- cat\n- dog\n"),
        ("words.yml", "labels: cat, dog\n"),
        ("words.json", json.dumps({"labels": ["cat", {"name": "dog"}]})),
    ],
)
def test_vocabulary_file_of_every_kind(tmp_path: Path, name: str, text: str) -> None:
    words = write(tmp_path, text, name)
    by_flag = job_config(flags={"images": "in", "out": "out", "vocabulary": vocabulary_file(words)})
    by_file = job_config(write(tmp_path, f"images: in\nout: out\nvocabulary: {words}\n"), {}, [])
    assert by_flag.vocabulary.names == by_file.vocabulary.names == ("cat", "dog")


def test_another_method_inherits_no_options(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("maskclip", "{name: clip_diy, options: {scales: [1]}}"))
    assert job_config(path, {}, []).method.options == {"scales": [1]}
    kept = job_config(path, {}, ["method.name=clip_diy", "method.options.x=2"])
    assert kept.method.options == {"scales": [1], "x": 2}
    assert job_config(path, {}, ["method.name=maskclip"]).method.options == {}
    both = job_config(path, {}, ["method=maskclip", "method.options.y=3"])
    assert (both.method.name, both.method.options) == ("maskclip", {"y": 3})
    plain = job_config("", {}, ["images=a", "out=b", "labels=cat", "method.options.y=3"])
    assert (plain.method.name, plain.method.options) == ("clip_diy", {"y": 3})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("wrkers: 3\n", ["wrkers: unknown key; did you mean 'run.workers'?"]),
        ("run: {wokers: 3}\n", ["run.wokers: unknown key; did you mean 'run.workers'?"]),
        ("batch_size: 3\n", ["batch_size: unknown key; did you mean 'run.batch_size'?"]),
        (
            "run: {workers: -1}\n",
            ["run.workers: expected a number greater than or equal to 0, got -1"],
        ),
        (
            "run: {device: gpu}\n",
            ["run.device: expected 'auto', 'cpu' or 'cuda', got 'gpu'"],
        ),
        ("zzz: 1\nqqqq: 2\n", ["zzz: unknown key; known here: images", "qqqq: unknown key; known"]),
        ("vocabulary: [a]\n", ["give either `labels` or `vocabulary`, not both"]),
    ],
)
def test_wrong_keys_and_values(tmp_path: Path, text: str, lines: list[str]) -> None:
    path = write(tmp_path, GOOD + text)
    with pytest.raises(ConfigError) as caught:
        job_config(path, {}, [])
    got = str(caught.value).splitlines()
    assert len(got) == len(lines)
    for line, expected in zip(got, lines, strict=True):
        assert expected in line


def test_missing_field_names_its_flag() -> None:
    with pytest.raises(ConfigError) as caught:
        job_config("", {}, [])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "images",
        "out",
        "vocabulary",
    ]
    assert "--images" in str(caught.value)
    assert "--labels" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels: [cat, Cat]", "vocabulary: 'Cat' is given twice"),
        ("labels: [cat, {name: dog, synonyms: [cat]}]", "'cat' is given twice"),
        (
            "labels: [{name: cat, synonym: [kitten]}]",
            "vocabulary.labels.0.synonym: unknown key; did you mean 'vocabulary.labels.*.synonyms'",
        ),
        ("labels: []", "vocabulary.labels: no labels"),
        ("labels: [cat, no]", "expected a word, got False; quote"),
        ("labels: [cat, 7]", "expected a word, got 7; quote"),
        ("labels: ' , '", "vocabulary.labels: no labels"),
        ("labels: yes", "vocabulary.labels: expected a list, got True"),
        ("vocabulary: {labels: [cat], templates: [photo]}", "with '{}' exactly once"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, f"images: a\nout: b\n{text}\n")
    with pytest.raises(UserError) as caught:
        job_config(path, {}, [])
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images: [a\nout: b\n", "job.yaml:2:4: not valid YAML"),
        ("images: a\nimages: b\n", "found duplicate key images"),
        ("\timages: a\n", "job.yaml:1:1: not valid YAML"),
        ("images: ${nothing}\n", "Interpolation key 'nothing' not found"),
        ("- a\n", "expected `key: value` lines, got list"),
        ("a\n", "expected `key: value` lines, got str"),
        ("5\n", "expected `key: value` lines, got int"),
    ],
)
def test_files_that_are_not_a_job(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_config(write(tmp_path, text), {}, [])
    assert expected in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nothing.yaml", "nothing.yaml: no such file"),
        (".", ". is a folder, expected a file"),
    ],
)
def test_files_that_cannot_be_read(path: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_config(path, {}, [])
    assert expected in str(caught.value)


def test_binary_file_is_not_a_job(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        job_config(str(path), {}, [])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.workers", "--set expects key=value"),
        ("=3", "--set expects key=value"),
        ("run.workers=[1", "--set run.workers: cannot read the value '[1'"),
        ("run.wokers=1", "run.wokers: unknown key; did you mean 'run.workers'?"),
    ],
)
def test_wrong_sets(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        job_config(write(tmp_path, GOOD), {}, [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_job_files_are_valid(path: Path) -> None:
    if path.stem == "student":
        student = load_config(StudentConfig, str(path))
        assert check_student(student.student).steps == 8000
        return
    config = job_config(str(path), {}, [])
    check_options(config.method)
    assert config.vocabulary.names


def test_labels_and_vocabulary_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="not both"):
        job_config(flags={"labels": "cat", "vocabulary": {"labels": ["dog"]}})


def test_vocabulary_file_without_words(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"words\.txt: no labels"):
        vocabulary_file(write(tmp_path, "# none\n", "words.txt"))


def test_vocabulary_file_in_set_replaces_the_whole_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path, "images: a\nout: b\nvocabulary: {labels: [x], templates: ['a {}']}\n")
    words = write(tmp_path, "cat\n", "words.txt")
    vocabulary = job_config(path, {}, [f"vocabulary={words}"]).vocabulary
    assert (vocabulary.names, vocabulary.templates) == (("cat",), ())


def test_vocabulary_file_keeps_the_background_of_a_protocol(tmp_path: Path) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/a.jpg").touch()
    words = vocabulary_file(write(tmp_path, "cat\n", "words.txt"))
    flags = {"out": "run", "vocabulary": words}
    config = job_config("", flags, [], ProtocolFlags("voc20", str(tmp_path)))
    assert (config.vocabulary.names, config.vocabulary.background) == (("cat",), ())


def test_another_nested_plug_in_inherits_no_options(tmp_path: Path) -> None:
    nested = "method: {name: clip_diy, options: {objectness: {name: external, options: {a: 1}}}}"
    path = write(tmp_path, GOOD.replace("method: maskclip", nested))
    kept = job_config(path, {}, ["method.options.objectness.options.b=2"])
    assert kept.method.options["objectness"] == {"name": "external", "options": {"a": 1, "b": 2}}
    named = job_config(path, {}, ["method.options.objectness=found"])
    assert named.method.options["objectness"] == {"name": "found"}


def test_options_join_a_plug_in_given_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert job_config(path, {}, ["method.options.x=1"]).method.options == {"x": 1}
    config = job_config(path, {}, ["method.options.objectness=found", *OBJECTNESS_HEAD])
    assert config.method.options["objectness"] == {"name": "found", "options": {"head": "FILE"}}


def test_head_is_read_by_the_same_loader(tmp_path: Path) -> None:
    path = write(tmp_path, "images: a\nout: b.safetensors\nhead: found\nseed: 3\n")
    flags = {"images": "c", "head.options.steps": 7, "head.options.batch": None, "run.local": True}
    config = load_config(HeadConfig, path, flags, ["head.options.steps=9"])
    assert (config.images, config.out, config.seed) == ("c", "b.safetensors", 3)
    assert (config.head.name, config.head.options) == ("found", {"steps": 9})
    assert config.run.local
    assert config.vision_model == "vit_small_patch8_224.dino"
    assert config.clip.model == "ViT-B-16"
    assert config.checkpoint == "b.checkpoint.safetensors"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"images": "a", "head": "found", "out": "head.pt"}, r"out: .*ends in \.safetensors"),
        ({"head": "found", "out": "h.safetensors"}, "images: missing"),
        ({"images": "a", "out": "h.safetensors"}, "head: missing; give `head: found`"),
        ({"heads": "found"}, "^heads: the key is called `head` now"),
    ],
)
def test_wrong_head_configs(flags: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(HeadConfig, flags=flags)
