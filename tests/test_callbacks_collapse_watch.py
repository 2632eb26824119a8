"""`callbacks.CollapseWatch`: it tells a collapse from a good run on real digits, and leaves the training alone."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive.callbacks import CollapseWatch


@pytest.fixture(scope="module")
def digits():
    return kc.data.load("digits")


def recipe(name, **options) -> kc.ContrastiveModel:
    """A method as the training script builds it for a short run on digits."""
    keras.utils.set_random_seed(0)
    entry = kc.recipes.get(name)
    return entry.make(
        kc.encoders.small_conv_net((16, 16, 1)),
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.0,
        batch_size=128,
        augment=kc.augment.digits(16),
        steps=40,
        **{**entry.options, **options},
    )


def simsiam_with_both_gradients() -> kc.ContrastiveModel:
    """The same value, 2 - 2 cos, but the target learns as well."""
    model = recipe("simsiam")
    loss = kc.losses.AlignmentUniformityLoss(uniformity_weight=0)
    other = kc.ContrastiveModel(
        model.encoder,
        kc.ContrastiveLossLayer(loss, weight=0.5),
        head=model.head,
        predictor=model.predictor,
        target=kc.targets.SharedTarget(),
        augment=model.augment,
    )
    other.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return other


GOOD = {
    "simsiam": lambda: recipe("simsiam"),
    "swav": lambda: recipe("swav"),  # the fewest directions of the good ones
}
BROKEN = {
    "simsiam-both-gradients": simsiam_with_both_gradients,
    "barlow_twins-no-redundancy": lambda: recipe(
        "barlow_twins", redundancy_weight=1e-6
    ),
}


def fit(model, digits, watch, epochs=2):
    dataset = kc.data.batches(digits.train, 128)
    return model.fit(
        dataset, epochs=epochs, verbose=0, shuffle=False, callbacks=[watch]
    ).history


@pytest.mark.parametrize("name", list(GOOD))
def test_watch_is_silent_in_a_good_run_on_digits(digits, name):
    watch = CollapseWatch(digits.test.images, stop=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(GOOD[name](), digits, watch)
    assert watch.reason is None
    assert not [each for each in caught if "collapsed" in str(each.message)]
    assert len(history["projection_rank"]) == 2  # both epochs were trained


@pytest.mark.parametrize("name", list(BROKEN))
def test_watch_stops_a_collapse_on_digits_within_two_epochs(digits, name):
    watch = CollapseWatch(digits.test.images, stop=True)
    with pytest.warns(UserWarning, match="projection_rank is .* Try: ") as caught:
        history = fit(BROKEN[name](), digits, watch, epochs=4)
    assert len([each for each in caught if "collapsed" in str(each.message)]) == 1
    assert len(history["loss"]) <= 2
    assert watch.reason.startswith(f"epoch {len(history['loss'])}: projection_rank")


class Rows(keras.layers.Layer):
    """Features of images: a table of rows by the number in the first pixel, and a scale that is trained."""

    def __init__(self, table):
        super().__init__()
        self.table = tf.constant(table, tf.float32)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")

    def call(self, images):
        rows = tf.gather(self.table, tf.cast(images[:, 0, 0, 0], tf.int32))
        return rows * tf.convert_to_tensor(self.scale)


COUNT = 64
IMAGES = np.arange(COUNT, dtype=np.uint8)[:, None, None, None]


def rows_of(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(COUNT, 12))
    return {
        "spread": spread,
        # A large part in common, as behind a ReLU, is no collapse.
        "common part": np.abs(spread) + 4,
        "point": 1 + 1e-3 * spread,
        "line": spread[:, :1] * rng.normal(size=12) + 0.05 * spread,
        "same": np.ones((COUNT, 12)),
        "nan": np.full((COUNT, 12), np.nan),
    }[kind]


def watched(table, **options):
    """The watch after one epoch of a model whose features are this table; and what it logged."""
    model = keras.Sequential([keras.Input((1, 1, 1)), Rows(table)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse", jit_compile=False)
    watch = CollapseWatch(IMAGES, batch_size=10, **options)
    targets = np.zeros((COUNT, 12), np.float32)
    history = model.fit(IMAGES, targets, epochs=3, verbose=0, callbacks=[watch]).history
    return watch, history


@pytest.mark.parametrize("kind", ["spread", "common part"])
def test_watch_logs_std_and_rank_of_a_plain_model(kind):
    rows = rows_of(kind)
    watch, history = watched(rows)
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    shares = variances / variances.sum()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert watch.reason is None
    # Features are float32.
    assert history["feature_rank"] == pytest.approx(
        3 * [np.exp(-(shares * np.log(shares)).sum())], rel=1e-4
    )
    assert history["feature_std"] == pytest.approx(
        3 * [unit.std(axis=0).mean() * np.sqrt(12)], rel=1e-4
    )
    assert "projection_rank" not in history


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("point", r"feature_std is 0.001, below min_std=0.03: all images are near"),
        ("same", r"feature_std is 0.000, below min_std=0.03"),
        ("line", r"feature_rank is 1\.\d+, below min_rank=2.4: hardly any"),
        ("nan", r"feature_std is nan, as the numbers are not finite"),
    ],
)
def test_watch_of_collapsed_features_warns_once_and_trains_on(kind, message):
    with pytest.warns(UserWarning, match=message) as caught:
        watch, history = watched(rows_of(kind))
    assert len([each for each in caught if "collapsed" in str(each.message)]) == 1
    assert watch.reason.startswith("epoch 1: ")
    assert len(history["loss"]) == 3


@pytest.mark.parametrize("similarity", [0.6, 0.9], ids=["differ", "agree"])
def test_few_directions_are_a_collapse_where_the_views_of_an_image_agree(similarity):
    model = keras.Sequential([keras.Input((1, 1, 1)), Rows(rows_of("line"))])
    watch = CollapseWatch(IMAGES)
    watch.set_model(model)
    watch.on_train_begin()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.on_epoch_end(0, {"positive_similarity": similarity})
    assert bool(caught) == (watch.reason is not None) == (similarity > 0.65)


def test_few_directions_that_become_more_are_no_collapse():
    watch = CollapseWatch(IMAGES)
    watch.untrained = {"feature_std": 1.0, "feature_rank": 5.0}
    measured = [{"feature_std": 1.0, "feature_rank": rank} for rank in (1.8, 2.0, 1.9)]
    assert watch.judge(measured[1], measured[0]) is None
    assert "below min_rank=2.4" in watch.judge(measured[2], measured[1])


def test_watch_asked_to_stop_ends_after_the_epoch_of_the_finding():
    with pytest.warns(UserWarning, match="in epoch 2: "):
        watch, history = watched(rows_of("same"), stop=True, every=2)
    assert len(history["loss"]) == 2
    assert watch.reason.startswith("epoch 2: ")


def test_watch_with_lower_bounds_lets_a_line_pass():
    watch, _ = watched(rows_of("line"), min_rank=1.0)
    assert watch.reason is None


def test_watch_compares_with_the_untrained_model_of_the_first_fit():
    model = keras.Sequential([keras.Input((1, 1, 1)), Rows(rows_of("spread"))])
    watch = CollapseWatch(IMAGES, min_rank=0.0, min_share=0.5)
    watch.set_model(model)
    watch.on_train_begin()
    watch._embed = lambda batch: [rows_of("line")]
    watch.set_model(model)  # as a second `fit` does
    watch.on_train_begin()
    with pytest.warns(
        UserWarning, match=r"below min_share=0.5 of the \d+.\d\d before training"
    ):
        watch.on_epoch_end(0, {})


def small_model(dropout=0.5, **options) -> kc.ContrastiveModel:
    drop = [keras.layers.Dropout(dropout)] if dropout else []
    encoder = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            *drop,
        ]
    )
    model = kc.ContrastiveModel(
        encoder, kc.losses.NTXentLoss(), head=kc.heads.mlp(6, hidden_dim=8), **options
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return model


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (48, 2, 4, 4, 1), np.uint8)


@pytest.mark.parametrize("dropout", [0.5, 0], ids=["dropout", "no dropout"])
def test_watch_leaves_the_training_as_it_would_have_been(images, dropout):
    weights = []
    for watching in (False, True):
        keras.utils.set_random_seed(3)  # of the initial weights, and of dropout
        model = small_model(dropout)
        callbacks = [CollapseWatch(images, batch_size=7)] if watching else []
        data = tf.data.Dataset.from_tensor_slices(images).batch(16)
        model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=callbacks)
        weights.append(model.get_weights())
    for without, with_watch in zip(*weights):
        np.testing.assert_array_equal(without, with_watch)


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
def test_watch_of_a_contrastive_model_takes_projections_before_normalisation(
    images, normalize
):
    model = small_model(normalize=normalize)
    watch = CollapseWatch(images, batch_size=7)
    watch.set_model(model)
    first = images[:, 0].astype(np.float32) / 255
    rows = model.head(model.encoder(first, training=False), training=False).numpy()
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    shares = variances / variances.sum()
    assert watch.measure()["projection_rank"] == pytest.approx(
        np.exp(-(shares * np.log(shares)).sum()), rel=1e-4
    )


def test_watch_measures_with_the_statistics_of_the_batch_too(images):
    model = small_model(dropout=0)
    watch = CollapseWatch(images)  # one batch
    watch.set_model(model)
    measures = watch.measure()
    dense, norm = model.encoder.layers[-2:]
    rows = images[:, 0].reshape(len(images), -1) / 255 @ np.asarray(dense.kernel)
    rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + norm.epsilon)
    variances = np.linalg.eigvalsh(np.cov(rows.T))
    shares = variances / variances.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert measures["feature_rank_in_batch"] == pytest.approx(expected, rel=1e-4)
    assert measures["feature_rank"] < 0.99 * expected  # by averages of no step yet
    np.testing.assert_array_equal(norm.moving_mean, np.zeros(8))
    assert watch.measure() == measures


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_watch_under_mixed_precision_measures_within_its_bounds(images, policy):
    keras.mixed_precision.set_global_policy(policy)
    watch = CollapseWatch(images)
    watch.set_model(small_model())
    measures = watch.measure()
    assert 1 < measures["feature_rank"] <= 8
    assert 1 < measures["projection_rank"] <= 6
    assert 0 < measures["projection_std"] <= 1.001  # rounding


def test_watch_traces_the_model_once(images):
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traced.append(inputs.shape)
            return inputs

    encoder = keras.Sequential(
        [keras.Input((4, 4, 1)), Counting(), keras.layers.Flatten()]
    )
    watch = CollapseWatch(images, batch_size=7)
    watch.set_model(
        kc.ContrastiveModel(encoder, kc.losses.NTXentLoss(), head=kc.heads.mlp(6))
    )
    before = len(traced)
    for _ in range(3):
        watch.measure()
    assert len(traced) == before + 2  # as it predicts, and by the statistics of a batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[:31]}, r"`images` must hold at least 32 images"),
        ({"min_rank": -1}, r"`min_rank` must be a finite number >= 0"),
        ({"min_share": float("nan")}, r"`min_share` must be a finite number >= 0"),
        ({"agreement": -2}, r"`agreement` must be a finite number >= -1"),
        ({"min_std": None}, r"`min_std` must be a finite number >= 0"),
        ({"every": 0}, r"`every` must be an integer >= 1"),
        ({"batch_size": 2.5}, r"`batch_size` must be an integer >= 1"),
    ],
    ids=["few", "rank", "share", "agreement", "std", "every", "batch_size"],
)
def test_watch_of_what_cannot_work_is_refused_before_training(change, message):
    with pytest.raises(ValueError, match=message):
        CollapseWatch(**{"images": IMAGES, **change})
