import pytest
from pydantic import ValidationError

from schemas.vocabulary import Label, Vocabulary


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
