"""The words of a job: labels with their synonyms and templates, and what counts as background."""

import hashlib
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from schemas.base import Frozen

Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


def _check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(
                f"a prompt template holds '{{}}' exactly once, for the name; got {template!r}"
            )
    return templates


class Label(Frozen):
    """One entry of the vocabulary."""

    name: Word
    """What masks of this label are called in every output."""
    synonyms: tuple[Word, ...] = ()
    """Further phrases for the same thing; a pixel's score is the best of the name's and theirs."""
    templates: tuple[str, ...] = ()
    """Prompt templates of this label only, each with one `{}`; empty: the vocabulary's."""

    @model_validator(mode="before")
    @classmethod
    def _plain_word(cls, value: Any) -> Any:
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
    """Phrases for what is none of the labels; CLIP-DIY's own is the literal word `background`."""
    templates: tuple[str, ...] = ()
    """Prompt templates for all labels, each with one `{}`; empty: the method's own."""

    @model_validator(mode="before")
    @classmethod
    def _plain_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [word for word in value.split(",") if word.strip()]
        return {"labels": value} if isinstance(value, list | tuple) else value

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
        """SHA-256 (hex) of everything that can change a score."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
