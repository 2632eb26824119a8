"""Near-duplicates that are planted among photographs, and how the benchmark judges who finds them."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score

import keras_contrastive as kc

ROOT = Path(kc.__file__).resolve().parents[1]
PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "photos" / "caltech101"


@pytest.fixture(scope="module")
def benchmark():
    folders = [str(ROOT / "scripts" / "benchmarks"), str(ROOT / "scripts")]
    sys.path[:0] = folders
    import duplicates

    yield duplicates
    for folder in folders:
        sys.path.remove(folder)


def test_judged_is_the_average_precision_of_scikit_learn_with_ties(benchmark):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 30, 400) / 30
    right = rng.uniform(size=400) < scores**2
    order = np.argsort(-scores, kind="stable")
    found = benchmark.judged(scores[order], right[order])
    expected = average_precision_score(right, scores)
    assert found["average_precision"] == pytest.approx(expected, abs=1e-12)
    at = found["by_threshold"]["0.9"]
    assert at["precision"] == pytest.approx(right[scores >= 0.9].mean())
    assert at["recall"] == pytest.approx(right[scores >= 0.9].sum() / right.sum())


def test_judged_takes_the_lowest_threshold_that_is_precise_enough(benchmark):
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.1])
    found = benchmark.judged(scores, np.array([True, True, True, False, True]))
    assert (found["recall"], found["threshold"]) == (0.75, 0.8)
    none = benchmark.judged(scores, np.array([False, True, True, True, True]))
    assert (none["recall"], none["threshold"]) == (0.0, None)


def test_ranked_pairs_are_right_within_one_photograph(benchmark):
    similarity = np.array([[1, 0.1, 0.9], [0.1, 1, 0.5], [0.9, 0.5, 1]])
    scores, right = benchmark.ranked_pairs(similarity, np.array([4, 7, 4]))
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.1])
    assert right.tolist() == [True, False, False]


@pytest.mark.skipif(
    not PHOTOGRAPHS.is_dir(), reason="needs the photographs in ../shared/data"
)
def test_planted_copies_of_photographs_are_found(benchmark, tmp_path):
    files = sorted(PHOTOGRAPHS.rglob("*.jpg"))[::4]
    originals = [file.read_bytes() for file in files]
    planted = benchmark.plant(originals, 40, seed=0)
    assert [len(copies) for copies in planted.values()] == [40, 40, 40, 40, 160]
    keras.utils.set_random_seed(0)
    kc.export.save(kc.encoders.small_resnet((64, 64, 3)), tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["encoded"]

    def precision_of(kind, similarity):
        images = originals + [image for _, image in planted[kind]]
        origin = np.array([*range(len(originals)), *(at for at, _ in planted[kind])])
        ranked = benchmark.ranked_pairs(similarity(images), origin)
        return benchmark.judged(*ranked)["average_precision"]

    def embeddings(images):
        return benchmark.embedding_similarity(served, images)

    others = [benchmark.pixel_similarity, benchmark.hash_similarity]
    for similarity in (embeddings, *others):
        assert precision_of("recompression", similarity) > 0.9
    # A network of convolutions, even an untrained one, sees more in a mirrored photograph than pixels in their places.
    assert precision_of("flip", embeddings) > 0.4
    for similarity in others:
        assert precision_of("flip", similarity) < 0.3
