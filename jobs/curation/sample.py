"""`ovseg sample`: a list of the images of a run that are worth a look next."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import console
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.curation.images import AnnotatedImages
    from pipeline.curation.sampling import Sample, SampleKind

_VALUES = {
    "doubt": "review priority",
    "diverse": "distance to the sample so far",
    "balanced": "for the label",
    "outlier": "distance to its fifth nearest image",
}
_WITHOUT = {"diverse": "the first, by chance", "outlier": "there is no other image"}
"""What is said of an image that has no such value."""
_SHOWN = 20


def list_sample(run: str, by: str, count: int, seed: int, out: str, as_json: bool) -> None:
    """Choose images, write them as a list, and print the first ones.

    Args:
        run: the run folder.
        by: a `SampleKind`.
        count: of images.
        seed: of what is left to chance.
        out: of the list; empty: in the run folder.
        as_json: print JSON.

    Raises:
        ConfigError: no such kind.
        UserError: no such run, or none of its images has a vector and the kind needs them.
    """
    from pipeline.curation.image_lists import check_list_file, list_name, write_list
    from pipeline.curation.images import annotated_images
    from pipeline.run.folder import RunFolder

    if by not in _VALUES:
        raise ConfigError(f"--by {by}: expected {', '.join(_VALUES)}")
    check_list_file(out)
    images = annotated_images(RunFolder.open(run))
    sample = _sample(images, by, count, seed)  # type: ignore[arg-type]
    names = images.run.info.job().vocabulary.names
    values = [_shown(value, names if by == "balanced" else ()) for value in sample.values.tolist()]
    notes = [
        _WITHOUT.get(by, "") if value is None else f"{_VALUES[by]}: {value}" for value in values
    ]
    columns = {"note": notes, "value": values}
    place = write_list(images, sample.places, columns, list_name("sample", by), out)
    paths = images.paths.take(sample.places).to_pylist()
    if as_json:
        chosen = [{"path": path, "value": v} for path, v in zip(paths, values, strict=True)]
        return console.print_json({"by": by, "images": chosen, "list": place})
    rows = [
        (path, "-" if value is None else value) for path, value in zip(paths, values, strict=True)
    ]
    console.table(f"Sample by {by}", ("image", _VALUES[by]), rows[:_SHOWN])
    if len(rows) > _SHOWN:
        console.line(f"and {len(rows) - _SHOWN:,} more (in the list)")
    console.line("")
    fewer = "" if len(rows) == count else f" ({count:,} were asked for: no more can be chosen)"
    return console.facts([("images", f"{len(rows):,} of {len(images):,}{fewer}"), ("list", place)])


def _shown(value: float, labels: Sequence[str]) -> str | float | None:
    """Return a value of a sample for a person: of labels the name; None: there is none."""
    if math.isnan(value):
        return None
    return labels[int(value) - 1] if labels else round(value, 4)


def _sample(images: "AnnotatedImages", by: "SampleKind", count: int, seed: int) -> "Sample":
    from pipeline.curation import sampling
    from pipeline.curation.images import labels_found
    from pipeline.curation.with_vectors import images_with_vectors

    if by == "doubt":
        return sampling.most_doubtful(images.priority, count)
    if by == "balanced":
        return sampling.balanced(labels_found(images), count, seed)
    embedded = images_with_vectors(images)
    if by == "diverse":
        found = sampling.most_diverse(embedded.vectors_ND, count, seed)
    else:
        found = sampling.outliers(embedded.vectors_ND, count)
    return sampling.Sample(embedded.places[found.places], found.values)
