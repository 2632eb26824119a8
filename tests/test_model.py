"""ContrastiveModel: what `fit` reports, trains, saves and predicts."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive._compat import KERAS_3


def images(count=32, size=8, channels=1, seed=0):
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def dataset(batch_size=16, **options):
    return kc.data.batches(kc.data.Part(images(**options)), batch_size)


# One recipe for all models of these tests: each compiles its own function, which takes seconds.
DIGITS = kc.augment.digits(8)


def small_model(*, augment=DIGITS, compiled=True, loss=None, size=8, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = kc.encoders.FusedBatchNorm()(x)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    encoder = keras.Model(inputs, keras.layers.Dense(16)(x), name="encoder")
    loss = kc.losses.NTXentLoss(0.5) if loss is None else loss
    options.setdefault("head", kc.heads.mlp(8, hidden_dim=16))
    model = kc.ContrastiveModel(encoder, loss, augment=augment, **options)
    if compiled:
        model.compile(optimizer=keras.optimizers.Adam(1e-2))
    return model


def weights_of(model):
    return [np.asarray(tf.convert_to_tensor(weight)) for weight in model.weights]


PLAIN, XLA = {}, {"jit_compile": True}


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("float32", PLAIN),
        ("float32", XLA),
        ("float32", {"run_eagerly": True}),
        ("float32", {"steps_per_execution": 2}),
        ("mixed_bfloat16", PLAIN),
        ("mixed_float16", PLAIN),
        ("mixed_float16", XLA),
    ],
    ids=str,
)
def test_fit_lowers_the_loss_in_every_mode(policy, options):
    keras.mixed_precision.set_global_policy(policy)
    model = small_model(compiled=False)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), **options)
    history = model.fit(dataset(), epochs=6, verbose=0, shuffle=False).history
    # Random images and no labels: chance is log 31 = 3.43, and six epochs tell some of them apart.
    assert history["loss"][-1] < history["loss"][0] - 0.1
    assert int(np.asarray(tf.convert_to_tensor(model.step))) == 12
    assert model.predict(images(), verbose=0).dtype == np.float32


def test_history_reports_the_mean_over_the_epochs_batches():
    seen = []

    class Spy(kc.ContrastiveModel):
        def take_loss(self, *args, **kwargs):
            loss = super().take_loss(*args, **kwargs)
            seen.append(float(loss))
            return loss

    base = small_model(compiled=False)
    model = Spy(
        base.encoder, kc.losses.NTXentLoss(0.5), head=base.head, augment=base.augment
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2), run_eagerly=True)
    history = model.fit(dataset(8), epochs=2, verbose=0, shuffle=False).history
    expected = [np.mean(seen[:4]), np.mean(seen[4:])]
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)


def test_logs_hold_the_documented_metrics_and_the_validation_ones():
    names = {
        "loss",
        "positive_similarity",
        "negative_similarity",
        "accuracy",
        "embedding_std",
    }
    logs = small_model().fit(
        dataset(), validation_data=dataset(), verbose=0, shuffle=False
    )
    assert set(logs.history) == names | {f"val_{name}" for name in names}


def test_regularizers_of_the_encoder_are_part_of_the_loss():
    inputs = keras.Input((8, 8, 1))
    dense = keras.layers.Dense(
        4, kernel_regularizer=keras.regularizers.L2(10.0), kernel_initializer="ones"
    )
    encoder = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    model = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss(), augment=DIGITS)
    model.compile(optimizer="sgd")
    # 10 * the sum of 64 * 4 ones, of which NT-Xent of 32 rows can only add a little.
    assert model.evaluate(dataset(), verbose=0, return_dict=True)["loss"] >= 10 * 256


def test_draws_differ_between_steps_also_under_gradient_accumulation():
    if not KERAS_3:
        pytest.skip("gradient accumulation came with Keras 3")
    model = small_model(compiled=False)
    model.compile(optimizer=keras.optimizers.SGD(0.0, gradient_accumulation_steps=2))
    # Nothing is learned at rate 0 and batch order is fixed, so only the draws can change the loss.
    same = dataset(32).take(1).cache()
    losses = [
        model.fit(same, verbose=0, shuffle=False).history["loss"][0] for _ in range(4)
    ]
    assert len(set(losses)) == 4


def test_evaluate_uses_fixed_draws():
    model = small_model()
    fixed = dataset().cache()
    first = model.evaluate(fixed, verbose=0, return_dict=True)
    assert model.evaluate(fixed, verbose=0, return_dict=True) == first


def test_predict_gives_the_encoders_features_of_uint8_scaled_to_one():
    model = small_model()
    expected = model.encoder(images().astype(np.float32) / 255, training=False)
    np.testing.assert_allclose(model.predict(images(), verbose=0), expected, atol=1e-5)


def test_normalize_gives_features_of_unit_length():
    features = small_model(normalize=True).predict(images(), verbose=0)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_predict_of_a_batch_with_views_gives_features_of_each_view():
    model = small_model(augment=None)
    two = np.stack([images(seed=1), images(seed=2)], axis=1)
    features = model(two)
    assert features.shape == (32, 2, 16)
    np.testing.assert_allclose(features[:, 1], model(two[:, 1]), atol=1e-5)


def test_views_of_tables_train_with_the_second_axis_as_views():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(64, 1, 6)).astype(np.float32)
    views = centers + 0.1 * rng.normal(size=(64, 2, 6)).astype(np.float32)
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    model = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss(0.5))
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.from_tensor_slices((views, np.arange(64))).batch(32)
    history = model.fit(data, epochs=10, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["accuracy"][-1] > 0.9


def test_images_alone_train_like_images_with_their_own_ids():
    with_ids, alone = small_model(), small_model()
    with_ids.fit(dataset(), verbose=0, shuffle=False)
    alone.fit(dataset().map(lambda images, ids: images), verbose=0, shuffle=False)
    for one, other in zip(weights_of(with_ids), weights_of(alone)):
        np.testing.assert_array_equal(one, other)


def test_sample_weight_of_zero_takes_an_image_out_as_an_anchor():
    model = small_model()
    batch, ids = next(iter(dataset(16)))

    def loss(weight):
        data = tf.data.Dataset.from_tensors(
            (batch, ids, tf.constant(weight, tf.float32))
        )
        return model.evaluate(data, verbose=0, return_dict=True)["loss"]

    first = loss([1.0] + 15 * [0.0])
    others = [loss([0.0] * i + [1.0] + [0.0] * (15 - i)) for i in range(1, 16)]
    assert loss([1.0] * 16) == pytest.approx((first + sum(others)) / 16, rel=1e-5)


def test_triplets_train_by_rows_and_pull_positives_closer_than_negatives():
    part = kc.data.Part(images(64), np.arange(64) % 4)
    model = small_model(loss=kc.losses.ContrastiveLoss(), head=None)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    history = model.fit(
        kc.data.triplets(part, 16), epochs=8, verbose=0, shuffle=False
    ).history
    assert history["loss"][-1] < history["loss"][0]
    assert history["positive_similarity"][-1] > history["negative_similarity"][-1]


def test_learned_temperature_is_trained_and_saved(tmp_path):
    layer = kc.ContrastiveLossLayer(kc.losses.NTXentLoss(0.5), learn_temperature=True)
    model = small_model(loss=layer)
    model.fit(dataset(), epochs=3, verbose=0, shuffle=False)
    learned = float(model.loss_layer.temperature)
    assert learned != pytest.approx(0.5, abs=1e-3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(loaded.loss_layer.temperature) == learned


def test_float16_training_moves_the_weights_as_float32_does():
    # SGD shows a gradient of the wrong scale, which Adam would hide. Seven steps: the first ones may be skipped
    # until the loss scale fits.
    moved = {}
    for policy in ("float32", "mixed_float16"):
        keras.mixed_precision.set_global_policy(policy)
        model = small_model(compiled=False)
        model.compile(optimizer=keras.optimizers.SGD(0.01))
        fixed = dataset(32).cache()
        before = model.head.get_weights()
        model.fit(fixed, epochs=7, verbose=0, shuffle=False)
        after = model.head.get_weights()
        moved[policy] = np.linalg.norm(after[-2] - before[-2])
    assert 0.5 < moved["mixed_float16"] / moved["float32"] < 1.5


@keras.saving.register_keras_serializable("tests")
class SubclassedEncoder(keras.Model):
    """An encoder that cannot tell the shape of its features before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.dense = keras.layers.Dense(6)

    def call(self, inputs, training=False):
        return self.dense(self.flatten(inputs))

    def get_config(self):
        return {}


def test_subclassed_encoder_trains_predicts_and_loads(tmp_path):
    model = kc.ContrastiveModel(
        SubclassedEncoder(),
        kc.losses.NTXentLoss(),
        head=kc.heads.mlp(4),
        augment=DIGITS,
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    model.build((None, 8, 8, 1))
    model.fit(dataset(), verbose=0, shuffle=False)
    features = model.predict(images(), verbose=0)
    assert features.shape == (32, 6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), features)


def test_float_images_are_refused_where_views_are_made():
    floats = tf.data.Dataset.from_tensors((images(4).astype(np.float32), np.arange(4)))
    with pytest.raises(ValueError, match="`images` must be uint8"):
        small_model().fit(floats, verbose=0, shuffle=False)


def test_batch_without_views_is_refused_where_none_are_made():
    with pytest.raises(ValueError, match="must have its views on the second axis"):
        small_model(augment=None).fit(dataset(), verbose=0, shuffle=False)


@keras.saving.register_keras_serializable("tests")
class CountedProjections(keras.layers.Layer):
    """A target: the projections themselves, and a count of the updates."""

    def build_like(self, encoder, head):
        self.num_updates = self.add_weight(
            name="num_updates", shape=(), initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, images, projections, training=False):
        return projections

    def update(self, encoder, head):
        self.num_updates.assign_add(1.0)


def test_predictor_is_trained_towards_targets_without_a_gradient(tmp_path):
    model = small_model(
        predictor=keras.layers.Dense(8, use_bias=False), target=CountedProjections()
    )
    views = model.make_views(images(16), 0)
    with tf.GradientTape() as tape:
        embeddings, targets = model.embed(views, training=True)
        loss = tf.reduce_sum(targets)
    assert embeddings.shape == targets.shape == (16, 2, 8)
    assert tape.gradient(loss, model.trainable_variables) == [None] * len(
        model.trainable_variables
    )
    before = model.predictor.get_weights()[0]
    model.fit(dataset(), epochs=2, verbose=0, shuffle=False)
    assert np.any(model.predictor.get_weights()[0] != before)
    assert float(model.target.num_updates.numpy()) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)


def test_views_of_two_sizes_are_joined_along_the_view_axis_and_train():
    model = kc.ContrastiveModel(
        kc.encoders.small_resnet((None, None, 1)),
        kc.losses.NTXentLoss(),
        head=kc.heads.mlp(8),
        target=CountedProjections(),
        augment=kc.augment.multi_crop(16, 8, 3),
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    views = model.make_views(images(8, size=16), 0)
    embeddings, targets = model.embed(views, training=False)
    assert embeddings.shape == (8, 5, 8) and targets.shape == (8, 2, 8)
    large, small = views
    for number, view in ((1, large[:, 1]), (2, small[:, 0]), (4, small[:, 2])):
        expected = model.head(model.encoder(view, training=False), training=False)
        np.testing.assert_allclose(embeddings[:, number], expected, atol=1e-5)
    data = kc.data.batches(kc.data.Part(images(32, size=16)), 16)
    history = model.fit(data, epochs=2, verbose=0, shuffle=False).history
    assert np.all(np.isfinite(history["loss"]))
    mapped = kc.augment.map_dataset(data, model.augment)
    in_pipeline = kc.ContrastiveModel(model.encoder, kc.losses.NTXentLoss())
    in_pipeline.compile(optimizer=keras.optimizers.Adam(1e-3))
    history = in_pipeline.fit(mapped, verbose=0, shuffle=False).history
    assert np.all(np.isfinite(history["loss"]))
    alone = tf.data.Dataset.from_tensors(images(8, size=16))
    alone = kc.augment.map_dataset(alone, model.augment)  # without ids
    history = in_pipeline.fit(alone, verbose=0, shuffle=False).history
    assert np.all(np.isfinite(history["loss"]))


def test_views_of_two_sizes_need_an_encoder_of_any_size():
    model = small_model(augment=kc.augment.multi_crop(8, 4, 2))
    with pytest.raises(ValueError, match="need an encoder of any size"):
        model.fit(dataset(), verbose=0, shuffle=False)


def test_recipe_that_normalizes_is_refused():
    with pytest.raises(ValueError, match="`augment` must not end in `Normalize`"):
        small_model(augment=[kc.augment.Normalize(0.5, 0.2)])


def test_arrays_fit_like_a_dataset():
    history = small_model().fit(
        images(), np.arange(32), batch_size=16, epochs=15, verbose=0
    )
    # The draws of single epochs differ by more than a few steps gain.
    assert np.mean(history.history["loss"][-5:]) < history.history["loss"][0]


def test_queue_of_negatives_fills_in_training_alone_and_is_saved(tmp_path):
    layer = kc.ContrastiveLossLayer(
        kc.losses.NTXentLoss(0.5), negatives=kc.negatives.EmbeddingQueue(100)
    )
    model = small_model(loss=layer)
    model.evaluate(dataset(), verbose=0)
    assert not np.any(model.loss_layer.negatives.rows()[2])
    model.fit(dataset(), verbose=0, shuffle=False)
    assert np.sum(model.loss_layer.negatives.rows()[2]) == 64  # 32 images of 2 views
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(
        model.loss_layer.negatives.rows(), loaded.loss_layer.negatives.rows()
    ):
        np.testing.assert_array_equal(one, other)


def test_loaded_model_has_every_weight_and_trains_on_like_the_saved_one(tmp_path):
    model = small_model()
    model.fit(dataset(), epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)
    assert len(model.weights) == len(loaded.weights)
    for either in (model, loaded):
        either.fit(
            kc.data.batches(kc.data.Part(images()), 16, epoch=2),
            verbose=0,
            shuffle=False,
        )
    for one, other in zip(weights_of(model), weights_of(loaded)):
        np.testing.assert_array_equal(one, other)


def test_order_of_the_parts_in_a_saved_file_is_fixed():
    # Keras 3 numbers the parts in a file in the order in which they were assigned: another order would load old
    # files wrongly, without an error.
    model = small_model(predictor=keras.layers.Dense(8), target=CountedProjections())
    kinds = [type(layer).__name__ for layer in model.layers]
    expected = [
        "Functional",
        "Sequential",
        "Dense",
        "ContrastiveLossLayer",
        "CountedProjections",
    ]
    assert kinds == expected


def test_saved_model_loads_in_a_fresh_process(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images(4))
    code = f"""
        import sys
        sys.path.insert(0, {sys.path[0]!r})
        import keras, numpy as np
        import keras_contrastive
        model = keras.models.load_model({str(tmp_path / "model.keras")!r})
        features = model.predict(np.load({str(tmp_path / "images.npy")!r}), verbose=0)
        np.save({str(tmp_path / "features.npy")!r}, features)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True,
        cwd=_root(),
        capture_output=True,
    )
    expected = model.predict(images(4), verbose=0)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), expected)


def _root():
    from pathlib import Path

    return Path(kc.__file__).resolve().parents[1]


def test_save_names_the_function_that_keras_cannot_save(tmp_path):
    def my_darkening(batch):
        return batch / 2

    model = small_model(augment=kc.augment.Recipe([my_darkening]))
    model.fit(dataset(), verbose=0, shuffle=False)
    with pytest.raises(ValueError, match="my_darkening"):
        model.save(tmp_path / "model.keras")


def test_a_list_of_operations_is_a_recipe():
    model = small_model(augment=[kc.augment.RandomFlip()])
    assert isinstance(model.augment, kc.augment.Recipe)


def test_plain_keras_callbacks_work(tmp_path):
    callbacks = [
        keras.callbacks.TensorBoard(str(tmp_path / "logs"), write_graph=False),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "best.keras"), monitor="val_loss", save_best_only=True
        ),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=1e9),
    ]
    model = small_model()
    history = model.fit(
        dataset(),
        epochs=5,
        validation_data=dataset(),
        callbacks=callbacks,
        verbose=0,
        shuffle=False,
    )
    assert len(history.history["loss"]) == 2  # the second epoch does not win by 1e9
    assert list((tmp_path / "logs").rglob("events*"))
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert loaded.predict(images(2), verbose=0).shape == (2, 16)


def test_encoder_is_the_trained_one_after_fit():
    model = small_model()
    before = model.encoder.get_weights()
    model.fit(dataset(), verbose=0, shuffle=False)
    assert any(np.any(a != b) for a, b in zip(before, model.encoder.get_weights()))


def test_summary_lists_the_parts(capsys):
    small_model().summary()
    shown = capsys.readouterr().out
    assert "encoder" in shown and "projection_head" in shown


def test_the_articles_example_trains_by_its_own_settings():
    part = kc.data.load("digits").train
    model = kc.recipes.siamese(
        kc.encoders.conv_net(part.image_shape),
        margin=1.0,
        augment=kc.augment.digits(16),
    )
    assert float(np.asarray(model.optimizer.learning_rate)) == pytest.approx(1e-3)
    history = model.fit(
        kc.data.triplets(part, 64), epochs=2, verbose=0, shuffle=False
    ).history
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("encoder", kc.losses.NTXentLoss()), "`encoder` must be a keras.Model"),
        ((None, "nt_xent"), "`encoder` must be"),
    ],
    ids=["string", "none"],
)
def test_wrong_encoder_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kc.ContrastiveModel(*arguments)


def test_wrong_loss_is_refused():
    with pytest.raises(
        ValueError, match="`loss` must be a ContrastiveLossLayer or a loss"
    ):
        small_model(loss="nt_xent")
