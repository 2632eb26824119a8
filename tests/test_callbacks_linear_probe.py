"""`callbacks.LinearProbe`: an online probe that leaves the training alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from keras_contrastive import losses
from keras_contrastive.callbacks import LinearProbe
from keras_contrastive.model import ContrastiveModel


def grey(count, noise, seed=0):
    """uint8 images `(count, 4, 4, 1)` of classes 3, 7 and 9: where a quarter of them is brighter."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([3, 7, 9], count)
    images = 100 + rng.normal(0, noise, (count, 4, 4, 1))
    for row, label in enumerate((3, 7, 9)):
        images[labels == label, row] += 60
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture
def parts():
    """Train and test images and labels, hardly separable."""
    return *grey(120, 100), *grey(90, 100, seed=1)


def model_of(*layers) -> keras.Model:
    """From bytes to 8 features, with everything that an inference pass could disturb."""
    return keras.Sequential(
        [
            keras.layers.Input((4, 4, 1)),
            *layers,
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def fit(model, epochs=1, rate=0.1, **options) -> dict:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (32, 4, 4, 1), np.uint8)
    targets = rng.normal(size=(32, 8)).astype(np.float32)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse", jit_compile=False)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, **options}
    return model.fit(images, targets, epochs=epochs, **options).history


def probe_of(model, *parts, **options) -> LinearProbe:
    probe = LinearProbe(*parts, **options)
    probe.set_model(model)
    return probe


def test_linear_probe_tends_to_the_logistic_regression_of_predicted_features(parts):
    train_images, train_labels, test_images, test_labels = parts
    model = model_of()
    # Features of very different scale: they are standardised.
    kernel, bias = model.layers[2].get_weights()
    model.layers[2].set_weights([kernel * 10.0 ** np.arange(-4, 4), bias + 5])
    train, test = (
        model.predict(images, verbose=0) for images in (train_images, test_images)
    )
    mean, spread = train.mean(0), train.std(0)
    regression = LogisticRegression(C=1e4, max_iter=1000)
    regression.fit((train - mean) / spread, train_labels)
    expected = regression.score((test - mean) / spread, test_labels)
    probe = probe_of(model, *parts)
    accuracy = [probe.measure() for _ in range(20)][-1]
    assert 0.4 < expected < 0.95
    assert accuracy == pytest.approx(
        expected, abs=0.05
    )  # 4 of 90 images: noise of steps


def test_linear_probe_of_separable_classes_is_right_and_of_noise_is_chance():
    images, labels = grey(120, 10)
    test, test_labels = grey(90, 10, seed=1)
    history = fit(
        model_of(),
        callbacks=[LinearProbe(images, labels, test, test_labels, passes=50)],
    )
    assert history["linear_probe_accuracy"] == [1.0]
    noise = grey(120, 1000, seed=2)[0]
    test, test_labels = grey(90, 1000, seed=3)
    accuracy = probe_of(model_of(), noise, labels, test, test_labels).measure()
    # 90 times a third: beyond 1/3 +- 0.2 once in ten thousand.
    assert 0.13 < accuracy < 0.53


def test_linear_probe_counts_images_of_a_class_that_is_not_trained_on_as_wrong():
    images, labels = grey(120, 10)
    test, test_labels = grey(90, 10, seed=1)
    unknown = np.where(np.arange(90) < 30, 5, test_labels)
    probe = probe_of(
        model_of(), images, labels[:, None], test, unknown[:, None], passes=50
    )
    assert probe.measure() == pytest.approx(2 / 3)


def test_linear_probe_without_test_part_holds_out_a_fifth_of_each_class():
    images = np.arange(56, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (4, 4, 1), np.uint8
    )
    labels = np.repeat([5, 1, 8, 2], [40, 10, 5, 1])
    probe = LinearProbe(images, labels, seed=3)
    held_out = probe.test_images[:, 0, 0, 0]
    np.testing.assert_array_equal(probe.test_labels, labels[held_out])
    assert np.bincount(probe.test_labels).tolist() == [0, 2, 0, 0, 0, 8, 0, 0, 1]
    kept = probe.train_images[:, 0, 0, 0]
    np.testing.assert_array_equal(probe.train_labels, labels[kept])
    assert sorted([*held_out, *kept]) == list(range(56))
    other = LinearProbe(images, labels, seed=4).test_images[:, 0, 0, 0]
    assert set(other) != set(held_out)


def test_linear_probe_goes_on_where_it_stood_and_begins_again_with_another_model(parts):
    # In full batches the order says nothing: twice 3 steps are 6 steps of layer and optimizer.
    model, twin = model_of(), model_of()
    twin.set_weights(model.get_weights())

    def weights(probe):
        return np.concatenate(
            [np.ravel(each) for each in probe._head.dense.get_weights()]
        )

    six = probe_of(model, *parts, passes=6, batch_size=200)
    six.measure()
    three = probe_of(model, *parts, passes=3, batch_size=200)
    three.measure()
    first = weights(three)
    three.set_model(model)
    three.measure()
    # float32 sums in another order; a step of Adam is up to 0.01.
    np.testing.assert_allclose(weights(three), weights(six), atol=1e-4)
    assert np.abs(weights(three) - first).max() > 0.01
    three.set_model(twin)
    three.measure()
    np.testing.assert_allclose(weights(three), first, atol=1e-4)


def test_linear_probe_leaves_the_training_as_it_would_have_been(parts):
    weights = []
    for callbacks in ([], [LinearProbe(*parts)]):
        keras.utils.set_random_seed(3)  # of the initial weights, and of dropout
        model = model_of()
        fit(model, epochs=3, callbacks=callbacks)
        after = keras.layers.Dense(3)
        after.build((None, 2))
        drawn = np.random.rand(1), tf.random.uniform([3]).numpy(), *after.get_weights()
        weights.append([*model.get_weights(), *drawn])
    for without, with_probe in zip(*weights):
        np.testing.assert_array_equal(without, with_probe)


def test_linear_probe_traces_model_and_step_once_for_all_epochs_and_batches(
    parts, monkeypatch
):
    traced, losses_traced = [], []

    class Counting(keras.layers.Layer):
        def call(self, inputs, training=False):
            if training is False:
                traced.append(inputs.shape)
            return inputs

    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits

    def counting(**arguments):
        losses_traced.append(arguments)
        return cross_entropy(**arguments)

    monkeypatch.setattr(tf.nn, "sparse_softmax_cross_entropy_with_logits", counting)
    model = model_of(Counting())
    built = len(traced)
    fit(model, epochs=3, callbacks=[LinearProbe(*parts, batch_size=7)])
    assert len(traced) == built + 1
    assert len(losses_traced) == 1


def test_linear_probe_of_every_second_epoch_is_seen_by_the_callbacks_behind_it(parts):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs.get("linear_probe_accuracy"))
    )
    history = fit(model_of(), epochs=4, callbacks=[LinearProbe(*parts, every=2), watch])
    assert [value is None for value in seen] == [True, False, True, False]
    assert history["linear_probe_accuracy"] == [seen[1], seen[3]]


def test_linear_probe_reads_datasets_as_arrays(parts):
    train_images, train_labels, test_images, test_labels = parts
    train = tf.data.Dataset.from_tensor_slices((train_images, train_labels)).batch(50)
    test = tf.data.Dataset.from_tensor_slices((test_images, test_labels)).batch(7)
    model = model_of()
    expected = probe_of(model, *parts).measure()
    assert probe_of(model, train, None, test).measure() == expected
    held_out = probe_of(model, train_images, train_labels).measure()
    assert probe_of(model, train).measure() == held_out != expected


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_linear_probe_under_mixed_precision_learns(policy):
    keras.mixed_precision.set_global_policy(policy)
    probe = LinearProbe(*grey(120, 10), *grey(90, 10, seed=1), passes=50)
    assert fit(model_of(), callbacks=[probe])["linear_probe_accuracy"][0] > 0.95


def test_linear_probe_of_a_contrastive_model_sees_its_features_of_bytes():
    encoder = keras.Sequential(
        [keras.layers.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(8)]
    )
    model = ContrastiveModel(encoder, losses.NTXentLoss(), normalize=True)
    probe = probe_of(model, *grey(120, 10), *grey(90, 10, seed=1), passes=50)
    assert probe.measure() > 0.95


def forever():
    return tf.data.Dataset.from_tensors((np.zeros((2, 4, 4, 1)), [0, 1])).repeat()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"every": 0}, r"`every` must be an integer >= 1"),
        ({"passes": 0}, r"`passes` must be an integer >= 1"),
        ({"batch_size": 2.5}, r"`batch_size` must be an integer >= 1"),
        ({"learning_rate": 0.0}, r"`learning_rate` must be a finite number > 0"),
        ({"seed": -1}, r"`seed` must be an integer >= 0"),
        (
            {"test_labels": np.zeros(4, int)},
            r"`test_labels` must hold one label .*\(4,\)",
        ),
        ({"test_labels": None}, r"`test_labels` must hold one label"),
        ({"test_images": None}, r"`test_images` must hold at least one image"),
        ({"train_labels": np.zeros(120, int)}, r"at least two classes"),
        ({"train_labels": np.arange(120) - 1}, r"leave out images of unknown class"),
        (
            {"train_images": np.zeros((0, 4, 4, 1))},
            r"`train_images` must hold at least one",
        ),
        ({"train_images": forever()}, r"must give batches \(images, labels\)"),
        (
            {"train_images": forever(), "train_labels": None},
            r"must end.* repeats for ever",
        ),
        (
            {
                "train_images": forever().map(lambda images, labels: images),
                "train_labels": None,
            },
            r"must give batches \(images, labels\).*element_spec=TensorSpec",
        ),
        (
            {"train_images": forever().take(0), "train_labels": None},
            r"an empty dataset",
        ),
        (
            {"test_images": np.zeros((90, 4, 4, 1))},
            r"one shape and dtype\. Received: uint8 \(4, 4, 1\) and float64 \(4, 4, 1\)",
        ),
        (
            {"train_labels": np.arange(120), "test_images": None, "test_labels": None},
            r"held out .* 120 images of as many classes",
        ),
    ],
)
def test_linear_probe_of_what_cannot_work_is_refused_before_training(
    parts, change, message
):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    with pytest.raises(ValueError, match=message):
        LinearProbe(**{**dict(zip(names, parts)), **change})
