"""An evaluation protocol: what of a public data set is compared with what, and by which rule.

One YAML file each in `pipeline/evaluation/protocols`; a path to another such file
works like a name.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from schemas.base import Frozen
from schemas.vocabulary import Label

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 255
"""Greatest value of a pixel in a label image of one byte."""

MeanRule = Literal["occurring", "in_truth", "all"]
"""Whose IoU is averaged: classes in truth or prediction (mmsegmentation), classes in the truth
(CLIPtrase), or all of them, where a class that does not occur counts 0 (CLIP-DIY)."""


def _spelled_out(value: Any) -> Any:
    """Return a list of numbers in which ranges such as `1..20` are spelled out, both ends in."""
    if not isinstance(value, list | tuple):
        return value
    numbers: list[Any] = []
    for entry in value:
        match = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
        numbers += range(int(match[1]), int(match[2]) + 1) if match else [entry]
    return numbers


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


PixelNumbers = Annotated[
    tuple[Annotated[int, Field(ge=0, le=_MOST)], ...], BeforeValidator(_spelled_out)
]
Words = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One text or several."""


class PixelValues(Frozen):
    """What the values of a truth's pixels mean; any other value is an error."""

    labels: PixelNumbers
    """The value of each class, in the classes' order; `1..20` is short for all from 1 to 20."""
    background: PixelNumbers = ()
    """Values that are background."""
    ignored: PixelNumbers = ()
    """Values that are not counted."""

    @model_validator(mode="after")
    def _one_meaning(self) -> "PixelValues":
        values = (*self.labels, *self.background, *self.ignored)
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"pixel values with two meanings: {twice}")
        return self


class ImageFiles(Frozen):
    """Where a data set keeps its images."""

    folder: Words
    """Below the data set's folder; of several the first that holds such files."""
    ending: str
    """Of the files' names, such as `_leftImg8bit.png`; what is left of a name finds its truth."""
    split: str = ""
    """Text file with the names of the images that count, one a line; empty: all of the folder."""


class TruthMaps(Frozen):
    """Label images of one channel."""

    folder: Words
    """Below the data set's folder, of several the first that holds such files; they lie in it as
    images do in theirs."""
    ending: str
    """Of the files' names."""
    values: PixelValues
    """What their pixels mean."""


class TruthInstances(Frozen):
    """COCO's `instances_*.json`, painted in the file's order, the first painter wins."""

    instances: str
    """The file, below the data set's folder."""


TruthFiles = TruthMaps | TruthInstances


class Counting(Frozen):
    """How pixels become one number."""

    mean: MeanRule = "occurring"
    """Whose IoU is averaged."""
    min_foreground_px: Annotated[int, Field(ge=0)] = 0
    """Images whose truth has fewer pixels of labels are left out."""


class Recipe(Frozen):
    """What some methods were published with on this data set; words and options are theirs."""

    methods: tuple[str, ...]
    """Names of methods."""
    note: str = ""
    """What is not as published, or not known."""
    glued: bool = False
    """Blanks are taken out of the names of classes: `trafficlight`."""
    words: dict[str, Words] = {}
    """Other phrases for a class, by its name; the first stands for the name."""
    background: tuple[str, ...] | None = None
    """Background phrases; null: the protocol's."""
    options: dict[str, Any] = {}
    """Of the method, where they are not its defaults."""
    truth: tuple[TruthFiles, ...] = ()
    """Another truth than the protocol's, in its order of preference."""
    counting: Counting | None = None
    """Another way of counting."""


class Figures(Frozen):
    """IoU in percent that somebody published class by class, and no method here reproduces."""

    source: str
    iou: dict[str, float]


class BenchmarkProtocol(Frozen):
    """One protocol."""

    title: str
    """Data set and what of it."""
    benchmark: str
    """What methods' cards call it."""
    num_images: PositiveInt
    """Images that a whole evaluation compares."""
    images: Annotated[tuple[ImageFiles, ...], Field(min_length=1)]
    """Where the images may lie, in order of preference."""
    truth: Annotated[tuple[TruthFiles, ...], Field(min_length=1)]
    """Where the truth may lie, in order of preference."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names as in mmsegmentation; background is not among them."""
    background: tuple[str, ...] = ()
    """Phrases of the class background; empty: background is no class, its pixels do not count."""
    counting: Counting = Counting()
    """How to count, unless a recipe says otherwise."""
    recipes: tuple[Recipe, ...] = ()
    """What methods were published with; others take the classes' names and their own defaults."""
    figures: tuple[Figures, ...] = ()
    """Published class by class."""

    @model_validator(mode="after")
    def _consistent(self) -> "BenchmarkProtocol":
        _check_truth(self, self.truth)
        owners: set[str] = set()
        for recipe in self.recipes:
            _check_recipe(self, recipe)
            twice = owners & set(recipe.methods)
            if twice:
                raise ValueError(f"methods with two recipes: {', '.join(sorted(twice))}")
            owners |= set(recipe.methods)
        for figures in self.figures:
            _known("figures", figures.iou, self.classes)
        return self

    @property
    def has_background(self) -> bool:
        """Whether background is a class that counts."""
        return bool(self.background)

    def recipe(self, method: str) -> Recipe:
        """Return what a method was published with; an empty recipe where nothing is known."""
        for recipe in self.recipes:
            if method in recipe.methods:
                return recipe
        return Recipe(methods=(method,))

    def labels(self, recipe: Recipe) -> tuple[Label, ...]:
        """Return the vocabulary's labels under a recipe, in the classes' order."""
        return tuple(_label(name, recipe) for name in self.classes)

    def background_of(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the background phrases under a recipe."""
        return self.background if recipe.background is None else recipe.background


def _label(name: str, recipe: Recipe) -> Label:
    first, *others = recipe.words.get(name, (name,))
    glued = first.replace(" ", "") if recipe.glued else first
    return Label(name=glued, synonyms=tuple(others))


def _check_recipe(protocol: BenchmarkProtocol, recipe: Recipe) -> None:
    _known("words", recipe.words, protocol.classes)
    _check_truth(protocol, recipe.truth)
    if recipe.background is not None and bool(recipe.background) != protocol.has_background:
        raise ValueError(
            f"recipe of {', '.join(recipe.methods)}: background phrases where background is no "
            "class, or none where it is one"
        )


def _check_truth(protocol: BenchmarkProtocol, files: tuple[TruthFiles, ...]) -> None:
    for truth in files:
        if not isinstance(truth, TruthMaps):
            if not protocol.has_background:
                raise ValueError("truth of instances: what they leave free is background")
            continue
        if len(truth.values.labels) != len(protocol.classes):
            raise ValueError(
                f"truth in {truth.folder[0]}: expected a value for each of the "
                f"{len(protocol.classes)} classes, got {len(truth.values.labels)}"
            )
        if truth.values.background and not protocol.has_background:
            raise ValueError(f"truth in {truth.folder[0]}: background values, and no such class")


def _known(what: str, names: dict[str, Any], classes: tuple[str, ...]) -> None:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{what} of no class: {', '.join(unknown)}")
