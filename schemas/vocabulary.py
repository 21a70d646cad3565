"""The vocabulary of a job: labels with synonyms and templates, and background phrases."""

import hashlib
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from schemas.base import Frozen

Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _as_list(templates: Any) -> Any:
    return [templates] if isinstance(templates, str) else templates


def _check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"expected a template with '{{}}' exactly once, for the name; got {template!r}"
            )
    return templates


BACKGROUND = "background"
AS_STORED = {"as_stored": True}
"""Validation context of a job that a run has stored: its labels keep their numbers."""


def is_background(name: str) -> bool:
    """Return whether a name is that of the background, which is class 0 and no label.

    Lists of classes of other tools begin with it (mmsegmentation's).
    """
    return name.strip().casefold() == BACKGROUND


def has_background_label(value: Any) -> bool:
    """Return whether a vocabulary, in any form, has a label of the background's name."""
    spelled_out = spelled_out_vocabulary(value)
    labels = spelled_out.get("labels") if isinstance(spelled_out, dict) else None
    return isinstance(labels, list | tuple) and any(map(_is_background_label, labels))


def _is_background_label(label: Any) -> bool:
    name = label.get("name") if isinstance(label, dict) else getattr(label, "name", label)
    return isinstance(name, str) and is_background(name)


def _without_background_label(value: dict[str, Any]) -> dict[str, Any]:
    """Return a vocabulary whose label `background` has become phrases of the background."""
    found = [
        Label.model_validate(label) for label in value["labels"] if _is_background_label(label)
    ]
    if any(label.templates for label in found):
        raise ValueError(f"{BACKGROUND!r} is class 0, not a label: it has no templates of its own")
    given = value.get("background", (BACKGROUND,))
    phrases = [*([given] if isinstance(given, str) else given)]
    for phrase in (phrase for label in found for phrase in label.phrases):
        if phrase.casefold() not in {str(known).strip().casefold() for known in phrases}:
            phrases.append(phrase)
    labels = [label for label in value["labels"] if not _is_background_label(label)]
    return {**value, "labels": labels, "background": phrases}


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
    templates: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Prompt templates of this label only, each with one `{}`, or a single one; empty: the
    vocabulary's."""

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
    """The ordered labels. Index 0 of a label map is background; label i (from 0) is index i + 1.

    A label called `background` is no label: its name and synonyms become background phrases.
    """

    labels: Annotated[tuple[Label, ...], Field(min_length=1)]
    """At least one label; a plain list of words is accepted in place of the whole object."""
    background: tuple[Word, ...] = ("background",)
    """Phrases for everything that is none of the labels; CLIP-DIY uses the word `background`."""
    templates: Annotated[tuple[str, ...], BeforeValidator(_as_list)] = ()
    """Prompt templates for all labels, each with one `{}`, or a single one; empty: the method's."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any, info: ValidationInfo) -> Any:
        value = spelled_out_vocabulary(value)
        if info.context != AS_STORED and has_background_label(value):
            return _without_background_label(value)
        return value

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
                    owned = f" (for {owner!r} and for {label.name!r})"
                    where = owned if owner != label.name else ""
                    raise ValueError(f"{phrase!r} is given twice{where}: leave one of them out")
                owners[phrase.casefold()] = label.name
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Label names in order, without background."""
        return tuple(label.name for label in self.labels)

    @property
    def num_phrases(self) -> int:
        """Background phrases, names and synonyms."""
        return len(self.background) + sum(len(label.phrases) for label in self.labels)

    def category_id(self, name: str) -> int:
        """COCO category id of a label: its place in the vocabulary, from 1."""
        return self.names.index(name) + 1

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of all fields, each of which can change a score."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
