"""What a run is compared with: a truth, the names of its classes, and a way of counting."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.corrections.layer import ReviewedLayer
from pipeline.evaluation.protocol import load_protocol
from pipeline.evaluation.reviewed_truth import REVIEWED, ReviewedTruth
from pipeline.evaluation.truth import (
    Crowd,
    Truth,
    TruthBackground,
    Wanted,
    open_protocol_truth,
    open_truth,
)
from pipeline.run.folder import RunFolder
from schemas import plugins
from schemas.base import Frozen
from schemas.config import EMBEDDED, ClipConfig, JobConfig, NamedOptions
from schemas.errors import UserError
from schemas.protocol import BenchmarkProtocol, Counting, Figures, Recipe
from schemas.redact import redact

_METHODS = "ovseg_core.methods"


class PublishedScores(Frozen):
    """Published scores under the same protocol."""

    miou: float | None
    """In percent; None: the method's authors report none for this protocol."""
    method: str
    """Title of the method."""
    weights: str
    """The weights that it was published with."""
    classes: tuple[Figures, ...] = ()
    """Scores by class."""


@dataclass(frozen=True)
class Reference:
    """A truth with its protocol.

    Attributes:
        source: where the truth is, or data set and protocol.
        truth: the true label maps.
        names: of the classes, in the run's order, without background.
        has_background: whether background is a class.
        counting: how pixels become one number.
        num_images: images of the protocol; None: all that have a truth.
        protocol: its name; empty: none.
        published: published scores; None: no protocol.
        differences: of the run from the published setting, one line each.
    """

    source: str
    truth: Truth
    names: tuple[str, ...]
    has_background: bool = True
    counting: Counting = field(default_factory=Counting)
    num_images: int | None = None
    protocol: str = ""
    published: PublishedScores | None = None
    differences: tuple[str, ...] = ()


def truth_reference(
    run: RunFolder,
    uri: str,
    crowd: Crowd,
    background: TruthBackground | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Reference:
    """Return the reference for a truth of the user's own.

    Args:
        run: the run.
        uri: of the truth, see `open_truth`; `reviewed`: the corrections of the run.
        crowd: what COCO's crowd regions are.
        background: what values of label images mean; None: as their `classes.json` says, else `0`.
        renamed: labels of the run by the truth's names for them.

    Raises:
        UserError: no usable truth, or one that has no names that could be others.
    """
    names = run.info.job().vocabulary.names
    if uri == REVIEWED:
        if renamed:
            raise UserError(
                f"--label {'='.join(next(iter(renamed.items())))}: expected a truth with names of "
                "its own; corrections have the run's labels: leave --label out"
            )
        return Reference(uri, ReviewedTruth(ReviewedLayer(run)), names)
    wanted = Wanted.of_run(run)._replace(renamed=renamed or {})
    truth = open_truth(uri, wanted, crowd, background)
    return Reference(redact(uri), truth, names)


def protocol_reference(run: RunFolder, name: str, data: str) -> Reference:
    """Return the reference for a protocol, with the published setting of the run's method.

    Args:
        run: annotated with the protocol's classes in its order; their names may differ.
        name: of the protocol, see `load_protocol`.
        data: the data set's folder.

    Raises:
        UserError: no such protocol, no truth in the folder, or a run with other classes.
    """
    protocol, job = load_protocol(name), run.info.job()
    _check_order(name, protocol, job)
    recipe = protocol.recipe(job.method.name)
    candidates, wanted = recipe.truth or protocol.truth, Wanted.of_run(run)
    return Reference(
        source=f"{protocol.title}, in {redact(data)}",
        truth=open_protocol_truth(name, protocol, candidates, data, wanted),
        names=protocol.classes,
        has_background=protocol.has_background,
        counting=recipe.counting or protocol.counting,
        num_images=protocol.num_images,
        protocol=name,
        published=_published(protocol, job.method.name),
        differences=tuple(_differences(protocol, recipe, job)),
    )


def _check_order(name: str, protocol: BenchmarkProtocol, job: JobConfig) -> None:
    """Check that no label k of the run is the name of another class than class k."""
    labels = job.vocabulary.names
    if len(labels) != len(protocol.classes):
        raise UserError(
            f"{name} has {len(protocol.classes)} classes, the run has {len(labels)} labels "
            f"({', '.join(labels[:3])}, ...): annotate it with --protocol {name}"
        )
    index_of = {_plain(known): index for index, known in enumerate(protocol.classes)}
    for index, label in enumerate(labels):
        if index_of.get(_plain(label), index) != index:
            raise UserError(
                f"label {index + 1} of the run is {label!r}, class {index + 1} of {name} is "
                f"{protocol.classes[index]!r}: labels must be in the protocol's order; annotate "
                f"it with --protocol {name}"
            )


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "")


def _published(protocol: BenchmarkProtocol, method: str) -> PublishedScores | None:
    if method not in plugins.names(_METHODS):
        return None
    card = plugins.load_plugin(_METHODS, method).CARD
    miou = card.published.get(protocol.benchmark)
    return PublishedScores(
        miou=miou, method=card.title, weights=card.weights, classes=protocol.figures
    )


def _differences(protocol: BenchmarkProtocol, recipe: Recipe, job: JobConfig) -> list[str]:
    """Return the differences of a run from the published setting, one line each."""
    found = [recipe.note] if recipe.note else []
    if job.method.name not in plugins.names(_METHODS):
        return found
    own = _own_options(job.method)
    clip = plugins.load_plugin(_METHODS, job.method.name).CARD.clip
    if clip != job.clip and not own:
        found.append(f"CLIP is {clip_name(job.clip)}, not {clip_name(clip)}")
    ours, theirs = (
        _options(job.method.name, given)
        for given in (job.method.options, {**own, **recipe.options})
    )
    found += [
        f"method.options.{key} is {ours[key]}, not {value}"
        for key, value in theirs.items()
        if ours[key] != value
    ]
    vocabulary = job.vocabulary
    if vocabulary.labels != protocol.labels(recipe):
        found.append("the labels' phrases are not the protocol's")
    if vocabulary.background != protocol.background_of(recipe):
        found.append("the background phrases are not the protocol's")
    return found


def _own_options(method: NamedOptions) -> dict[str, Any]:
    """Return the options that have no default, so that nobody could publish them: own weights."""
    fields = plugins.load_plugin(_METHODS, method.name).Options.model_fields
    return {
        name: value
        for name, value in method.options.items()
        if name in fields and fields[name].is_required()
    }


def _options(method: str, given: dict[str, Any]) -> dict[str, Any]:
    return plugins.read_options(
        _METHODS, NamedOptions(name=method, options=given), "method"
    ).model_dump()


def clip_name(clip: ClipConfig) -> str:
    """Return a CLIP's architecture and weights, such as `ViT-B-16 openai`, or its address."""
    if clip.model == EMBEDDED or clip.model.startswith("local-dir:"):
        return clip.model
    return f"{clip.model} {clip.pretrained}".strip()
