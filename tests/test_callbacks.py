"""`keras_contrastive.callbacks`: what they add to a run, and that they leave the training alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_contrastive import augment, losses
from keras_contrastive.callbacks import KNNProbe, TensorBoardPictures
from keras_contrastive.model import ContrastiveModel
from tests.oracles import neighbours as oracle


@pytest.fixture
def parts():
    """Two classes of grey uint8 images, told apart by their brighter half, and not easily."""
    rng = np.random.default_rng(0)

    def draw(count):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 200, (count, 4, 4, 1))
        images[:, :, :2] += (labels * 25)[:, None, None, None]
        return images.astype(np.uint8), labels

    return *draw(50), *draw(30)


def plain_model() -> keras.Model:
    """With everything that an inference pass could disturb: dropout and batch statistics."""
    return keras.Sequential(
        [
            keras.layers.Input((4, 4, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def fit(model, epochs=1, **options):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (32, 4, 4, 1), np.uint8)
    targets = rng.normal(size=(32, 8)).astype(np.float32)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse", jit_compile=False)
    return model.fit(
        images,
        targets,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **options,
    )


def scalars(folder, tag) -> list[float]:
    events = EventAccumulator(str(folder)).Reload()
    return [float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]


def pictures(folder) -> list[np.ndarray]:
    """The pictures under the tag `views`, decoded, in the order of their steps."""
    events = sorted(
        EventAccumulator(str(folder)).Reload().Tensors("views"),
        key=lambda event: event.step,
    )
    encoded = [event.tensor_proto.string_val for event in events]
    assert all(len(parts) == 3 for parts in encoded)  # width, height and one PNG
    return [tf.io.decode_png(parts[2]).numpy() for parts in encoded]


@pytest.mark.parametrize("batch_size", [7, 256], ids=["uneven batches", "one batch"])
def test_knn_probe_logs_the_accuracy_of_predicted_features(parts, batch_size):
    model = plain_model()
    probe = KNNProbe(*parts, k=5, temperature=0.2, batch_size=batch_size)
    history = fit(model, callbacks=[probe]).history
    train_images, train_labels, test_images, test_labels = parts
    expected = oracle.knn_accuracy(
        model.predict(train_images, verbose=0),
        train_labels,
        model.predict(test_images, verbose=0),
        test_labels,
        k=5,
        temperature=0.2,
    )
    assert 0.5 < expected < 1
    assert history["knn_accuracy"] == [pytest.approx(expected)]


def test_knn_probe_leaves_the_training_as_it_would_have_been(parts):
    weights = []
    for callbacks in ([], [KNNProbe(*parts)]):
        keras.utils.set_random_seed(3)  # of the initial weights, and of dropout
        model = plain_model()
        fit(model, epochs=3, callbacks=callbacks)
        weights.append(model.get_weights())
    for without, with_probe in zip(*weights):
        np.testing.assert_array_equal(without, with_probe)


def test_knn_probe_traces_the_model_once_for_all_epochs_and_batches(parts):
    traced = []

    class Counting(keras.layers.Layer):
        def call(self, inputs, training=False):
            if training is False:
                traced.append(inputs.shape)
            return inputs

    model = keras.Sequential([keras.layers.Input((4, 4, 1)), Counting(), plain_model()])
    built = len(traced)
    fit(model, epochs=3, callbacks=[KNNProbe(*parts, batch_size=7)])
    assert len(traced) == built + 1


def test_knn_probe_is_seen_by_the_callbacks_behind_it(parts, tmp_path):
    train_images, _, test_images, _ = parts
    one_class = np.zeros(50, int), np.zeros(30, int)  # right from the first epoch on
    history = fit(
        plain_model(),
        epochs=5,
        callbacks=[
            KNNProbe(train_images, one_class[0], test_images, one_class[1]),
            keras.callbacks.TensorBoard(str(tmp_path)),
            keras.callbacks.EarlyStopping(
                monitor="knn_accuracy", mode="max", patience=2
            ),
        ],
    )
    # The first is the best, and two do not better it.
    assert history.history["knn_accuracy"] == [1.0, 1.0, 1.0]
    assert scalars(tmp_path / "train", "epoch_knn_accuracy") == [1.0, 1.0, 1.0]


def test_knn_probe_of_every_second_epoch_leaves_the_others_out(parts):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append("knn_accuracy" in logs)
    )
    fit(plain_model(), epochs=4, callbacks=[KNNProbe(*parts, every=2), watch])
    assert seen == [False, True, False, True]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_knn_probe_under_mixed_precision_logs_a_fraction(parts, policy):
    keras.mixed_precision.set_global_policy(policy)
    history = fit(plain_model(), callbacks=[KNNProbe(*parts, k=5)]).history
    assert (
        0.4 < history["knn_accuracy"][0] <= 1
    )  # above 0.4: chance is half, of 30 images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"k": 51},
            r"`k` must be at most the number of `train_images`, 50. Received: k=51",
        ),
        ({"every": 0}, r"`every` must be an integer >= 1"),
        ({"temperature": -1.0}, r"`temperature` must be a finite number > 0"),
        ({"batch_size": 2.5}, r"`batch_size` must be an integer >= 1"),
        (
            {"test_labels": np.zeros(4, int)},
            r"`test_labels` must hold one label .* 4 labels, 30 images",
        ),
        (
            {"train_images": np.zeros((0, 4, 4, 1))},
            r"`train_labels` must hold one label .* 0 images",
        ),
    ],
    ids=["k", "every", "temperature", "batch_size", "labels", "empty"],
)
def test_knn_probe_of_what_cannot_work_is_refused_before_training(
    parts, change, message
):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    with pytest.raises(ValueError, match=message):
        KNNProbe(**{**dict(zip(names, parts)), **change})


class WithViews(keras.Model):
    """What the callback asks of a model that makes views: here the negative, fainter by the step."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(8)
        self.augment = object()
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )

    def call(self, images):
        return self.dense(tf.reshape(tf.cast(images, tf.float32), [-1, 16]))

    def train_step(self, data):
        self.step.assign_add(1)
        return super().train_step(data)

    def make_views(self, images, step):
        images = tf.cast(images, tf.float32) / 255
        return tf.stack([images, (1 - images) / tf.cast(step + 1, tf.float32)], axis=1)


def tiles(sheet: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The tiles of a contact sheet of 4 x 4 images, enlarged 16 times with 2 pixels of gap on every side."""
    assert sheet.shape == (rows * 68, columns * 68, 1)
    cells = sheet.reshape(rows, 68, columns, 68)
    assert (cells[:, [0, 1, 66, 67]] == 255).all()
    assert (cells[:, :, :, [0, 1, 66, 67]] == 255).all()
    return cells[:, 2:66:16, :, 2:66:16].transpose(
        0, 2, 1, 3
    )  # one pixel for each one of the image


def test_tensorboard_pictures_shows_images_beside_their_views(parts, tmp_path):
    images = parts[0]
    fit(
        WithViews(),
        epochs=3,
        callbacks=[TensorBoardPictures(tmp_path, images, count=5, every=2)],
    )
    first, third = (
        tiles(sheet, 5, 3) for sheet in pictures(tmp_path)
    )  # of epochs 0 and 2
    for sheet, step in ((first, 0), (third, 4)):  # two steps to an epoch
        np.testing.assert_array_equal(sheet[:, 0], images[:5, ..., 0])
        np.testing.assert_array_equal(sheet[:, 1], images[:5, ..., 0])
        faint = (255 - images[:5, ..., 0].astype(float)) / (step + 1)
        np.testing.assert_allclose(
            sheet[:, 2], faint, atol=0.51
        )  # rounded to whole levels


def test_tensorboard_pictures_of_a_model_without_recipe_shows_the_views_of_the_batch(
    parts, tmp_path
):
    triplets = parts[0][:30].reshape(10, 3, 4, 4, 1)
    fit(plain_model(), callbacks=[TensorBoardPictures(tmp_path, triplets)])
    (sheet,) = pictures(tmp_path)
    np.testing.assert_array_equal(tiles(sheet, 8, 3), triplets[:8, ..., 0])


def test_tensorboard_pictures_of_large_photos_keeps_their_size(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (2, 96, 80, 3), np.uint8)
    fit(plain_model(), callbacks=[TensorBoardPictures(tmp_path, photos)])
    (sheet,) = pictures(tmp_path)
    assert sheet.shape == (200, 84, 3)
    np.testing.assert_array_equal(sheet[2:98, 2:82], photos[0])


def test_callbacks_of_a_contrastive_model_see_its_features_and_its_views(
    parts, tmp_path
):
    train_images, train_labels, test_images, test_labels = parts
    encoder = keras.Sequential(
        [keras.layers.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(8)]
    )
    recipe = augment.Recipe([augment.RandomFlip()])
    model = ContrastiveModel(encoder, losses.NTXentLoss(), augment=recipe, seed=5)
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices(train_images).batch(
        16, drop_remainder=True
    )
    callbacks = [
        KNNProbe(*parts, k=5),
        TensorBoardPictures(tmp_path, train_images, count=3),
    ]
    history = model.fit(
        dataset, epochs=2, verbose=0, shuffle=False, callbacks=callbacks
    ).history
    features = (
        model.predict(images, verbose=0) for images in (train_images, test_images)
    )
    train, test = features
    expected = oracle.knn_accuracy(
        train, train_labels, test, test_labels, k=5, temperature=0.1
    )
    assert history["knn_accuracy"][-1] == pytest.approx(expected)
    for sheet, step in zip(pictures(tmp_path), (0, 3)):  # three steps to an epoch
        views = augment.views(train_images[:3], 2, recipe, seed=5, step=step).numpy()[
            ..., 0
        ]
        np.testing.assert_allclose(tiles(sheet, 3, 3)[:, 1:], 255 * views, atol=0.51)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            np.zeros((2, 4, 4), np.uint8),
            {},
            r"`images` must be uint8 .* images.shape=\(2, 4, 4\)",
        ),
        (np.zeros((2, 4, 4, 1)), {}, r"`images` must be uint8 .* images.dtype=float64"),
        (np.zeros((0, 4, 4, 1), np.uint8), {}, r"not empty"),
        (
            np.zeros((2, 4, 4, 1), np.uint8),
            {"count": 0},
            r"`count` must be an integer >= 1",
        ),
    ],
    ids=["rank", "dtype", "empty", "count"],
)
def test_tensorboard_pictures_of_what_it_cannot_show_is_refused(
    tmp_path, images, options, message
):
    with pytest.raises(ValueError, match=message):
        TensorBoardPictures(tmp_path, images, **options)
