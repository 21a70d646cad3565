"""The protocols that ship with the package: names, recipes, and where files are looked for."""

import pytest

from ovseg_core import methods
from ovseg_core.decision.decide import decide
from ovseg_core.methods import build_segmenter, check_options
from ovseg_core.segmenter import MethodCard, encode_images
from pipeline.evaluation.protocol import (
    PROTOCOL_FOLDER,
    job_fields,
    load_protocol,
    protocol_names,
)
from schemas import plugins
from schemas.config import NamedOptions
from schemas.errors import ConfigError, UserError
from schemas.protocol import BenchmarkProtocol, Recipe
from schemas.vocabulary import Vocabulary
from tests.helpers.method_options import needed_options
from tests.helpers.tiny_models import random_image, tiny_backbones

NUM_CLASSES = {
    "ade20k": 150,
    "camvid": 11,
    "cityscapes": 19,
    "context59": 59,
    "context60": 59,
    "object": 80,
    "stuff": 171,
    "voc20": 20,
    "voc21": 20,
}
NUM_IMAGES = {
    "ade20k": 2000,
    "camvid": 233,
    "cityscapes": 500,
    "context59": 5104,
    "context60": 5104,
    "object": 5000,
    "stuff": 5000,
    "voc20": 1449,
    "voc21": 1449,
}
WITH_BACKGROUND = {"voc21", "context60", "object"}
METHODS = plugins.names(methods.PACKAGE)
ALL = {name: load_protocol(name) for name in NUM_CLASSES}


def words(protocol: BenchmarkProtocol, recipe: Recipe) -> Vocabulary:
    background = protocol.background_of(recipe)
    return Vocabulary(labels=protocol.labels(recipe), background=background)


def card(method: str) -> MethodCard:
    return plugins.load_plugin(methods.PACKAGE, method).CARD


def names(protocol: BenchmarkProtocol, method: str) -> tuple[str, ...]:
    return words(protocol, protocol.recipe(method)).names


def test_load_protocol_all_shipped_protocols():
    assert protocol_names() == tuple(NUM_CLASSES)
    assert {name: len(one.classes) for name, one in ALL.items()} == NUM_CLASSES
    assert {name: one.num_images for name, one in ALL.items()} == NUM_IMAGES
    assert {name for name, one in ALL.items() if one.has_background} == WITH_BACKGROUND


def test_class_names_are_distinct_and_shared_between_related_protocols():
    for one in ALL.values():
        assert len({name.casefold() for name in one.classes}) == len(one.classes)
        assert all(name == name.strip() == " ".join(name.split()) for name in one.classes)
    assert ALL["voc20"].classes == ALL["voc21"].classes
    assert ALL["context59"].classes == ALL["context60"].classes
    assert ALL["stuff"].classes[:80] == ALL["object"].classes
    stuff = ALL["object"].recipe("cliptrase").background
    assert stuff is not None
    assert len(stuff) == 107
    assert stuff[16:] == ALL["stuff"].classes[80:]


@pytest.mark.parametrize("name", ["ade20k", "stuff", "cityscapes"])
@pytest.mark.parametrize("method", ["sclip", "clearclip", "proxyclip"])
def test_recipe_remove_spaces(name, method):
    expected = tuple(word.replace(" ", "") for word in ALL[name].classes)
    assert names(ALL[name], method) == expected != ALL[name].classes
    assert len(set(expected)) == len(expected)
    assert names(ALL[name], "clip_dinoiser") == ALL[name].classes


def test_recipe_phrases_of_the_methods():
    """methods.md section 12, by hand."""
    voc = dict(zip(ALL["voc21"].classes, range(20), strict=True))

    def word(method: str, name: str) -> str:
        return names(ALL["voc21"], method)[voc[name]]

    assert [word("sclip", "boat"), word("proxyclip", "diningtable")] == ["ship", "table"]
    assert word("clip_dinoiser", "diningtable") == "dining table"
    assert word("clip_diy", "tvmonitor") == "tv/monitor"
    assert word("cliptrase", "tvmonitor") == "tv"
    sclip = words(ALL["voc21"], ALL["voc21"].recipe("sclip"))
    assert len(sclip.labels[voc["person"]].phrases) == 7
    assert sclip.labels[voc["tvmonitor"]].phrases[1] == "tv monitor"
    assert sclip.background == ALL["object"].recipe("sclip").background
    assert len(sclip.background) == 26
    assert len(ALL["object"].recipe("proxyclip").background or ()) == 17
    assert len(ALL["voc21"].recipe("cliptrase").background or ()) == 33
    assert "aeroplane" in names(ALL["object"], "clip_dinoiser")
    assert "airplane" in names(ALL["object"], "proxyclip")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NUM_CLASSES)
def test_recipe_every_method_under_every_protocol(name, method):
    protocol = ALL[name]
    recipe = protocol.recipe(method)
    options = needed_options(method, tiny_backbones()) | recipe.options
    check_options(NamedOptions(name=method, options=options))
    vocabulary = words(protocol, recipe)
    assert len(vocabulary.labels) == NUM_CLASSES[name]
    assert bool(vocabulary.background) == (name in WITH_BACKGROUND)
    threshold = recipe.options.get("probability_threshold", 0)
    assert not threshold or name in WITH_BACKGROUND


def test_recipes_name_known_methods_and_cards_name_known_benchmarks():
    named = {method for one in ALL.values() for recipe in one.recipes for method in recipe.methods}
    assert named <= set(METHODS)
    benchmarks = {one.benchmark for one in ALL.values()}
    for method in METHODS:
        assert set(card(method).published) <= benchmarks


SIZES_PX = {
    "clip_dinoiser": {"": (448, 448, 224)},
    "maskclip": {"": (448, 448, 224)},
    "proxyclip": {"": (336, 336, 112), "ade20k": (448, 336, 112), "cityscapes": (448, 224, 112)},
    "sclip": {"": (336, 224, 112), "cityscapes": (560, 224, 112), "stuff": (448, 224, 112)},
    "clearclip": {"": (448, 448, 224), "cityscapes": (448, 224, 224)},
    "maskclip_original": {"": (512, 0, 0)},
}
"""methods.md section 12: short side, window, stride with a CLIP of 224 px; "": all other sets."""


@pytest.mark.parametrize("method", SIZES_PX)
@pytest.mark.parametrize("name", NUM_CLASSES)
def test_recipe_sizes_are_the_published_ones(name, method):
    recipe = ALL[name].recipe(method)
    published = plugins.load_plugin(methods.PACKAGE, method).PUBLISHED
    found = {
        "short_side_px": round(published.short * 224),
        "window_px": round(published.window * 224),
        "stride_px": round(published.stride * 224),
    } | {key: value for key, value in recipe.options.items() if key.endswith("_px")}
    assert tuple(found.values()) == SIZES_PX[method].get(name, SIZES_PX[method][""])


THRESHOLDS = {
    "proxyclip": {"voc21": (0.2, 40), "context60": (0.15, 40), "object": (0.25, 40)},
    "sclip": {"voc21": (0.1, 65), "context60": (0.1, 50), "object": (0.1, 50)},
    "clearclip": {"voc21": (0.5, 50), "context60": (0.15, 50), "object": (0.4, 50)},
}
"""methods.md sections 6.3 and 7: probability threshold and logit scale; 0 on all other sets."""


@pytest.mark.parametrize("method", THRESHOLDS)
@pytest.mark.parametrize("name", NUM_CLASSES)
def test_recipe_thresholds_are_the_published_ones(name, method):
    given = NamedOptions(name=method, options=ALL[name].recipe(method).options)
    options = plugins.read_options(methods.PACKAGE, given, "method").model_dump()
    expected = THRESHOLDS[method].get(name, (0, 50 if method == "clearclip" else 40))
    assert (options["probability_threshold"], options["logit_scale"]) == expected
    if method == "sclip":
        assert options["area_threshold"] == (0.1 if name == "voc21" else 0)


@pytest.mark.parametrize("method", [it for it in METHODS if not card(it).finds_instances])
def test_decision_has_no_background_where_it_is_not_a_class(method):
    """What lies in no instance is background to the methods that find instances."""
    protocol = ALL["voc20"]
    recipe = protocol.recipe(method)
    backbones = tiny_backbones()
    options = needed_options(method, backbones) | recipe.options
    segmenter = build_segmenter(NamedOptions(name=method, options=options), backbones)
    images = [random_image(0, 60, 84), random_image(1, 71, 50)]
    images[1][:, :, :20] = 0
    text = segmenter.text_matrix(words(protocol, recipe))
    decisions = decide(
        segmenter.score(encode_images(segmenter, images), text), [(60, 84), (71, 50)]
    )
    assert all(decision.label_map.min() > 0 for decision in decisions)


def test_load_protocol_unknown_name_and_invalid_file_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no protocol 'voc': Did you mean 'voc2[01]'.* ade20k, camvid"
    ):
        load_protocol("voc")
    with pytest.raises(ConfigError, match="no such protocol file"):
        load_protocol(str(tmp_path / "mine.yaml"))
    file = tmp_path / "mine.yaml"
    file.write_text("classes: [a\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_protocol(str(file))
    file.write_text("- a\n")
    with pytest.raises(ConfigError, match="expected the fields of a protocol"):
        load_protocol(str(file))
    file.write_text("title: x\nclases: [a]\n")
    with pytest.raises(ConfigError) as caught:
        load_protocol(str(file))
    assert "classes: missing" in str(caught.value)
    assert "clases: unknown key" in str(caught.value)


def test_job_fields_of_a_users_own_protocol_file(tmp_path):
    text = (PROTOCOL_FOLDER / "voc20.yaml").read_text().replace("JPEGImages", "photos")
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    fields = job_fields(str(tmp_path / "mine.yaml"), f"{tmp_path}/", "naclip")
    assert fields["images"] == str(tmp_path / "photos")
    assert fields["vocabulary"]["background"] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("voc21", r"voc21: no images in .*nothing: expected JPEGImages/\*\.jpg there"),
        ("cityscapes", r"leftImg8bit/val/\*_leftImg8bit\.png"),
        ("stuff", r"val2017/\*\.jpg or images/val2017/\*\.jpg"),
        ("ade20k", r"images/validation/\*\.jpg"),
        ("camvid", r"test/\*\.png"),
    ],
)
def test_job_fields_missing_folder_is_one_line_that_says_what_was_expected(
    name, expected, tmp_path
):
    with pytest.raises(UserError, match=expected) as caught:
        job_fields(name, str(tmp_path / "nothing"), "naclip")
    assert len(str(caught.value).splitlines()) == 1
