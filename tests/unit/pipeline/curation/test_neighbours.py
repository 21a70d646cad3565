"""Blocked products against the whole matrix."""

import numpy as np
import pytest

from pipeline.curation import neighbours
from pipeline.curation.neighbours import nearest_cosine, pairs_above


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Of 3.3 blocks, with some that are near."""
    monkeypatch.setattr(neighbours, "BLOCK", 16)
    rng = np.random.default_rng(0)
    found = rng.normal(size=(53, 24))
    found[40:50] = found[:10] + 0.3 * rng.normal(size=(10, 24))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float16)


def test_pairs_are_those_of_the_whole_matrix(vectors: np.ndarray):
    whole = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    for least in (0.9, 0.5, 0.1):
        pairs = pairs_above(vectors, least)
        first, second = np.nonzero(np.triu(whole >= least, 1))
        assert set(zip(*pairs[:2], strict=True)) == set(zip(first, second, strict=True))
        assert len(pairs.cosine) == len(first)
        assert pairs.cosine == pytest.approx(whole[pairs.first, pairs.second], abs=1e-5)
        assert (np.diff(pairs.cosine) <= 0).all()
        assert pairs.num_cut == 0
    assert len(pairs_above(vectors, 1.1).cosine) == 0
    assert len(pairs_above(vectors[:0], 0.5).cosine) == 0
    assert len(pairs_above(vectors[:1], -1.0).cosine) == 0


def test_nearest_cosine_is_that_of_the_whole_matrix(vectors: np.ndarray):
    whole = vectors.astype(np.float32) @ vectors.astype(np.float32).T
    np.fill_diagonal(whole, -1)
    ranked = -np.sort(-whole, axis=1)
    for k in (1, 5):
        assert nearest_cosine(vectors, k) == pytest.approx(ranked[:, k - 1], abs=1e-5)
    assert len(nearest_cosine(vectors[:3], 5)) == 3, "fewer others than asked for"
    assert np.isnan(nearest_cosine(vectors[:1], 5)).tolist() == [True], "there is no other"
    assert len(nearest_cosine(vectors[:0], 5)) == 0


def test_pairs_that_do_not_fit_are_thinned_out_and_counted(
    vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Of images that are close to very many others the nearest stay."""
    monkeypatch.setattr(neighbours, "MAX_PAIRS", 100)
    every = 53 * 52 // 2
    pairs = pairs_above(vectors, -1.0, most_per_image=2)
    assert pairs.num_cut + len(pairs.cosine) == every
    assert len(pairs.cosine) < 300
    kept = set(zip(*pairs[:2], strict=True))
    assert {(n, n + 40) for n in range(10)} <= kept, "the nearest of each"
