"""`ovseg duplicates`: groups of images of a run that are the same picture."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from jobs import console
from schemas.base import counted, validated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.curation.duplicates import Duplicates
    from pipeline.curation.images import AnnotatedImages
    from pipeline.run.trust.confirmed import Confirmed

_SHOWN = 20


def list_duplicates(
    run: str, rules: dict[str, Any], out: str, as_json: bool, confirmed: "Confirmed"
) -> None:
    """Find near-duplicates, write them as a list, and print the groups.

    Args:
        run: the run folder.
        rules: fields of `DuplicateRules`.
        out: of the list; empty: in the run folder, with a second one of all images but the copies.
        as_json: print JSON.
        confirmed: from where the run's images are read.

    Raises:
        UserError: no such run, or none of its images has a vector.
    """
    import numpy as np

    from pipeline.curation import duplicates
    from pipeline.curation.image_lists import check_list_file, write_list
    from pipeline.curation.images import annotated_images
    from pipeline.run.folder import RunFolder

    check_list_file(out)
    images = annotated_images(RunFolder.open(run, confirmed))
    found = duplicates.find_duplicates(images, validated(duplicates.DuplicateRules, rules))
    rows = [
        (place, number, rank == 0)
        for number, group in enumerate(found.groups, 1)
        for rank, place in enumerate(group.tolist())
    ]
    columns = {
        "note": [f"group {number}, {'keep' if kept else 'copy'}" for _, number, kept in rows],
        "group": [number for _, number, _ in rows],
        "keep": [int(kept) for _, _, kept in rows],
        "correlation": [_least(found, [place]) for place, _, _ in rows],
    }
    places = np.array([one for one, _, _ in rows], np.int64)
    lists = {"list": write_list(images, places, columns, "duplicates", out)}
    if not out:
        copies = places[[not kept for _, _, kept in rows]]
        others = np.setdiff1d(np.arange(len(images)), copies)
        lists["without copies"] = write_list(images, others, {}, "without-copies")
    if as_json:
        return console.print_json(_as_json(images, found, lists))
    return _show(images, found, lists)


def _least(found: "Duplicates", places: "Sequence[int] | NDArray[np.int64]") -> float | None:
    """Return the least correlation of images, for a person; None where one has none."""
    least = float(found.correlation[places].min())
    return None if math.isnan(least) else round(least, 2)


def _groups(
    images: "AnnotatedImages", found: "Duplicates"
) -> Iterator[tuple[list[str], float | None]]:
    """Yield the paths of each group, and its least correlation."""
    for group in found.groups:
        yield images.paths.take(group).to_pylist(), _least(found, group)


def _as_json(
    images: "AnnotatedImages", found: "Duplicates", lists: dict[str, str]
) -> dict[str, Any]:
    return {
        "groups": [
            {"keep": paths[0], "copies": paths[1:], "least_correlation": least}
            for paths, least in _groups(images, found)
        ],
        "num_images": found.num_images,
        "num_copies": found.num_copies,
        "num_without_vector": found.num_without,
        "num_close_pairs": found.num_close,
        "num_read": found.num_read,
        "num_unread": found.num_unread,
        "num_pairs_cut": found.num_cut,
        **{name.replace(" ", "_"): place for name, place in lists.items()},
    }


def _show(images: "AnnotatedImages", found: "Duplicates", lists: dict[str, str]) -> None:
    shown = [
        (
            number,
            paths[0],
            len(paths) - 1,
            ", ".join(paths[1:4]) + (", ..." * (len(paths) > 4)),
            least or "not compared",
        )
        for number, (paths, least) in enumerate(islice(_groups(images, found), _SHOWN), 1)
    ]
    columns = "group", "keep (the largest)", "copies", "such as", "least alike"
    console.table("Near-duplicates", columns, shown)
    if len(found.groups) > _SHOWN:
        console.line(f"and {len(found.groups) - _SHOWN:,} more groups (--json shows all)")
    console.line("")
    console.facts(
        [
            ("images", f"{found.num_images:,} compared"),
            ("to keep", f"{found.num_images - found.num_copies:,}"),
            ("near-duplicates", f"{found.num_copies:,} in {counted(len(found.groups), 'group')}"),
            (
                "close pairs",
                f"{found.num_close:,}; {counted(found.num_read, 'image')} read for them",
            ),
            *lists.items(),
        ]
    )
