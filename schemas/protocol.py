"""Evaluation protocols: files, class names, background and counting rules of public data sets.

Each is a YAML file in `pipeline/evaluation/protocols`; the path of another file can be given
instead of a name.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from schemas.base import Frozen
from schemas.vocabulary import Label

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_PIXEL_VALUE = 255
"""Of label images with one byte per pixel."""

MeanRule = Literal["occurring", "in_truth", "all"]
"""Classes whose IoU is averaged: those in truth or prediction (mmsegmentation), those in the truth
(CLIPtrase), or all, where a class that does not occur counts 0 (CLIP-DIY)."""


def _spelled_out(value: Any) -> Any:
    """Return a list of numbers with ranges such as `1..20` expanded, both ends included."""
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
    tuple[Annotated[int, Field(ge=0, le=_MAX_PIXEL_VALUE)], ...], BeforeValidator(_spelled_out)
]
Words = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
"""One string or several."""


class PixelValues(Frozen):
    """Meaning of the pixel values of a label image; any other value is an error."""

    labels: PixelNumbers
    """The value of each class, in the order of the classes; `1..20` means all from 1 to 20."""
    background: PixelNumbers = ()
    """Values of the background."""
    ignored: PixelNumbers = ()
    """Values that are not counted."""

    @model_validator(mode="after")
    def _one_meaning(self) -> "PixelValues":
        values = (*self.labels, *self.background, *self.ignored)
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"pixel values with two meanings: {twice}; expected each value once")
        return self


class ImageFiles(Frozen):
    """Where a data set keeps its images."""

    folder: Words
    """Path below the data set's folder; of several, the first that holds such files."""
    ending: str
    """Suffix of the file names, such as `_leftImg8bit.png`; the rest of a name is matched with the
    names of the truth."""
    split: str = ""
    """Text file with the names of the images that count, one a line; empty: all of the folder."""


class TruthMaps(Frozen):
    """Truth as label images of one channel."""

    folder: Words
    """Path below the data set's folder; of several, the first that holds such files. It has the
    sub-folders of the images' folder."""
    ending: str
    """Suffix of the file names."""
    values: PixelValues
    """Meaning of the pixel values."""


class TruthInstances(Frozen):
    """Truth as COCO's `instances_*.json`; where instances overlap, the first in the file counts."""

    instances: str
    """Path of the file below the data set's folder."""


TruthFiles = TruthMaps | TruthInstances


class Counting(Frozen):
    """How pixels are counted."""

    mean: MeanRule = "occurring"
    """Classes whose IoU is averaged."""
    min_foreground_px: Annotated[int, Field(ge=0)] = 0
    """Images whose truth has fewer pixels of labels are left out of the evaluation."""


class Recipe(Frozen):
    """Setting that some methods were published with on this data set."""

    methods: tuple[str, ...]
    """Names of the methods."""
    note: str = ""
    """Differences from the published setting, and what is not known of it."""
    remove_spaces: bool = False
    """Class names are written without spaces: `trafficlight`."""
    words: dict[str, Words] = {}
    """Other phrases for a class, by its name; the first replaces the name."""
    background: tuple[str, ...] | None = None
    """Background phrases; null: the protocol's."""
    options: dict[str, Any] = {}
    """Options of the method that differ from its defaults."""
    truth: tuple[TruthFiles, ...] = ()
    """Truth that replaces the protocol's, in order of preference."""
    counting: Counting | None = None
    """Counting that replaces the protocol's."""


class Figures(Frozen):
    """Published IoU in percent by class, of a method that is not among those here."""

    source: str
    iou: dict[str, float]


class Split(Frozen):
    """Images and truth of another part of a data set than the one that is evaluated."""

    images: Annotated[tuple[ImageFiles, ...], Field(min_length=1)]
    """Possible places of the images, in order of preference."""
    truth: Annotated[tuple[TruthMaps, ...], Field(min_length=1)]
    """Possible places of the truth, in order of preference."""


class BenchmarkProtocol(Frozen):
    """One evaluation protocol."""

    title: str
    """Name of the data set and its split."""
    benchmark: str
    """Name of the benchmark in the cards of methods."""
    num_images: PositiveInt
    """Number of images of a whole evaluation."""
    images: Annotated[tuple[ImageFiles, ...], Field(min_length=1)]
    """Possible places of the images, in order of preference."""
    truth: Annotated[tuple[TruthFiles, ...], Field(min_length=1)]
    """Possible places of the truth, in order of preference."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names as in mmsegmentation, without background."""
    background: tuple[str, ...] = ()
    """Phrases of the class background; empty: background is not a class and is not counted."""
    counting: Counting = Counting()
    """Counting rule, unless a recipe has its own."""
    recipes: tuple[Recipe, ...] = ()
    """Published settings; other methods use the class names and their own defaults."""
    figures: tuple[Figures, ...] = ()
    """Published IoU by class, for comparison."""
    training: Split | None = None
    """What `ovseg train-student` learns; null: it learns nothing from this data set."""
    validation: Split | None = None
    """What chooses the best of its steps; null: a share of the training images."""

    @model_validator(mode="after")
    def _consistent(self) -> "BenchmarkProtocol":
        _check_truth(self, self.truth)
        owners: set[str] = set()
        for recipe in self.recipes:
            _check_recipe(self, recipe)
            twice = owners & set(recipe.methods)
            if twice:
                raise ValueError(
                    f"methods with two recipes: {', '.join(sorted(twice))}; expected one each"
                )
            owners |= set(recipe.methods)
        for figures in self.figures:
            _check_classes("figures", figures.iou, self.classes)
        for split in (self.training, self.validation):
            _check_truth(self, split.truth if split else ())
        return self

    @property
    def has_background(self) -> bool:
        """Whether background is a class that counts."""
        return bool(self.background)

    def recipe(self, method: str) -> Recipe:
        """Return the setting that a method was published with; an empty one if unknown."""
        for recipe in self.recipes:
            if method in recipe.methods:
                return recipe
        return Recipe(methods=(method,))

    def labels(self, recipe: Recipe) -> tuple[Label, ...]:
        """Return the labels of the vocabulary under a recipe, in the order of the classes."""
        return tuple(_label(name, recipe) for name in self.classes)

    def with_files_of(self, split: Split) -> "BenchmarkProtocol":
        """Return the protocol with the images and the truth of another part of the data set."""
        return self.model_copy(update={"images": split.images, "truth": split.truth})

    def background_of(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the background phrases under a recipe."""
        return self.background if recipe.background is None else recipe.background


def _label(name: str, recipe: Recipe) -> Label:
    first, *others = recipe.words.get(name, (name,))
    name = first.replace(" ", "") if recipe.remove_spaces else first
    return Label(name=name, synonyms=tuple(others))


def _check_recipe(protocol: BenchmarkProtocol, recipe: Recipe) -> None:
    _check_classes("words", recipe.words, protocol.classes)
    _check_truth(protocol, recipe.truth)
    if recipe.background is not None and bool(recipe.background) != protocol.has_background:
        raise ValueError(
            f"recipe of {', '.join(recipe.methods)}: expected background phrases if and only if "
            "background is a class of the protocol"
        )


def _check_truth(protocol: BenchmarkProtocol, files: Sequence[TruthFiles]) -> None:
    for truth in files:
        if not isinstance(truth, TruthMaps):
            if not protocol.has_background:
                raise ValueError(
                    "truth of instances: expected a protocol with background as a class"
                )
            continue
        if len(truth.values.labels) != len(protocol.classes):
            raise ValueError(
                f"truth in {truth.folder[0]}: expected a value for each of the "
                f"{len(protocol.classes)} classes, got {len(truth.values.labels)}"
            )
        if truth.values.background and not protocol.has_background:
            raise ValueError(
                f"truth in {truth.folder[0]}: background values, but background is not a class"
            )


def _check_classes(what: str, names: dict[str, Any], classes: tuple[str, ...]) -> None:
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise ValueError(f"{what} of unknown classes: {', '.join(unknown)}")
