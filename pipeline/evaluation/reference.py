"""What a run is measured by: a truth, what its classes are called, and a way of counting."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.corrections.layer import ReviewedLayer
from pipeline.evaluation import protocol as protocols
from pipeline.evaluation import reviewed_truth
from pipeline.evaluation import truth as truths
from pipeline.evaluation.truth_maps import open_layout
from pipeline.run.folder import RunFolder
from schemas import plugins
from schemas.base import Frozen
from schemas.config import EMBEDDED, ClipConfig, JobConfig, NamedOptions
from schemas.errors import UserError
from schemas.protocol import BenchmarkProtocol, Counting, Figures, Recipe

_METHODS = "ovseg_core.methods"


class PublishedScores(Frozen):
    """What others report under the same protocol."""

    miou: float | None
    """In percent; None: the method's authors give none for this protocol."""
    method: str
    """Title of the method."""
    weights: str
    """What it was published with."""
    classes: tuple[Figures, ...] = ()
    """Figures class by class."""


@dataclass(frozen=True)
class Reference:
    """See the module.

    Attributes:
        source: where the truth is, or data set and protocol.
        truth: the true label maps.
        names: of the classes, in the run's order, without background.
        has_background: whether background is a class that counts.
        counting: how pixels become one number.
        num_images: how many the protocol compares; None: all that there are.
        protocol: its name; empty: none.
        published: what others report; None: without a protocol.
        differences: in what the run is not as published.
    """

    source: str
    truth: truths.Truth
    names: tuple[str, ...]
    has_background: bool = True
    counting: Counting = field(default_factory=Counting)
    num_images: int | None = None
    protocol: str = ""
    published: PublishedScores | None = None
    differences: tuple[str, ...] = ()


def of_truth(run: RunFolder, uri: str, crowd: truths.Crowd) -> Reference:
    """Return a truth of the user's own, see `truth`; `reviewed` is what people left.

    Raises:
        UserError: no usable truth.
    """
    names = run.info.job().vocabulary.names
    if uri == reviewed_truth.NAME:
        return Reference(uri, reviewed_truth.ReviewedTruth(ReviewedLayer(run)), names)
    return Reference(uri, truths.open_truth(uri, names, crowd), names)


def of_protocol(run: RunFolder, name: str, data: str) -> Reference:
    """Return a protocol, as it is published for the run's method.

    Args:
        run: annotated with the protocol's classes in its order, in whatever words.
        name: of the protocol, see `pipeline.evaluation.protocol.load`.
        data: the data set's folder.

    Raises:
        UserError: no such protocol, no truth in the folder, or a run of other classes.
    """
    protocol, job = protocols.load(name), run.info.job()
    _check_order(name, protocol, job)
    recipe = protocol.recipe(job.method.name)
    return Reference(
        source=f"{protocol.title}, in {data}",
        truth=open_layout(name, protocol, recipe.truth or protocol.truth, data),
        names=protocol.classes,
        has_background=protocol.has_background,
        counting=recipe.counting or protocol.counting,
        num_images=protocol.num_images,
        protocol=name,
        published=_published(protocol, job.method.name),
        differences=tuple(_differences(protocol, recipe, job)),
    )


def _check_order(name: str, protocol: BenchmarkProtocol, job: JobConfig) -> None:
    """Make sure that label k of the run is class k: it is not if it is the word for another one."""
    words = job.vocabulary.names
    if len(words) != len(protocol.classes):
        raise UserError(
            f"{name} has {len(protocol.classes)} classes, the run has {len(words)} labels "
            f"({', '.join(words[:3])}, ...): annotate it with --protocol {name}"
        )
    owners = {_plain(word): index for index, word in enumerate(protocol.classes)}
    for index, word in enumerate(words):
        owner = owners.get(_plain(word), index)
        if owner != index:
            raise UserError(
                f"label {index + 1} of the run is {word!r}, class {index + 1} of {name} is "
                f"{protocol.classes[index]!r}: labels must stand in the protocol's order; annotate "
                f"it with --protocol {name}"
            )


def _plain(word: str) -> str:
    return word.casefold().replace(" ", "")


def _published(protocol: BenchmarkProtocol, method: str) -> PublishedScores | None:
    if method not in plugins.names(_METHODS):
        return None
    card = plugins.load(_METHODS, method).CARD
    miou = card.published.get(protocol.benchmark)
    return PublishedScores(
        miou=miou, method=card.title, weights=card.weights, classes=protocol.figures
    )


def _differences(protocol: BenchmarkProtocol, recipe: Recipe, job: JobConfig) -> list[str]:
    """Return in what a run is not what was published, a line each."""
    found = [recipe.note] if recipe.note else []
    if job.method.name not in plugins.names(_METHODS):
        return found
    clip = plugins.load(_METHODS, job.method.name).CARD.clip
    if clip != job.clip:
        found.append(f"CLIP is {clip_name(job.clip)}, not {clip_name(clip)}")
    ours, theirs = (
        _options(job.method.name, given) for given in (job.method.options, recipe.options)
    )
    found += [
        f"method.options.{key} is {ours[key]}, not {value}"
        for key, value in theirs.items()
        if ours[key] != value
    ]
    vocabulary = job.vocabulary
    if vocabulary.labels != protocol.labels(recipe):
        found.append("the labels' words are not the protocol's")
    if vocabulary.background != protocol.background_of(recipe):
        found.append("the background words are not the protocol's")
    return found


def _options(method: str, given: dict[str, Any]) -> dict[str, Any]:
    return plugins.read_options(
        _METHODS, NamedOptions(name=method, options=given), "method"
    ).model_dump()


def clip_name(clip: ClipConfig) -> str:
    """Return `ViT-B-16 openai`, or what stands for it."""
    if clip.model == EMBEDDED or clip.model.startswith("local-dir:"):
        return clip.model
    return f"{clip.model} {clip.pretrained}".strip()
