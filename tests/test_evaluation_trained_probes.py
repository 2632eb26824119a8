"""`evaluation.sgd_probe` and `evaluation.fine_tune`."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_contrastive import augment, data, encoders, losses
from keras_contrastive.evaluation import fine_tune, sgd_probe
from keras_contrastive.evaluation._images import stratified_rows
from keras_contrastive.evaluation._training import Plan
from keras_contrastive.model import ContrastiveModel


def grey(count, noise, seed=0):
    """uint8 images `(count, 4, 4, 1)` of classes 3 and 7: the upper half is brighter, or the lower one."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([3, 7], count)
    images = 128 + rng.normal(0, noise, (count, 4, 4, 1))
    images[labels == 3, :2] += 30
    images[labels == 7, 2:] += 30
    return np.clip(images, 0, 255).astype(np.uint8), labels


def task(noise=20):
    """Train and test images and labels; with noise 20 separable, with 200 hardly."""
    return *grey(80, noise), *grey(60, noise, seed=1)


def encoder(*layers) -> keras.Model:
    layers = layers or (keras.layers.Dense(8),)
    return keras.Sequential(
        [keras.layers.Input((4, 4, 1)), keras.layers.Flatten(), *layers]
    )


def blind_encoder() -> keras.Model:
    """Its one feature is the mean of all pixels, which says nothing of the class."""
    model = encoder(keras.layers.Dense(4, name="dense"))
    model.layers[-1].set_weights([np.full((16, 4), 1 / 16), np.zeros(4)])
    return model


def state(model) -> list[np.ndarray]:
    """Weights, and on Keras 3 the seeds of layers that draw."""
    return [variable.numpy() for variable in model.variables]


def assert_same_state(before, after):
    assert len(before) == len(after)
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one, other)


def numpy_probe(train, labels, test, rate, epochs) -> np.ndarray:
    """Full batches of SGD with momentum 0.9 and a cosine, in float64: the classes of the test rows."""
    mean, spread = train.mean(0), train.std(0)
    train, test = ((rows.astype(float) - mean) / spread for rows in (train, test))
    classes, codes = np.unique(labels, return_inverse=True)
    weights = np.zeros((train.shape[1] + 1, len(classes)))  # the last row: the bias
    velocity = np.zeros_like(weights)
    rows = np.c_[train, np.ones(len(train))]
    for step in range(epochs):
        scores = np.exp(rows @ weights)
        error = scores / scores.sum(1, keepdims=True) - np.eye(len(classes))[codes]
        falling = rate * (1 + np.cos(np.pi * step / epochs)) / 2
        velocity = 0.9 * velocity - falling * rows.T @ error / len(rows)
        weights += velocity
    return classes[(np.c_[test, np.ones(len(test))] @ weights).argmax(1)]


def test_sgd_probe_of_full_batches_equals_a_loop_in_numpy():
    rng = np.random.default_rng(0)
    # Features of very different scale, and classes that overlap.
    train, test = (
        (rng.normal(5, 1, (n, 6)) * 10.0 ** np.arange(-3, 3)).astype(np.float32)
        for n in (90, 500)
    )
    labels, test_labels = rng.choice([2, 5, 11], 90), rng.choice([2, 5, 11], 500)
    identity = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.Activation("linear")]
    )
    result = sgd_probe(
        identity,
        train,
        labels,
        test,
        test_labels,
        epochs=15,
        batch_size=500,
        learning_rate=0.5,
    )
    expected = numpy_probe(train, labels, test, 0.5, 15)
    assert len(np.unique(expected)) == 3
    # Two of 500 may lie so near a boundary that float32 decides otherwise.
    assert np.mean(result.predictions == expected) >= 0.996
    assert result.accuracy == np.mean(result.predictions == test_labels)


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
def test_probe_of_separable_classes_is_right_and_of_noise_is_chance(probe):
    images, labels, test, test_labels = task()
    result = probe(encoder(), images, labels, test, test_labels)
    np.testing.assert_array_equal(result.predictions, test_labels)
    assert result.accuracy == 1.0
    (noise, _), (test, test_labels) = grey(80, 1000, seed=2), grey(60, 1000, seed=3)
    # 60 fair coins: beyond 0.5 +- 0.25 once in ten thousand.
    assert 0.25 < probe(encoder(), noise, labels, test, test_labels).accuracy < 0.75


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
def test_probe_counts_images_of_a_class_that_is_not_trained_on_as_wrong(probe):
    images, labels, test, test_labels = task()
    some = np.where(np.arange(60) < 15, 5, test_labels)
    assert probe(encoder(), images, labels, test, some[:, None]).accuracy == 0.75


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
def test_probe_takes_bytes_as_floats_in_0_to_1_and_a_contrastive_model_as_its_encoder(
    probe,
):
    images, labels, test, test_labels = task(noise=200)
    model = encoder()
    expected = probe(model, images, labels, test, test_labels)
    assert 0.5 < expected.accuracy < 1
    floats = probe(model, images / 255.0, labels, test / np.float32(255), test_labels)
    np.testing.assert_array_equal(floats.predictions, expected.predictions)
    whole = ContrastiveModel(model, losses.NTXentLoss(), head=keras.layers.Dense(4))
    of_model = probe(whole, images, labels, test, test_labels)
    np.testing.assert_array_equal(of_model.predictions, expected.predictions)


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
def test_probe_follows_from_its_seed_and_leaves_global_random_state(probe):
    arrays = task(noise=200)
    model = encoder(keras.layers.Dense(8), keras.layers.BatchNormalization())

    def drawn():
        layer = keras.layers.Dense(2)
        layer.build((None, 2))
        first = layer.get_weights()[0]
        return (
            random.random(),
            np.random.rand(),
            tf.random.uniform([]).numpy(),
            *first.flat,
        )

    keras.utils.set_random_seed(5)
    expected = drawn()
    keras.utils.set_random_seed(5)
    results = [
        probe(model, *arrays, epochs=3, batch_size=16, seed=seed) for seed in (1, 1, 2)
    ]
    assert drawn() == expected
    np.testing.assert_array_equal(results[0].predictions, results[1].predictions)
    assert (results[0].predictions != results[2].predictions).any()


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
def test_probe_trains_on_augmented_floats_with_a_key_for_each_step(probe):
    images, labels, test, test_labels = task()
    seen = []

    def swapped(images, key):
        def note(images, key):
            seen.append((images.dtype, images.shape, images.max(), *key))
            return images[:, ::-1]

        drawn = tf.numpy_function(note, [images, key], tf.float32)
        return tf.ensure_shape(drawn, images.shape)

    options = {"epochs": 30, "batch_size": 32, "learning_rate": 0.05, "seed": 9}
    result = probe(
        encoder(), images, labels, test, test_labels, augment=swapped, **options
    )
    assert result.accuracy < 0.1  # upside down it has learned, and is tested upright
    assert [entry[3:] for entry in seen] == [(9, step) for step in range(60)]
    assert {entry[:2] for entry in seen} == {(np.dtype("float32"), (32, 4, 4, 1))}
    assert all(0.5 < entry[2] <= 1 for entry in seen)


def test_probe_takes_a_recipe():
    recipe = augment.Recipe([augment.RandomFlip()])  # left and right say nothing here
    assert sgd_probe(encoder(), *task(), augment=recipe).accuracy == 1.0


@pytest.mark.parametrize(
    ("probe", "expected"), [(sgd_probe, {False}), (fine_tune, {False, True})]
)
def test_encoder_predicts_in_sgd_probe_and_trains_in_fine_tune(probe, expected):
    modes = set()

    class Watching(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training is not None:
                modes.add(training)
            return inputs

    model = encoder(Watching(), keras.layers.Dense(4))
    modes.clear()
    probe(model, *task(), augment=lambda images, key: images, epochs=1)
    assert modes == expected


def test_sgd_probe_leaves_an_encoder_with_batch_statistics_and_dropout_as_it_was():
    model = encoder(
        keras.layers.Dense(8),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
    )
    before = state(model)
    sgd_probe(model, *task(), augment=lambda images, key: images, epochs=1)
    assert_same_state(before, state(model))


def test_fine_tune_changes_features_that_a_linear_probe_can_only_take_as_they_are():
    images, labels, test, test_labels = task()
    model = blind_encoder()
    assert sgd_probe(model, images, labels, test, test_labels).accuracy < 0.75
    assert fine_tune(model, images, labels, test, test_labels).accuracy == 1.0
    model.trainable = False
    assert fine_tune(model, images, labels, test, test_labels).accuracy == 1.0
    assert not model.trainable_variables


def interrupted(self, batches=Plan.batches):
    for step, rows in enumerate(batches(self)):
        if step == 3:
            raise KeyboardInterrupt
        yield rows


@pytest.mark.parametrize("ends", ["by itself", "by Ctrl-C"])
def test_fine_tune_leaves_the_encoder_as_it_was(monkeypatch, ends):
    inner = keras.Sequential(
        [
            keras.layers.Input((16,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
        ]
    )
    model = encoder(inner, keras.layers.Dropout(0.5), keras.layers.Dense(4))
    inner.layers[1].trainable = False
    model.layers[-1].trainable = False
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse", jit_compile=False)
    inputs = np.random.default_rng(0).random((8, 4, 4, 1), np.float32)
    model.fit(inputs, np.zeros((8, 4)), verbose=0)
    optimizer = model.optimizer
    trained = [path.shape for path in model.trainable_variables]
    before = state(model), [variable.numpy() for variable in optimizer.variables]
    changed = []
    assign = keras.optimizers.Adam.apply_gradients

    def noting(self, pairs, *args, **kwargs):
        pairs = list(pairs)
        changed.extend(variable for _, variable in pairs)
        return assign(self, pairs, *args, **kwargs)

    monkeypatch.setattr(keras.optimizers.Adam, "apply_gradients", noting)
    if ends == "by Ctrl-C":
        monkeypatch.setattr(Plan, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(model, *task(), epochs=2, batch_size=8)
    else:
        fine_tune(model, *task(), epochs=2, batch_size=8)
    assert len(changed) == 6 + 2  # kernels and biases, gamma and beta; the classifier's
    assert_same_state(before[0], state(model))
    assert model.optimizer is optimizer
    assert_same_state(before[1], [variable.numpy() for variable in optimizer.variables])
    assert [path.shape for path in model.trainable_variables] == trained
    flags = [
        layer.trainable for layer in (model, inner, *inner.layers, *model.layers[-2:])
    ]
    assert flags == [True, True, True, False, True, False]


def test_fine_tune_of_a_share_equals_fine_tune_of_these_rows():
    images, labels, test, test_labels = task(noise=200)
    model = encoder()
    kept = stratified_rows((labels == 7).astype(int), 0.25, seed=4)
    share = fine_tune(
        model, images, labels, test, test_labels, share=0.25, seed=4, epochs=20
    )
    rows = fine_tune(
        model, images[kept], labels[kept], test, test_labels, seed=4, epochs=20
    )
    np.testing.assert_array_equal(share.predictions, rows.predictions)
    whole = fine_tune(model, images, labels, test, test_labels, seed=4, epochs=20)
    assert (share.predictions != whole.predictions).any()


def test_shares_are_stratified_and_lie_within_one_another():
    codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 50, 3]))
    shares = {
        share: stratified_rows(codes, share, seed=0) for share in (0.01, 0.1, 0.5, 1.0)
    }
    counts = {
        share: np.bincount(codes[rows]).tolist() for share, rows in shares.items()
    }
    assert counts == {
        0.01: [2, 1, 1],
        0.1: [20, 5, 1],
        0.5: [100, 25, 2],
        1.0: [200, 50, 3],
    }
    nested = list(shares.values())
    assert all(set(small) < set(large) for small, large in zip(nested, nested[1:]))
    assert set(stratified_rows(codes, 0.1, seed=1)) != set(shares[0.1])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_fine_tune_under_mixed_precision_learns(policy):
    keras.mixed_precision.set_global_policy(policy)
    model = blind_encoder()
    before = state(model)
    assert fine_tune(model, *task()).accuracy == 1.0
    assert_same_state(before, state(model))


def test_fine_tune_counts_what_layers_add_to_the_loss():
    penalty = keras.regularizers.L2(1e4)  # leaves nothing of the kernel
    model = encoder(keras.layers.Dense(4, kernel_regularizer=penalty))
    result = fine_tune(model, *task(), learning_rate=0.01)
    assert len(np.unique(result.predictions)) == 1


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(200, 600), (1, 800)],
    ids=["600 steps are more", "10 epochs are more"],
)
def test_fine_tune_by_itself_takes_enough_steps(batch_size, expected):
    steps = []

    def counting(images, key):
        with tf.control_dependencies([tf.numpy_function(steps.append, [key[1]], [])]):
            return tf.identity(images)

    fine_tune(encoder(), *task(), augment=counting, batch_size=batch_size)
    assert len(steps) == expected


def test_fine_tune_of_digits_exceeds_97_percent():
    source = data.load("digits")
    train, test = source.train, source.test
    model = encoders.small_conv_net(train.images.shape[1:])
    arrays = train.images, train.labels, test.images, test.labels
    whole = fine_tune(model, *arrays, epochs=10, learning_rate=3e-3)
    assert whole.accuracy > 0.97
    # Of a digit of each class, or two: far above chance, a tenth, and below the whole.
    few = fine_tune(model, *arrays, share=0.01, epochs=100)
    assert 0.4 < few.accuracy < 0.9


@pytest.mark.parametrize("probe", [sgd_probe, fine_tune])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_labels": np.zeros(4, int)},
            r"`train_labels` must hold one label for each .*\(4,\)",
        ),
        (
            {"test_labels": np.zeros(60)},
            r"`test_labels` must be integers >= 0.*dtype=float64",
        ),
        (
            {"train_labels": np.arange(80) - 2},
            r"leave out .* unknown class \(-1\)\. Received: 2 of 80",
        ),
        (
            {"train_labels": np.full(80, 4)},
            r"`train_labels` must hold at least two classes.* class 4 alone",
        ),
        (
            {"train_images": np.zeros((0, 4, 4, 1))},
            r"`train_images` must hold at least one image",
        ),
        (
            {"test_images": np.zeros((60, 4, 4, 1), int)},
            r"`test_images` must be uint8 .*dtype=int64",
        ),
        (
            {"train_images": np.full((80, 4, 4, 1), np.nan)},
            r"finite features.* 80 of 80 rows",
        ),
        (
            {"test_images": np.full((60, 4, 4, 1), np.nan)},
            r"Outputs for `test_images` are not finite",
        ),
        (
            {
                "encoder": keras.Sequential(
                    [keras.layers.Input((4, 4, 1)), keras.layers.Conv2D(2, 1)]
                )
            },
            r"must give features \(n, dim\)\. Received: features of shape \(None, 4, 4, 2\)",
        ),
        ({"epochs": 0}, r"`epochs` must be an integer >= 1"),
        ({"batch_size": 2.5}, r"`batch_size` must be an integer >= 1"),
        ({"learning_rate": 0}, r"`learning_rate` must be a finite number > 0"),
        ({"seed": -1}, r"`seed` must be an integer >= 0"),
        ({"augment": "weak"}, r"`augment` must be an `augment.Recipe`"),
        (
            {"augment": augment.Recipe([augment.Normalize([0.5], [0.5])])},
            r"must not end in `Normalize`",
        ),
        (
            {"augment": augment.Recipes([augment.Recipe([augment.RandomFlip()])])},
            r"one view of each image: 64 images of rank 4\. Received: \(64, 2, 4, 4, 1\)\. Of `augment.Recipes`",
        ),
        (
            {"augment": lambda images, key: images[:1]},
            r"must give one view of each image.* \(1, 4, 4, 1\)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_probe_of_what_cannot_work_is_refused(probe, change, message):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arguments = {
        "encoder": encoder(),
        "batch_size": 64,
        "epochs": 1,
        **dict(zip(names, task())),
    }
    with pytest.raises(ValueError, match=message):
        probe(**{**arguments, **change})


def test_fine_tune_of_an_impossible_share_or_of_no_weights_is_refused():
    for share, message in (
        (1.5, "`share` must be at most 1"),
        (0.0, "`share` must be a finite number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            fine_tune(encoder(), *task(), share=share)
    with pytest.raises(ValueError, match="`encoder` must have weights to train"):
        fine_tune(encoder(keras.layers.Activation("relu")), *task())
