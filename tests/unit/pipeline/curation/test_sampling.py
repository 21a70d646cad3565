"""Samples: what is chosen, in which order, and that a seed repeats it."""

import numpy as np
import pytest

from pipeline.curation import sampling


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_most_doubtful_come_first_and_the_first_where_equal():
    found = sampling.most_doubtful(np.array([0.1, 0.9, 0.5, 0.9, 0.2], np.float32), 3)
    assert found.places.tolist() == [1, 3, 2]
    assert found.values.tolist() == pytest.approx([0.9, 0.9, 0.5])


def test_diverse_images_are_of_all_clusters_before_a_second_of_any():
    rng = np.random.default_rng(0)
    centres = np.eye(5, 16)
    sizes = (60, 20, 10, 5, 2)
    clusters = np.repeat(np.arange(5), sizes)
    vectors = unit(centres[clusters] + 0.05 * rng.normal(size=(97, 16)))
    for seed in range(3):
        found = sampling.most_diverse(vectors, 8, seed)
        assert sorted(clusters[found.places[:5]]) == [0, 1, 2, 3, 4]
        assert len(set(found.places.tolist())) == 8
        assert np.isnan(found.values[0]), "there is no sample yet that it could be far from"
        assert found.values[4] > 0.7 > 0.2 > found.values[5], "from other clusters, then the same"
        again = sampling.most_diverse(vectors, 8, seed)
        assert again.places.tolist() == found.places.tolist()
    first = {int(sampling.most_diverse(vectors, 1, seed).places[0]) for seed in range(9)}
    assert len(first) > 1, "the seed chooses the first one"


def test_diverse_sample_is_within_twice_the_best_radius():
    """Gonzalez' bound, by the chord of unit vectors, against the best of all samples of two."""
    rng = np.random.default_rng(1)
    vectors = unit(rng.normal(size=(14, 4))).astype(np.float32)
    distance = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    best = min(
        np.minimum(distance[a], distance[b]).max() for a in range(14) for b in range(a + 1, 14)
    )
    for seed in range(5):
        chosen = sampling.most_diverse(vectors, 2, seed).places
        assert distance[chosen].min(axis=0).max() <= 2 * best + 1e-3


def test_sample_of_more_images_than_there_are_has_each_once():
    vectors = unit(np.random.default_rng(2).normal(size=(6, 8)))
    assert sorted(sampling.most_diverse(vectors, 100, 0).places) == list(range(6))
    assert len(sampling.outliers(vectors, 100).places) == 6
    assert sampling.most_doubtful(np.zeros(3, np.float32), 9).places.tolist() == [0, 1, 2]


def test_balanced_sample_has_rare_labels_as_often_as_frequent_ones():
    labels = np.zeros((300, 3), bool)
    labels[:250, 0], labels[240:290, 1], labels[285:295, 2] = True, True, True  # 295 on: none
    found = sampling.balanced(labels, 24, seed=4)
    counts = labels[found.places].sum(axis=0)
    assert len(set(found.places.tolist())) == 24
    assert counts.min() >= 8
    assert counts.max() - counts.min() <= 2
    assert all(labels[place, int(of) - 1] for place, of in zip(*found, strict=True))
    assert found.places.max() < 295, "an image without labels is never chosen"
    everything = sampling.balanced(labels, 1000, seed=4)
    assert sorted(everything.places) == list(range(295))
    other = sampling.balanced(labels, 24, seed=5)
    assert other.places.tolist() != found.places.tolist()


def test_outliers_are_those_without_near_images():
    rng = np.random.default_rng(3)
    common = np.ones(32) + 0.1 * rng.normal(size=(80, 32))
    strange = rng.normal(size=(3, 32))
    copies = np.repeat(rng.normal(size=(1, 32)), 4, axis=0)  # alike among themselves alone
    found = sampling.outliers(unit(np.concatenate([common, strange, copies])), 7)
    assert sorted(found.places) == list(range(80, 87))
    assert (np.diff(found.values) <= 0).all()
    assert found.values.min() > 0.3
