"""The JSON of COCO detection files, as TypedDicts.

Its readers allow extra keys (`score`, `attributes`).
"""

from typing import Any, NotRequired, TypedDict


class CocoRle(TypedDict):
    """Compressed run lengths, column-major; `counts` is ASCII text, `size` is [height, width]."""

    size: list[int]
    counts: str


class CocoImage(TypedDict):
    """One image; `file_name` is relative with `/`; sizes in the frame that a person sees.

    `path` is the image's own where `file_name` is another. The last two are LVIS's.
    """

    id: int
    file_name: str
    width: int
    height: int
    path: NotRequired[str]
    exif_orientation: NotRequired[int]
    review_priority: NotRequired[float]
    neg_category_ids: NotRequired[list[int]]
    not_exhaustive_category_ids: NotRequired[list[int]]


class CocoCategory(TypedDict):
    """One label; ids from 1 in vocabulary order; `isthing` is 1 where segments are instances."""

    id: int
    name: str
    supercategory: str
    isthing: NotRequired[int]


class CocoAnnotation(TypedDict):
    """One segment; `area` and `bbox` are of what `segmentation` holds; `iscrowd` is 0.

    `segmentation` may also be polygons, each a flat list of x and y.
    """

    id: int
    image_id: int
    category_id: int
    segmentation: CocoRle | list[list[float]]
    area: int
    bbox: list[float]
    iscrowd: int
    score: NotRequired[float]
    attributes: NotRequired[dict[str, Any]]


class CocoDataset(TypedDict):
    """A whole `instances.json`."""

    info: dict[str, Any]
    licenses: list[dict[str, Any]]
    categories: list[CocoCategory]
    images: list[CocoImage]
    annotations: list[CocoAnnotation]
