"""Samples of a run's images: which ones to look at, to label or to train on next.

Shapes: N images, D joint width of CLIP, K labels. Places count from 0. Equal input and seed give
the same sample.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.curation.neighbours import nearest_cosine

SampleKind = Literal["doubt", "diverse", "balanced", "outlier"]
NEIGHBOUR = 5
"""An outlier is far from its fifth nearest image: four copies of it do not hide it."""


class Sample(NamedTuple):
    """Images in the order in which they were chosen.

    Attributes:
        places: of the images.
        values: of each what it was chosen by, as the kind says.
    """

    places: NDArray[np.int64]
    values: NDArray[np.float64]


def most_doubtful(priority: NDArray[np.floating], count: int) -> Sample:
    """Return the images of the highest review priority, with it; the first ones where equal."""
    places = np.argsort(-priority, kind="stable")[:count]
    return Sample(places, priority[places].astype(np.float64))


def most_diverse(vectors_ND: NDArray[np.floating], count: int, seed: int) -> Sample:
    """Return images that show as different things as possible, with the distance to those before.

    The greedy solution of the k-center problem (Gonzalez, "Clustering to minimize the maximum
    intercluster distance", 1985; as a sample for labelling: Sener and Savarese, "Active Learning
    for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018, algorithm 1): after one at
    random always the image that is farthest from its nearest chosen one. No image is farther from
    the sample than twice what the best sample of this size reaches, by the distance of unit
    vectors.

    Args:
        vectors_ND: unit vectors.
        count: of images.
        seed: of the first one.

    Returns:
        With 1 - cosine of each and its nearest one of those before it; of the first one NaN.
    """
    count = min(count, len(vectors_ND))
    vectors = torch.from_numpy(vectors_ND.astype(np.float32))
    chosen = [int(np.random.default_rng(seed).integers(len(vectors)))] if count else []
    distance_N = torch.full((len(vectors),), 1.0)
    values = [math.nan] * len(chosen)
    for number in range(1, count):
        to_last = 1 - vectors @ vectors[chosen[-1]]
        distance_N = to_last if number == 1 else torch.minimum(distance_N, to_last)
        distance_N[chosen[-1]] = -1.0
        farthest = int(distance_N.argmax())
        chosen.append(farthest)
        values.append(max(0.0, float(distance_N[farthest])))
    return Sample(np.array(chosen, np.int64), np.array(values))


def balanced(labels_NK: NDArray[np.bool_], count: int, seed: int) -> Sample:
    """Return images of all labels, as equally often as can be, with the label each stands for.

    Always the label that is in the fewest chosen images so far gets one more image, by chance; of
    labels that are equally rare in the sample the one of fewer images comes first. An image counts
    for all labels in it. Images without any label are never chosen.

    Args:
        labels_NK: which labels are in each image.
        count: of images.
        seed: of the chance.
    """
    rng = np.random.default_rng(seed)
    left = [rng.permutation(np.flatnonzero(column)).tolist() for column in labels_NK.T]
    in_all_K = labels_NK.sum(axis=0)
    chosen_K = np.zeros(labels_NK.shape[1], np.int64)
    is_chosen = np.zeros(len(labels_NK), bool)
    places, values = [], []
    while len(places) < count:
        order = np.lexsort((in_all_K, chosen_K)).tolist()
        label = next((one for one in order if left[one]), None)
        if label is None:
            break
        place = left[label].pop()
        if is_chosen[place]:
            continue
        is_chosen[place] = True
        chosen_K += labels_NK[place]
        places.append(place)
        values.append(label + 1)
    return Sample(np.array(places, np.int64), np.array(values, np.float64))


def outliers(vectors_ND: NDArray[np.floating], count: int) -> Sample:
    """Return the images that are unlike all others, with their distance to the `NEIGHBOUR`-th.

    Ramaswamy, Rastogi and Shim, "Efficient Algorithms for Mining Outliers from Large Data Sets",
    SIGMOD 2000, section 2: those of the greatest distance to their k-th nearest neighbour.

    Returns:
        With 1 - cosine of each and its k-th nearest other image; NaN: there is no other.
    """
    distance_N = 1 - nearest_cosine(vectors_ND, NEIGHBOUR)
    places = np.argsort(-distance_N, kind="stable")[:count]
    return Sample(places, distance_N[places].astype(np.float64))
