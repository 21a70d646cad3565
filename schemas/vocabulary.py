"""The vocabulary of a job: labels with synonyms and templates, and background phrases."""

import hashlib
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from schemas.base import Frozen

Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"expected a template with '{{}}' exactly once, for the name; got {template!r}"
            )
    return templates


BACKGROUND = "background"


def is_background(name: str) -> bool:
    """Return whether a name is that of the background, which is class 0 and no label.

    Lists of classes of other tools begin with it (mmsegmentation's).
    """
    return name.strip().casefold() == BACKGROUND


def spelled_out_vocabulary(value: Any) -> Any:
    """Return a vocabulary in any short form as the mapping of its fields; others as they are.

    `"cat, dog"`, `["cat", "dog"]` and `{"labels": "cat, dog"}` all mean
    `{"labels": ["cat", "dog"]}`.
    """
    if isinstance(value, str | list | tuple):
        value = {"labels": value}
    if isinstance(value, dict) and isinstance(value.get("labels"), str):
        words = (word.strip() for word in value["labels"].split(","))
        value = {**value, "labels": [word for word in words if word]}
    return value


class Label(Frozen):
    """One entry of the vocabulary."""

    name: Word
    """Name of the label in every output."""
    synonyms: tuple[Word, ...] = ()
    """Further phrases for the same thing; a pixel's score is the best of all its phrases."""
    templates: tuple[str, ...] = ()
    """Prompt templates of this label only, each with one `{}`; empty: the vocabulary's."""

    @model_validator(mode="before")
    @classmethod
    def _plain_word(cls, value: Any) -> Any:
        if isinstance(value, bool | int | float):
            raise ValueError(
                f"expected a word, got {value!r}; quote yes, no, on, off and numbers in YAML"
            )
        return {"name": value} if isinstance(value, str) else value

    @field_validator("templates")
    @classmethod
    def _templates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _check_templates(value)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The name first, then the synonyms."""
        return (self.name, *self.synonyms)


class Vocabulary(Frozen):
    """The ordered labels. Index 0 of a label map is background; label i (from 0) is index i + 1."""

    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    """At least one label; a plain list of words is accepted in place of the whole object."""
    background: tuple[Word, ...] = ("background",)
    """Phrases for everything that is none of the labels; CLIP-DIY uses the word `background`."""
    templates: tuple[str, ...] = ()
    """Prompt templates for all labels, each with one `{}`; empty: the method's own."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        return spelled_out_vocabulary(value)

    @field_validator("labels", mode="before")
    @classmethod
    def _some_labels(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and not value:
            raise ValueError('no labels; expected one or more words, such as "cat,dog"')
        return value

    @field_validator("templates")
    @classmethod
    def _templates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _check_templates(value)

    @model_validator(mode="after")
    def _unique(self) -> "Vocabulary":
        owners: dict[str, str] = {}
        for label in self.labels:
            for phrase in label.phrases:
                owner = owners.get(phrase.casefold())
                if owner is not None:
                    raise ValueError(
                        f"{phrase!r} is given twice (for {owner!r} and for {label.name!r})"
                    )
                owners[phrase.casefold()] = label.name
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Label names in order, without background."""
        return tuple(label.name for label in self.labels)

    def category_id(self, name: str) -> int:
        """COCO category id of a label: its place in the vocabulary, from 1."""
        return self.names.index(name) + 1

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all fields, each of which can change a score."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
