"""Splits of a run's images for training, validation and test.

Images that must stay together (near-duplicates, images of one folder or one value of a column) come
into one part; labels are spread over the parts as evenly as that allows.

Shapes: N images, K labels, G groups, P parts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Dealt(NamedTuple):
    """Which part every image is in.

    Attributes:
        part_N: number of the part.
        num_groups: images and groups of them that were dealt out as a whole.
        largest: images in the largest of them.
    """

    part_N: NDArray[np.int64]
    num_groups: int
    largest: int


def joined_groups(num_images: int, groupings: Sequence[NDArray[np.integer]]) -> NDArray[np.int64]:
    """Return (N,) the number of the group of each image, images of one group in any being together.

    Args:
        num_images: N.
        groupings: (N,) each, a number by image; negative: the image is alone.
    """
    images, nodes, num_nodes = [], [], num_images
    for grouping in groupings:
        members = np.flatnonzero(grouping >= 0)
        names, inverse = np.unique(grouping[members], return_inverse=True)
        images.append(members)
        nodes.append(inverse + num_nodes)
        num_nodes += len(names)
    rows = np.concatenate([*images, np.empty(0, np.int64)])
    columns = np.concatenate([*nodes, np.empty(0, np.int64)])
    edges = coo_array((np.ones(len(rows), bool), (rows, columns)), (num_nodes, num_nodes))
    _, group = connected_components(edges, directed=False)
    return np.unique(group[:num_images], return_inverse=True)[1].astype(np.int64)


def deal_out(
    group_N: NDArray[np.integer],
    labels_NK: NDArray[np.bool_],
    shares: Sequence[float],
    seed: int,
) -> Dealt:
    """Deal groups of images out to parts.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, "On the Stratification of
    Multi-Label Data", ECML PKDD 2011, algorithm 1) with groups in the place of examples: always the
    label that is left in the fewest groups is dealt out next, its largest groups first, each to the
    part that lacks most images of the label, then most images, then by chance.

    Args:
        group_N: the group of each image, 0 ... G - 1.
        labels_NK: which labels are in each image.
        shares: of the images in each part; their sum is 1.
        seed: of the chance.
    """
    rng = np.random.default_rng(seed)
    num_images, num_labels = labels_NK.shape
    size_G = np.bincount(group_N)
    in_group_GK = np.zeros((len(size_G), num_labels), np.int64)
    np.add.at(in_group_GK, group_N, labels_NK)
    wanted_P = np.array(shares) * num_images
    wanted_PK = np.outer(shares, labels_NK.sum(axis=0))
    part_G = np.full(len(size_G), -1, np.int64)
    chance_G = rng.permutation(len(size_G))
    left_K = (in_group_GK > 0).sum(axis=0)

    def give(groups: NDArray[np.integer], label: int | None) -> None:
        for group in groups[np.lexsort((chance_G[groups], -size_G[groups]))].tolist():
            lacking = wanted_P if label is None else wanted_PK[:, label]
            best = np.lexsort((rng.permutation(len(wanted_P)), -wanted_P, -lacking))[0]
            part_G[group] = best
            wanted_P[best] -= size_G[group]
            wanted_PK[best] -= in_group_GK[group]
            left_K[in_group_GK[group] > 0] -= 1

    while left_K.any():
        label = int(np.where(left_K > 0, left_K, len(size_G) + 1).argmin())
        give(np.flatnonzero((in_group_GK[:, label] > 0) & (part_G < 0)), label)
    give(np.flatnonzero(part_G < 0), None)
    return Dealt(part_G[group_N], len(size_G), int(size_G.max(initial=0)))
