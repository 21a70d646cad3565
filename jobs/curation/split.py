"""`ovseg split`: lists of a run's images for training, validation and test."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs import console
from schemas.base import counted
from schemas.errors import ConfigError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.curation.images import AnnotatedImages
    from pipeline.curation.splitting import Dealt
    from pipeline.run.trust.confirmed import Confirmed

_PARTS = ("train", "val", "test")
_SHOWN_NAMES = 10


@dataclass(frozen=True)
class SplitFlags:
    """How `ovseg split` deals the images out.

    Attributes:
        val: share of the images.
        test: likewise; 0: there is no such part.
        group: `folder`, or a column of `table`; empty: near-duplicates alone stay together.
        table: a CSV, TSV, JSON-lines or Parquet file with `path` and the column; empty: the list
            file that the run's images were listed from.
        keep_duplicates_apart: look for near-duplicates, and leave none across parts.
        seed: of what is left to chance.
        out: folder of the lists; empty: in the run folder.
    """

    val: float = 0.1
    test: float = 0.0
    group: str = ""
    table: str = ""
    keep_duplicates_apart: bool = True
    seed: int = 0
    out: str = ""


def split_run(run: str, flags: SplitFlags, as_json: bool, confirmed: "Confirmed") -> None:
    """Deal the images of a run out to parts, write a list of each, and print the counts.

    Raises:
        ConfigError: shares that leave nothing for training.
        UserError: no such run or column, or none of the images has a vector.
    """
    import numpy as np

    from pipeline.curation.image_lists import forget_lists, list_name, write_list
    from pipeline.curation.images import annotated_images, labels_found
    from pipeline.curation.splitting import deal_out
    from pipeline.run.folder import RunFolder
    from pipeline.storage import uris

    shares = (1 - flags.val - flags.test, flags.val, flags.test)
    parts = dict(zip(_PARTS, shares, strict=True))
    if min(parts.values()) < 0 or parts["train"] < 1e-9:
        raise ConfigError(
            f"--val {flags.val:g} and --test {flags.test:g}: expected shares of 0 to 1 that leave "
            "some images for training"
        )
    parts = {name: share for name, share in parts.items() if share > 0}
    images = annotated_images(RunFolder.open(run, confirmed))
    groups, num_copies = _groups(images, flags)
    labels = labels_found(images)
    found = deal_out(groups, labels, list(parts.values()), flags.seed)
    lists = {}
    if not flags.out:
        forget_lists(images.run, [list_name("split", name) for name in _PARTS])
    for number, name in enumerate(parts):
        places = np.flatnonzero(found.part_N == number)
        columns = {"note": [name] * len(places), "group": groups[places].tolist()}
        out = uris.join(flags.out, f"{name}.csv") if flags.out else ""
        lists[name] = write_list(images, places, columns, list_name("split", name), out)
    counts = np.bincount(found.part_N, minlength=len(parts)).tolist()
    by_label = np.stack([labels[found.part_N == n].sum(axis=0) for n in range(len(parts))], axis=1)
    names = images.run.info.job().vocabulary.names
    if as_json:
        return console.print_json(
            {
                "parts": dict(zip(parts, counts, strict=True)),
                "labels": {
                    label: dict(zip(parts, row, strict=True))
                    for label, row in zip(names, by_label.tolist(), strict=True)
                },
                "num_groups": found.num_groups,
                "largest_group": found.largest,
                "num_near_duplicates": num_copies,
                "lists": lists,
            }
        )
    rows = [(label, *row) for label, row in zip(names, by_label.tolist(), strict=True)]
    console.table_of_labels("Images by label", ("label", *parts), rows)
    console.line("")
    _show_missing(list(parts), rows)
    return _show(images, found, dict(zip(parts, counts, strict=True)), lists, num_copies)


def _show_missing(parts: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Say which labels, of those that an image has, are in no image of a part.

    Args:
        parts: names of the parts.
        rows: of the table: a label, and its images in each part.
    """
    seen = [row for row in rows if any(row[1:])]
    for place, part in enumerate(parts, 1):
        missing = [row[0] for row in seen if not row[place]]
        if missing:
            shown = console.first_names(missing, _SHOWN_NAMES)
            console.line(f"in no image of {part}: {len(missing)} of {len(seen)} labels ({shown})")


def _show(
    images: "AnnotatedImages",
    found: "Dealt",
    counts: dict[str, int],
    lists: dict[str, str],
    num_copies: int | None,
) -> None:
    near = "not looked for" if num_copies is None else f"{num_copies:,}, none across parts"
    console.facts(
        [
            ("images", ", ".join(f"{count:,} {name}" for name, count in counts.items())),
            (
                "kept together",
                f"{counted(found.num_groups, 'group')}; the largest has {found.largest:,}",
            ),
            ("near-duplicates", near),
            ("caution", _uneven(len(images), found.largest)),
            ("caution", _empty([name for name, count in counts.items() if not count])),
            *((name, place) for name, place in lists.items()),
        ]
    )


def _uneven(num_images: int, largest: int) -> str:
    if 2 * largest < num_images:
        return ""
    return f"one group holds {largest:,} of {num_images:,} images: the parts cannot be even"


def _empty(parts: Sequence[str]) -> str:
    if not parts:
        return ""
    return (
        f"no image is in {' and '.join(parts)}: there are too few images of each label to spread; "
        "give a larger share, or annotate more images"
    )


def _groups(images: "AnnotatedImages", flags: SplitFlags) -> tuple["NDArray[np.int64]", int | None]:
    """Return the group of each image, and the number of near-duplicates; None: not looked for."""
    import numpy as np

    from pipeline.curation.duplicates import DuplicateRules, find_duplicates
    from pipeline.curation.splitting import joined_groups
    from pipeline.curation.together import groups_by_column, groups_by_folder

    groupings: list[Any] = []
    num_copies = None
    if flags.keep_duplicates_apart:
        try:
            found = find_duplicates(images, DuplicateRules())
        except UserError as error:
            more = "--ignore-duplicates splits without looking for near-duplicates"
            raise UserError(f"{error}; {more}") from error
        number_N = np.full(len(images), -1, np.int64)
        for number, group in enumerate(found.groups):
            number_N[group] = number
        groupings.append(number_N)
        num_copies = found.num_copies
    if flags.group == "folder":
        groupings.append(groups_by_folder(images))
    elif flags.group:
        groupings.append(groups_by_column(images, flags.group, flags.table))
    return joined_groups(len(images), groupings), num_copies
