import pytest
from pydantic import ValidationError

from schemas.vocabulary import AS_STORED, Label, Vocabulary


@pytest.mark.parametrize(
    "given",
    [
        "cat, dog",
        ["cat", "dog"],
        {"labels": ["cat", "dog"]},
        {"labels": [{"name": "cat"}, {"name": "dog"}]},
    ],
)
def test_short_forms_mean_the_same(given):
    assert Vocabulary.model_validate(given) == Vocabulary(
        labels=(Label(name="cat"), Label(name="dog"))
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no labels"),
        ("", "no labels"),
        (["cat", "dog", "Cat"], "'Cat' is given twice"),
        ([{"name": "cat", "synonyms": ["kitten"]}, "kitten"], "'kitten' is given twice"),
        ([{"name": "cat", "synonyms": ["cat"]}], "'cat' is given twice"),
        ([" "], "at least 1 character"),
        ([{"name": "cat", "templates": ["a photo"]}], "exactly once"),
        ({"labels": ["cat"], "templates": ["{} and {}"]}, "exactly once"),
        ({"labels": ["cat"], "backgruond": ["sky"]}, "backgruond"),
    ],
)
def test_wrong_vocabularies_are_refused_with_the_reason(given, message):
    with pytest.raises(ValidationError, match=message):
        Vocabulary.model_validate(given)


def test_category_ids_start_at_one():
    vocabulary = Vocabulary.model_validate(["sofa", "cat"])
    assert [vocabulary.category_id(name) for name in vocabulary.names] == [1, 2]


def test_content_hash_changes_with_every_field():
    base = {"labels": ["cat", "dog"]}
    changed = [
        {"labels": ["dog", "cat"]},
        {"labels": ["cat", {"name": "dog", "synonyms": ["hound"]}]},
        {**base, "background": ["sky"]},
        {**base, "templates": ["an etching of a {}"]},
    ]
    hashes = {Vocabulary.model_validate(each).content_hash for each in [base, *changed]}
    assert len(hashes) == 1 + len(changed)
    assert Vocabulary.model_validate(base).content_hash in hashes


@pytest.mark.parametrize(
    ("given", "labels", "background"),
    [
        ("background, cat, dog", ("cat", "dog"), ("background",)),
        (["cat", " Background ", "dog"], ("cat", "dog"), None),
        ({"labels": ["background", "cat"], "background": []}, ("cat",), ("background",)),
        (
            {"labels": ["BACKGROUND", "cat"], "background": ["background"]},
            ("cat",),
            ("background",),
        ),
        (
            {
                "labels": [{"name": "background", "synonyms": ["sky", "wall"]}, "cat"],
                "background": ["ground", "Sky"],
            },
            *(("cat",), ("ground", "Sky", "background", "wall")),
        ),
        (["cat", "backgrounds", "_background_"], ("cat", "backgrounds", "_background_"), None),
    ],
)
def test_label_named_background_is_the_background(given, labels, background):
    vocabulary = Vocabulary.model_validate(given)
    assert vocabulary.names == labels
    assert vocabulary.background == (background or ("background",))
    assert Vocabulary.model_validate(vocabulary.model_dump()) == vocabulary
    assert Vocabulary(**vocabulary.model_dump()) == vocabulary


def test_background_alone_is_no_vocabulary():
    with pytest.raises(ValidationError, match="no labels"):
        Vocabulary.model_validate(["background"])
    with pytest.raises(ValidationError, match="no templates of its own"):
        Vocabulary.model_validate([{"name": "background", "templates": ["a {}"]}, "cat"])


def test_stored_vocabulary_keeps_the_numbers_of_its_labels():
    given = {"labels": ["background", "cat"]}
    assert Vocabulary.model_validate(given, context=AS_STORED).category_id("cat") == 2
    assert Vocabulary.model_validate(given).category_id("cat") == 1


def test_one_template_may_be_a_plain_text() -> None:
    spelled = {"labels": [{"name": "cat", "templates": ["my {}"]}, "dog"], "templates": ["a {}"]}
    short = {"labels": [{"name": "cat", "templates": "my {}"}, "dog"], "templates": "a {}"}
    assert Vocabulary.model_validate(short) == Vocabulary.model_validate(spelled)
    with pytest.raises(ValidationError, match="exactly once"):
        Vocabulary.model_validate({"labels": ["cat"], "templates": "a photo"})
