"""HardSampler: how often what is drawn; and RefreshEmbeddings, also in a run that is cut and goes on."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import data
from keras_contrastive.callbacks import RefreshEmbeddings, RunCheckpoint
from tests.test_callbacks_checkpoint import Cut, CutAfter
from tests.test_data_batches import part_of, read
from tests.test_data_part import numbered, numbers
from tests.test_model import images, small_model, weights_of

LABELS = np.array([0, 1, 2, 0, 1, 0, 0, 1, 2, 0, 1, 2])
N = len(LABELS)
PART = data.Part(numbered(N), LABELS)
HARDNESS = 3.0
EPOCHS = 800
ROWS = np.random.default_rng(0).normal(size=(N, 3)) * np.linspace(0.1, 9, N)[:, None]
UNITS = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
COSINE = UNITS @ UNITS.T


def sampler_of(rows=ROWS, *, part=PART, hardness=HARDNESS, choices=3):
    sampler = data.HardSampler(part, hardness=hardness, choices=choices)
    if rows is not None:
        sampler.set_embeddings(rows)
    return sampler


def draws(make, sampler, epochs=EPOCHS, **options):
    """The numbers of the examples of some epochs, int64 `(epochs * N, 2 or 3)`."""
    dataset = make(PART, N, sampler=sampler, **options).repeat(epochs).batch(50)
    rows = np.concatenate(
        [numbers(views).reshape(-1, views.shape[2]) for views, _ in dataset]
    )
    assert len(rows) == epochs * N
    return rows


def chosen(anchor, allowed, *, choices, hardness) -> np.ndarray:
    """The probability of each example to be drawn for an anchor: all draws of `choices` candidates, with replacement.

    With choices=None of all `allowed` at once.
    """
    weight = np.exp(hardness * COSINE[anchor])
    found = np.zeros(N)
    drawn = itertools.product(allowed, repeat=choices) if choices else [tuple(allowed)]
    drawn = list(drawn)
    for candidates in drawn:
        total = sum(weight[j] for j in candidates)
        for j in candidates:
            found[j] += weight[j] / total / len(drawn)
    return found


def assert_follow(rows, allowed_for, **options):
    """What was drawn for each anchor against its probabilities: chi-square and similarity, within 5 deviations.

    Of n draws of k cells, chi-square has mean k - 1 and variance 2 (k - 1) + (sum 1/p - k^2 - 2 k + 2) / n. The sum
    of the cosines, which sees a hardness that is off, has the mean and variance of n independent draws.
    """
    chi_square, similarity = np.zeros(3), np.zeros(3)  # found, mean, variance
    for anchor in range(N):
        allowed = allowed_for(anchor)
        counts = np.bincount(rows[rows[:, 0] == anchor][:, 1], minlength=N)
        assert counts.sum() == counts[allowed].sum()  # nothing that is not allowed
        n, k = counts.sum(), len(allowed)
        p, cosine = chosen(anchor, allowed, **options)[allowed], COSINE[anchor, allowed]
        found = np.sum((counts[allowed] - n * p) ** 2 / (n * p))
        variance = 2 * (k - 1) + (np.sum(1 / p) - k**2 - 2 * k + 2) / n
        chi_square += found, k - 1, variance
        mean, square = p @ cosine, p @ cosine**2
        similarity += counts[allowed] @ cosine, n * mean, n * (square - mean**2)
    for found, mean, variance in (chi_square, similarity):
        assert abs(found - mean) < 5 * np.sqrt(variance)


def others(anchor):
    return [j for j in range(N) if j != anchor]


def others_of_its_class(anchor):
    return [j for j in others(anchor) if LABELS[j] == LABELS[anchor]]


def of_other_classes(anchor):
    return [j for j in range(N) if LABELS[j] != LABELS[anchor]]


# ---- how often


@pytest.mark.parametrize(
    ("rows", "hardness"), [(None, HARDNESS), (ROWS, 0.0)], ids=["unset", "hardness_0"]
)
def test_draws_are_even_without_embeddings_and_without_hardness(rows, hardness):
    sampler = sampler_of(rows, hardness=hardness)
    even = {"choices": 1, "hardness": 0.0}
    found = draws(data.triplets, sampler, by="label")
    assert_follow(found[:, [0, 1]], others_of_its_class, **even)
    assert_follow(found[:, [0, 2]], of_other_classes, **even)


def test_draws_by_instance_follow_the_probabilities_of_all_draws_of_candidates():
    found = draws(data.triplets, sampler_of())
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    assert_follow(found[:, [0, 2]], others, choices=3, hardness=HARDNESS)


def test_draws_by_label_take_near_negatives_and_far_positives():
    found = draws(data.triplets, sampler_of(), by="label")
    assert_follow(found[:, [0, 2]], of_other_classes, choices=3, hardness=HARDNESS)
    assert_follow(found[:, [0, 1]], others_of_its_class, choices=3, hardness=-HARDNESS)


def test_pairs_by_label_take_far_positives():
    found = draws(data.pairs, sampler_of(), by="label")
    assert_follow(found, others_of_its_class, choices=3, hardness=-HARDNESS)


def test_draws_of_many_candidates_follow_the_softmax_over_all():
    # 2048 draws of 11 candidates hold each 186 times, +- 13. The expected share of one is then its softmax p times
    # 1 + b, |b| <= max(w) / mean(w) / 2048 < 11 / 2048, which adds less than n b^2 = 0.01 to a chi-square of 10.
    found = draws(data.triplets, sampler_of(choices=2048), epochs=400)
    assert_follow(found[:, [0, 2]], others, choices=None, hardness=HARDNESS)


def test_very_hard_draws_take_the_nearest_negative_and_the_farthest_positive():
    # Of 256 candidates among 11 one is missing with probability 11 (10/11)^256 = 3e-10, and a hardness of 1e6
    # leaves the second nearest no chance: the cosines differ by 2e-4 or more, the logits by 200.
    assert np.diff(np.sort(COSINE, axis=1), axis=1).min() > 2e-4
    sampler = sampler_of(hardness=1e6, choices=256)
    found = draws(data.triplets, sampler, epochs=5, by="label")
    for anchor, positive, negative in found:
        negatives, positives = of_other_classes(anchor), others_of_its_class(anchor)
        assert negative == max(negatives, key=lambda j: COSINE[anchor, j])
        assert positive == min(positives, key=lambda j: COSINE[anchor, j])


# ---- of what


def test_draws_are_a_function_of_seed_epoch_step_and_embeddings():
    part = part_of(100)
    rows = np.random.default_rng(0).normal(size=(100, 3))

    def ids(rows=rows, **options):
        sampler = sampler_of(rows, part=part)
        return read(data.triplets(part, 25, sampler=sampler, **options))[1]

    first = ids(seed=1, epoch=1)
    np.testing.assert_array_equal(ids(seed=1, epoch=1), first)
    np.testing.assert_array_equal(ids(seed=1, epoch=1, step=2), first[2:])
    np.testing.assert_array_equal(ids(2 * rows, seed=1, epoch=1), first)
    for other in (
        ids(seed=2, epoch=1),
        ids(seed=1, epoch=2),
        ids(-rows[::-1], seed=1, epoch=1),
    ):
        # The anchor's neighbours are others now; a few draws agree by chance.
        assert np.mean(other[..., 2] == first[..., 2]) < 0.9


def test_new_embeddings_change_the_next_pass_of_the_same_dataset():
    sampler = sampler_of(None, hardness=1e5, choices=256)
    dataset = data.triplets(PART, N, sampler=sampler)
    nearest = []
    for seed in range(2):
        rows = np.random.default_rng(seed).normal(size=(N, 3))
        sampler.set_embeddings(rows)
        units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosine = units @ units.T - 3 * np.eye(N)
        ids = read(dataset)[1].reshape(-1, 3)
        np.testing.assert_array_equal(ids[:, 2], cosine.argmax(axis=1)[ids[:, 0]])
        nearest.append(cosine.argmax(axis=1))
    assert np.any(nearest[0] != nearest[1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((N - 1, 3)), r"`array` must have shape \(12, dim\).*\(11, 3\)"),
        (np.ones(N), r"`array` must have shape \(12, dim\).*\(12,\)"),
        (np.full((N, 2), np.nan), "`array` must be finite"),
        (np.full((N, 2), np.inf), "`array` must be finite"),
    ],
    ids=["rows", "rank", "nan", "inf"],
)
def test_embeddings_that_do_not_fit_are_refused_and_the_old_ones_stay(array, message):
    sampler = sampler_of()
    before = sampler.embeddings.numpy()
    with pytest.raises(ValueError, match=message):
        sampler.set_embeddings(array, epoch=3)
    np.testing.assert_array_equal(sampler.embeddings.numpy(), before)
    assert int(sampler.epoch) == -1


@pytest.mark.parametrize("make", [data.triplets, data.pairs])
def test_sampler_of_something_else_is_refused(make):
    sampler = sampler_of(None)
    stream = tf.data.Dataset.from_tensor_slices((numbered(N), LABELS))
    with pytest.raises(ValueError, match=r"it knows 12 examples. Received: a stream"):
        make(data.Stream(stream, channels=1), 5, by="label", sampler=sampler)
    with pytest.raises(
        ValueError, match=r"it knows 12 examples. Received: 50 examples"
    ):
        make(part_of(50), 5, by="label", sampler=sampler)
    with pytest.raises(
        ValueError, match=r"must be a `data.HardSampler`. Received: str"
    ):
        make(PART, 5, by="label", sampler="hard")


def test_pairs_by_instance_refuse_a_sampler():
    with pytest.raises(
        ValueError, match=r'`sampler` has nothing to choose .*by="instance"'
    ):
        data.pairs(PART, 5, sampler=sampler_of(None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hardness": -1.0}, "`hardness` must be a finite number >= 0"),
        ({"hardness": np.inf}, "`hardness` must be a finite number >= 0"),
        ({"choices": 0}, "`choices` must be an integer >= 1"),
        ({"part": 0}, "`part` must be an integer >= 1"),
    ],
    ids=str,
)
def test_option_of_the_sampler_out_of_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.HardSampler(**{"part": PART, **options})


def test_sampler_of_a_number_is_that_of_a_part():
    for number in (N, np.int64(N)):
        assert data.HardSampler(number).size == data.HardSampler(PART).size == N


# ---- refreshed by a model, from epoch to epoch

TRAIN = data.Part(images(40), np.arange(40) % 5)
STEPS = 5  # of 8 images


def training_sampler():
    return data.HardSampler(TRAIN, hardness=20.0, choices=16)


def triplets(sampler, epoch, step=0):
    return data.triplets(TRAIN, 8, by="label", sampler=sampler, epoch=epoch, step=step)


def train(directory, *, cut=None, epochs=3, every=2, saved=True, callbacks=()):
    """What a script does: build all, restore, the rest of the cut epoch, the other epochs. Returns the weights."""
    model, sampler = small_model(), training_sampler()
    checkpoint = RunCheckpoint(directory, every=1, sampler=sampler if saved else None)
    epoch, step = divmod(checkpoint.restore(model), STEPS)
    refresh = RefreshEmbeddings(sampler, TRAIN, every=every, batch_size=16)
    cuts = [] if cut is None else [CutAfter(cut)]
    options = {
        "callbacks": [*callbacks, refresh, checkpoint, *cuts],
        "verbose": 0,
        "shuffle": False,
    }
    if step:
        model.fit(
            triplets(sampler, epoch, step),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=STEPS - step,
            **options,
        )
        epoch += 1
    if epoch < epochs:
        model.fit(
            triplets(sampler, epoch), initial_epoch=epoch, epochs=epochs, **options
        )
    return weights_of(model)


@pytest.fixture(scope="module")
def by_hand():
    """A run refreshed every second epoch without the callback, and what `predict` gave at each epoch's start."""
    keras.utils.set_random_seed(0)
    model, sampler = small_model(), training_sampler()
    features = []
    for epoch in range(3):
        features.append(model.predict(TRAIN.images, verbose=0))
        if epoch % 2 == 0:
            sampler.set_embeddings(features[epoch])
        model.fit(
            triplets(sampler, epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            shuffle=False,
        )
    model.reset_metrics()  # as `RunCheckpoint` does: on Keras 2.15 they are among the weights
    return features, weights_of(model)


class Recorded(data.HardSampler):
    def __init__(self, part):
        super().__init__(part)
        self.given = []

    def set_embeddings(self, array, *, epoch=-1):
        self.given.append((epoch, np.array(array)))
        super().set_embeddings(array, epoch=epoch)


def assert_equal_weights(found, expected):
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_refreshed_run_draws_by_the_model_of_the_epochs_start(tmp_path, by_hand):
    features, weights = by_hand
    recorded = Recorded(TRAIN)
    # Beside the sampler that the run draws by, every second epoch.
    found = train(tmp_path, callbacks=[RefreshEmbeddings(recorded, TRAIN)])
    assert_equal_weights(found, weights)
    assert [epoch for epoch, _ in recorded.given] == [0, 1, 2]
    for epoch, given in recorded.given:
        # Batches of other sizes add up in another order.
        np.testing.assert_allclose(given, features[epoch], rtol=1e-4, atol=1e-5)
    assert np.abs(features[2] - features[0]).max() > 0.1


@pytest.mark.parametrize("cut", [3, 8], ids=["refreshed", "kept"])
def test_resumed_run_draws_by_the_embeddings_it_was_cut_with(tmp_path, by_hand, cut):
    with pytest.raises(Cut):
        train(tmp_path, cut=cut)
    assert_equal_weights(train(tmp_path), by_hand[1])


def test_run_resumed_without_its_sampler_draws_other_examples(tmp_path, by_hand):
    with pytest.raises(Cut):
        train(tmp_path, cut=8)
    found = train(tmp_path, saved=False)
    assert any(np.any(one != other) for one, other in zip(found, by_hand[1]))


def test_refresh_of_another_part_or_a_wrong_interval_is_refused():
    sampler = training_sampler()
    with pytest.raises(ValueError, match=r"of this part, 12 examples.*one of 40"):
        RefreshEmbeddings(sampler, PART)
    with pytest.raises(ValueError, match="`every` must be an integer >= 1"):
        RefreshEmbeddings(sampler, TRAIN, every=0)
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1"):
        RefreshEmbeddings(sampler, TRAIN, batch_size=0)
