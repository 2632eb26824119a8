"""`keras_contrastive.search.whiten`: one variance in every direction, and near-duplicates that stand out."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from keras_contrastive.search import Index, whiten


def features(count=2000, dim=16, seed=0):
    """All positive, with directions of very unlike variance, as those of an encoder are."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spread = 0.7 ** np.arange(dim)
    return 5 + (rng.normal(size=(count, dim)) * spread) @ turn


def test_whitened_rows_have_the_identity_as_their_covariance():
    rows = features()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    whitened = whiten(rows)
    assert whitened.dtype == np.float32
    np.testing.assert_allclose(whitened.mean(axis=0), 0, atol=1e-3)
    # By the definition, in float64: products of whitened rows are those by the inverse of the shrunk covariance.
    centred = unit - unit.mean(axis=0)
    covariance = LedoitWolf(assume_centered=True).fit(centred).covariance_
    expected = centred[:50] @ np.linalg.solve(covariance, centred[:50].T)
    products = whitened[:50] @ whitened[:50].T
    np.testing.assert_allclose(products, expected, atol=1e-3 * np.abs(expected).max())


def test_near_duplicates_stand_out_once_rows_are_whitened():
    rows = features(300)
    rng = np.random.default_rng(1)
    # Copies differ in the direction of the largest variance, by which cosines mostly go.
    largest = np.linalg.svd(rows - rows.mean(axis=0))[2][0]
    copies = rows[:100] + rng.normal(size=(100, 1)) * largest
    both = np.concatenate([rows, copies])
    right = np.arange(100)

    def found(embeddings):
        index = Index(embeddings[:300])
        return np.mean(index.search(embeddings[300:], k=1).ids[:, 0] == right)

    assert found(both) < 0.7
    assert found(whiten(both)) > 0.9


def test_whitened_similarity_of_unrelated_rows_is_about_zero():
    rows = features()
    plain, whitened = (Index(each).embeddings for each in (rows, whiten(rows)))
    assert (plain @ plain.T).mean() > 0.9
    assert abs((whitened @ whitened.T).mean()) < 0.01


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_rows_stay_equal(count):
    rows = np.tile([[3.0, 4.0, 0.0]], (count, 1))
    np.testing.assert_allclose(whiten(rows), [[0.6, 0.8, 0.0]] * count, rtol=1e-6)


def test_a_pair_of_equal_rows_among_few_others_is_found():
    rows = features(6, dim=64)
    rows[4] = rows[1]
    groups = Index(whiten(rows)).duplicates(0.99)
    assert [group.tolist() for group in groups] == [[1, 4]]


def test_rows_in_a_subspace_are_whitened_within_it():
    rows = features(500, dim=4) @ np.random.default_rng(2).normal(size=(4, 32))
    whitened = whiten(rows)
    assert np.isfinite(whitened).all()


def test_whitening_of_no_rows_gives_none():
    assert whiten(np.zeros((0, 8))).shape == (0, 8)


@pytest.mark.parametrize(
    ("rows", "seed", "message"),
    [
        ([[np.nan, 1.0]], 0, "`embeddings` must be finite"),
        ([1.0, 2.0], 0, "`embeddings` must be of shape"),
        ([[1.0, 2.0]], -1, "`seed` must be an integer"),
    ],
    ids=["nan", "rank", "seed"],
)
def test_whitening_of_what_is_no_embedding_is_refused(rows, seed, message):
    with pytest.raises(ValueError, match=message):
        whiten(rows, seed=seed)


def test_of_many_rows_some_estimate_the_covariance(monkeypatch):
    from keras_contrastive.search import whitening

    rows = features(4000)
    whole = whiten(rows)
    monkeypatch.setattr(whitening, "_ESTIMATED", 2000)
    some, again, other = (whiten(rows, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(some, again)
    assert np.abs(some - other).max() > 1e-4
    # Another covariance, and nearly the same similarities.
    plain, sampled = (Index(each[:200]).embeddings for each in (whole, some))
    agreement = np.corrcoef((plain @ plain.T).ravel(), (sampled @ sampled.T).ravel())
    assert agreement[0, 1] > 0.95
