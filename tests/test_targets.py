"""What embeddings are compared with: the targets alone, and in a model that trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive._compat import KERAS_3
from tests.oracles import methods

# Values of weights are of order 1 and a float32 has 24 bits: a few roundings stay below this.
ROUNDING = 2e-6
RATE = 0.1
# Tracing takes seconds, a step of these models by hand milliseconds. Modes of `fit` are tried where they matter.
EAGER = {"run_eagerly": True}
GRAPH = {"run_eagerly": False}


def encoder():
    """Two dense layers with batch normalisation between, on 3 x 3 grey images."""
    layers = [
        keras.Input((3, 3, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(6),
        keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-5),
        keras.layers.Activation("tanh"),
        keras.layers.Dense(5),
    ]
    return keras.Sequential(layers)


ENCODER = ["flatten", "dense", "norm", "tanh", "dense"]
HEAD = ["linear", "norm", "relu", "dense"]


# Hidden layers are wide enough that no row has all its units at 0: its embedding would be 0, which has no direction.
def head():
    return kc.heads.mlp(4, hidden_dim=16)


def predictor():
    return kc.heads.mlp(4, hidden_dim=16)


def views(count=8, number=0, views=2):
    """Float32 images with the views on the second axis."""
    rng = np.random.default_rng(number)
    return rng.uniform(size=(count, views, 3, 3, 1)).astype(np.float32)


def randomize(layer, seed=0):
    """Distinct values in every weight, so that a mix-up shows; variances stay positive."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [rng.uniform(0.3, 1.3, np.shape(value)) for value in layer.get_weights()]
    )
    return layer


def array(value):
    return np.asarray(tf.convert_to_tensor(value))


def arrays(weights):
    return [array(weight) for weight in weights]


def online_and_target(model):
    """Pairs of weights of the online networks and of their copies, and whether they are trained."""
    pairs = []
    for part in ("encoder", "head"):
        online, copied = getattr(model, part), getattr(model.target, part)
        trained = {id(weight) for weight in online.trainable_weights}
        assert len(online.weights) == len(copied.weights)
        for one, other in zip(online.weights, copied.weights):
            pairs.append((array(one), array(other), id(one) in trained))
    return pairs


def byol(target, *, optimizer=None, compiled=True, **options):
    keras.utils.set_random_seed(0)
    model = kc.ContrastiveModel(
        encoder(),
        kc.losses.CosinePredictionLoss(),
        head=head(),
        predictor=predictor(),
        target=target,
    )
    if compiled:
        optimizer = keras.optimizers.SGD(RATE) if optimizer is None else optimizer
        model.compile(optimizer=optimizer, **{**EAGER, **options})
    return model


def train(model, *numbers):
    for number in numbers:
        model.train_on_batch(views(number=number))


def built(target):
    encoders, heads = randomize(encoder()), head()
    heads.build((None, 5))
    target.build_like(encoders, heads)
    return encoders, heads


# Shared and stop-gradient


@pytest.mark.parametrize("kind", ["SharedTarget", "StopGradientTarget"])
def test_target_is_the_projections_and_only_the_shared_one_passes_gradient(kind):
    target = getattr(kc.targets, kind)()
    built(target)
    images = tf.constant(views()[:, 0])
    projections = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(projections)
        given = target(images, projections, training=True)
        total = tf.reduce_sum(given**2)
    np.testing.assert_array_equal(given, projections)
    gradient = tape.gradient(total, projections)
    if kind == "SharedTarget":
        np.testing.assert_allclose(gradient, 2 * array(projections), rtol=1e-6)
    else:
        assert gradient is None or not np.any(array(gradient))


def gradient_of_projections(kind):
    """The gradient of the head's last kernel in a model without predictor."""
    keras.utils.set_random_seed(0)
    encoders, heads = encoder(), head()
    model = kc.ContrastiveModel(
        encoders,
        kc.losses.AlignmentUniformityLoss(uniformity_weight=0),
        head=heads,
        target=getattr(kc.targets, kind)(),
    )
    with tf.GradientTape() as tape:
        loss = model.take_loss(
            tf.constant(views()), tf.fill([8], -1), None, training=True
        )
    return array(tape.gradient(loss, heads.trainable_weights[-2]))


def test_model_with_a_stop_gradient_target_gets_half_the_gradient_of_the_shared_one():
    # |u_1 - u_2|^2 is symmetric, so the gradient that reaches a weight through the anchors equals the one that
    # reaches it through the targets, summed over both directions.
    shared = gradient_of_projections("SharedTarget")
    stopped = gradient_of_projections("StopGradientTarget")
    np.testing.assert_allclose(stopped, shared / 2, atol=1e-6)
    assert np.abs(shared).max() > 1e-2


@pytest.mark.parametrize(
    "target",
    [
        kc.targets.StopGradientTarget,
        lambda: kc.targets.MomentumTarget(0.5),
        lambda: kc.targets.NearestNeighborTarget(6),
    ],
    ids=["stop_gradient", "momentum", "nearest_neighbor"],
)
def test_targets_of_a_model_have_no_gradient(target):
    model = byol(target(), compiled=False)
    batch = tf.constant(views())
    for _ in range(2):  # an empty memory, then a filled one
        with tf.GradientTape() as tape:
            tape.watch(batch)
            _, targets = model.embed(batch, training=True)
            total = tf.reduce_sum(targets**2)
        # The copy's own weights too: on the addons line they count as trainable where they stand alone.
        own = getattr(model.target, "encoder", model.encoder).trainable_weights
        sources = [batch, *model.trainable_variables, *own]
        assert tape.gradient(total, sources) == [None] * len(sources)


# Momentum: the copy


def test_momentum_target_starts_equal_to_the_online_networks_with_batch_statistics():
    encoders, heads = randomize(encoder(), 1), head()
    heads.build((None, 5))
    randomize(heads, 2)
    model = kc.ContrastiveModel(
        encoders,
        kc.losses.CosinePredictionLoss(),
        head=heads,
        target=kc.targets.MomentumTarget(0.9),
    )
    pairs = online_and_target(model)
    assert (
        len(pairs) == 15
    )  # 2 dense layers and a normalisation; a kernel, another, a dense
    for online, copied, _ in pairs:
        np.testing.assert_array_equal(copied, online)
    images = views()[:, 0]
    for training in (False, True):
        expected = heads(encoders(images, training=training), training=training)
        given = model.target(images, tf.zeros((8, 4)), training=training)
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_momentum_target_is_a_copy_that_the_online_networks_do_not_share():
    model = byol(kc.targets.MomentumTarget(0.9), compiled=False)
    before = arrays(model.target.weights)
    randomize(model.encoder)
    randomize(model.head)
    for old, new in zip(before, arrays(model.target.weights)):
        np.testing.assert_array_equal(old, new)


def test_update_averages_trainable_weights_and_leaves_batch_statistics_alone():
    target = kc.targets.MomentumTarget(0.75)
    encoders, heads = built(target)
    before = arrays(target.encoder.weights)
    randomize(encoders, 5)
    trained = {id(weight) for weight in encoders.trainable_weights}
    target.update(encoders, heads)
    statistics = 0
    for old, new, online in zip(
        before, arrays(target.encoder.weights), encoders.weights
    ):
        if id(online) in trained:
            expected = 0.75 * old + 0.25 * array(online)
            np.testing.assert_allclose(new, expected, atol=ROUNDING)
        else:
            statistics += 1
            np.testing.assert_array_equal(new, old)
    assert statistics == 2


def test_batch_statistics_of_the_copy_follow_from_its_own_training_batches():
    target = kc.targets.MomentumTarget(0.5)
    built(target)
    kernel, bias = arrays(target.encoder.weights)[:2]
    mean, variance = arrays(target.encoder.weights)[4:6]
    images = views(number=3)[:, 0]
    target(images, tf.zeros((8, 4)), training=False)
    np.testing.assert_array_equal(mean, arrays(target.encoder.weights)[4])
    target(images, tf.zeros((8, 4)), training=True)
    rows = images.reshape(8, -1).astype(np.float64) @ kernel + bias
    new_mean, new_variance = arrays(target.encoder.weights)[4:6]
    np.testing.assert_allclose(new_mean, 0.8 * mean + 0.2 * rows.mean(0), atol=1e-5)
    expected = 0.8 * variance + 0.2 * rows.var(0)
    np.testing.assert_allclose(new_variance, expected, atol=1e-5)


def test_target_output_in_training_uses_its_own_weights_and_the_statistics_of_its_batch():
    target = kc.targets.MomentumTarget(0.5)
    built(target)
    randomize(target.encoder, 7)
    randomize(target.head, 8)
    weights = [
        arrays(part.weights) for part in (target.encoder, target.head)
    ]  # kernel, bias, gamma, beta, mean, variance, ...
    parameters = [
        [value for i, value in enumerate(values) if i not in skipped]
        for values, skipped in zip(weights, [(4, 5), (3, 4)])
    ]
    images = views(number=3)[:, 0]
    given = target(images, tf.zeros((8, 4)), training=True)
    features, _ = methods.forward(ENCODER, parameters[0], images.astype(np.float64))
    expected, _ = methods.forward(HEAD, parameters[1], features)
    np.testing.assert_allclose(given, expected, atol=2e-5)


def test_target_follows_an_encoder_without_a_head():
    target = kc.targets.MomentumTarget(0.75)
    encoders = encoder()
    target.build_like(encoders, None)
    images = views()[:, 0]
    np.testing.assert_allclose(
        target(images, tf.zeros((8, 5)), training=False),
        encoders(images, training=False),
        atol=1e-6,
    )
    before = arrays(encoders.weights)
    randomize(encoders)
    target.update(encoders, None)
    expected = 0.75 * before[0] + 0.25 * array(encoders.weights[0])
    np.testing.assert_allclose(
        arrays(target.encoder.weights)[0], expected, atol=ROUNDING
    )


# Momentum: the schedule


def test_momentum_without_steps_is_constant():
    target = kc.targets.MomentumTarget(0.9)
    encoders, heads = built(target)
    for number in range(4):
        assert int(array(target.num_updates)) == number
        assert float(array(target.current_momentum())) == pytest.approx(0.9, abs=1e-7)
        target.update(encoders, heads)


@pytest.mark.parametrize("final", [1.0, 0.95])
def test_momentum_with_steps_rises_along_a_cosine_and_stays(final):
    target = kc.targets.MomentumTarget(0.6, steps=8, final_momentum=final)
    encoders, heads = built(target)
    randomize(encoders, 5)
    kernel, online = arrays(target.encoder.weights)[0], array(encoders.weights[0])
    for update in range(11):
        expected = methods.cosine_momentum(0.6, final, update, 8)
        momentum = float(array(target.current_momentum()))
        assert momentum == pytest.approx(expected, abs=1e-6)
        target.update(encoders, heads)
        kernel = expected * kernel + (1 - expected) * online
        copied = arrays(target.encoder.weights)[0]
        np.testing.assert_allclose(copied, kernel, atol=5e-6)
        if update == 4:  # half way
            assert momentum == pytest.approx((0.6 + final) / 2, abs=1e-6)
    assert momentum == pytest.approx(final, abs=1e-6)  # from the eighth update on
    assert int(array(target.num_updates)) == 11


# Momentum: in a model


def test_target_follows_after_the_update_of_the_step():
    model = byol(kc.targets.MomentumTarget(0.75))
    before = online_and_target(model)
    train(model, 0)
    for (old, _, _), (online, copied, trained) in zip(before, online_and_target(model)):
        if trained:
            expected = 0.75 * old + 0.25 * online
            np.testing.assert_allclose(copied, expected, atol=ROUNDING)
    moved = [
        np.abs(o[0] - n[0]).max() for o, n in zip(before, online_and_target(model))
    ]
    assert (
        max(moved) > 1e-2
    )  # so that a target that follows before the update would show


def test_target_sees_the_global_views_of_several_sizes_alone():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    encoders = keras.Model(inputs, keras.layers.Dense(5)(pooled))
    model = kc.ContrastiveModel(
        encoders,
        kc.losses.CosinePredictionLoss(),
        head=head(),
        target=kc.targets.MomentumTarget(0.5),
    )
    large, small = views(), np.random.default_rng(1).uniform(size=(8, 3, 2, 2, 1))
    sizes = (tf.constant(large), tf.constant(small, tf.float32))
    embeddings, targets = model.embed(sizes, training=True)
    assert (embeddings.shape, targets.shape) == ((8, 5, 4), (8, 2, 4))
    flat = large.reshape(16, 3, 3, 1)
    expected = model.target.head(model.target.encoder(flat), training=True)
    np.testing.assert_allclose(
        array(targets).reshape(16, 4), array(expected), atol=1e-5
    )


def test_weights_of_the_target_are_never_trainable():
    model = byol(kc.targets.MomentumTarget(0.9))
    own = len(model.encoder.trainable_weights) + len(model.head.trainable_weights)
    own += len(model.predictor.trainable_weights)
    copied = {id(weight) for weight in model.target.weights}
    assert len(copied) == len(model.encoder.weights) + len(model.head.weights) + 1

    def check():
        assert len(model.trainable_variables) == own
        assert not copied & {id(weight) for weight in model.trainable_variables}
        assert not copied & {id(weight) for weight in model.trainable_weights}

    check()
    model.trainable = False
    assert not model.trainable_variables
    model.trainable = True
    check()
    model.compile(optimizer=keras.optimizers.SGD(RATE), **EAGER)
    before = online_and_target(model)
    train(model, 0)
    statistics_moved = []
    for (_, was, _), (online, copy, trained) in zip(before, online_and_target(model)):
        if trained:
            np.testing.assert_allclose(copy, 0.9 * was + 0.1 * online, atol=ROUNDING)
        else:
            statistics_moved.append(np.abs(copy - was).max())
    # It went on normalising by its batches.
    assert min(statistics_moved) > 1e-3


def test_several_steps_per_execution_update_the_target_once_each():
    batches = [views(number=number) for number in range(4)]
    data = tf.data.Dataset.from_tensor_slices(np.concatenate(batches)).batch(8)
    several = byol(kc.targets.MomentumTarget(0.5), steps_per_execution=2, **GRAPH)
    several.fit(data, epochs=1, verbose=0, shuffle=False)
    assert int(array(several.target.num_updates)) == 4
    single = byol(kc.targets.MomentumTarget(0.5))
    train(single, 0, 1, 2, 3)
    # Rounding grows over the steps; one update more or less would change the target by 1e-2.
    for one, other in zip(online_and_target(single), online_and_target(several)):
        np.testing.assert_allclose(one[0], other[0], atol=1e-4)
        np.testing.assert_allclose(one[1], other[1], atol=1e-4)


def test_gradient_accumulation_updates_the_target_with_the_weights_alone():
    if not KERAS_3:
        pytest.skip("gradient accumulation came with Keras 3")
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=3)
    model = byol(kc.targets.MomentumTarget(0.5, steps=4), optimizer=optimizer, **GRAPH)
    for number in range(7):
        before = online_and_target(model)
        train(model, number)
        after = online_and_target(model)
        real = number % 3 == 2
        assert int(array(model.target.num_updates)) == (number + 1) // 3
        for (old, was, trained), (online, copied, _) in zip(before, after):
            if trained and real:
                momentum = methods.cosine_momentum(0.5, 1.0, number // 3, 4)
                expected = momentum * was + (1 - momentum) * online
                np.testing.assert_allclose(copied, expected, atol=ROUNDING)
            elif trained:
                np.testing.assert_array_equal(copied, was)
                np.testing.assert_array_equal(online, old)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_float16_step_skipped_for_overflow_does_not_move_the_target(jit_compile):
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = byol(kc.targets.MomentumTarget(0.5), jit_compile=jit_compile, **GRAPH)
    updates, skipped = 0, 0
    for number in range(8):
        before = online_and_target(model)
        # Not a number in one image is an overflow for certain, whatever the loss scale is by then.
        batch = views(number=number)
        batch[0] *= np.nan if number in (3, 5) else 1
        model.train_on_batch(batch)
        after = online_and_target(model)
        kernel = [pair for pair in zip(before, after) if pair[0][2]]
        moved = any(np.any(old[0] != new[0]) for old, new in kernel)
        updates, skipped = updates + moved, skipped + (not moved)
        assert int(array(model.target.num_updates)) == updates, number
        for (_, was, _), (online, copied, _) in kernel:
            expected = 0.5 * was + 0.5 * online if moved else was
            np.testing.assert_allclose(copied, expected, atol=ROUNDING)
        assert not (moved and number in (3, 5))
    assert updates >= 3 and skipped >= 2


def saved_and_loaded(model, how, folder):
    if how == "keras":
        model.save(folder / "model.keras")
        return keras.models.load_model(folder / "model.keras")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(folder / "ckpt")
    fresh = byol(kc.targets.MomentumTarget(0.5, steps=6))
    fresh.optimizer.build(fresh.trainable_variables)
    randomize(fresh.encoder, 9)
    checkpoint = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer)
    status = checkpoint.restore(tf.train.latest_checkpoint(folder))
    status.assert_existing_objects_matched()
    return fresh


@pytest.mark.parametrize("how", ["keras", "checkpoint"])
def test_loaded_model_goes_on_with_the_target_as_if_never_saved(how, tmp_path):
    model = byol(kc.targets.MomentumTarget(0.5, steps=6))
    train(model, 0, 1)
    loaded = saved_and_loaded(model, how, tmp_path)
    assert int(array(loaded.target.num_updates)) == 2
    for one, other in zip(online_and_target(model), online_and_target(loaded)):
        np.testing.assert_array_equal(one[1], other[1])
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    for each in (model, loaded):
        train(each, 2, 3)
    for one, other in zip(arrays(model.weights), arrays(loaded.weights)):
        np.testing.assert_array_equal(one, other)
    assert int(array(loaded.target.num_updates)) == 4


def test_target_config_keeps_every_argument():
    target = kc.targets.MomentumTarget(0.5, steps=6, final_momentum=0.9)
    again = kc.targets.MomentumTarget.from_config(target.get_config())
    assert (again.momentum, again.steps, again.final_momentum) == (0.5, 6, 0.9)


# Nearest neighbour


def two_views_of(rows):
    """Rows `[n, dim]` as the first views of n images, image by image, with noise for the second views."""
    rows = np.asarray(rows, np.float32)
    noise = np.random.default_rng(99).normal(size=rows.shape).astype(np.float32)
    return np.stack([rows, noise], axis=1).reshape(-1, rows.shape[-1])


def memory(size=6, dim=3, **options):
    target = kc.targets.NearestNeighborTarget(size, **options)
    encoders = encoder()
    heads = kc.heads.mlp(dim, hidden_dim=6)
    heads.build((None, 5))
    target.build_like(encoders, heads)
    return target


def look_up(target, rows, training=True):
    rows = tf.constant(rows, tf.float32)
    return array(target(tf.zeros((len(rows), 3, 3, 1)), rows, training=training))


def test_empty_memory_gives_the_projection_itself():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    given = look_up(memory(), rows)
    np.testing.assert_allclose(methods.unit(given), methods.unit(rows), atol=ROUNDING)


def test_neighbour_is_the_most_similar_of_the_rows_remembered():
    target = memory()
    remembered = [[1, 0, 0], [0, 5, 0], [0, 0, 0.1]]
    look_up(target, two_views_of(remembered))
    rows = [[3, 1, 2], [-1, 2, 0], [0.1, 0.2, 0.3], [2, 1, 0]]
    given = look_up(target, rows, training=False)
    np.testing.assert_allclose(given, np.eye(3)[[0, 1, 2, 0]], atol=ROUNDING)


def test_slots_that_are_not_filled_are_never_a_neighbour():
    target = memory(size=6)
    look_up(target, two_views_of([[1, 0, 0]]))
    # All similarities are negative: a row of zeros would be nearer.
    given = look_up(target, [[-1, 0.5, 0], [-1, 0, 0]], training=False)
    np.testing.assert_allclose(given, [[1, 0, 0], [1, 0, 0]], atol=ROUNDING)


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_memory_keeps_the_last_first_views_and_looks_before_they_enter(num_views):
    target = memory(size=6, num_views=num_views)
    rng = np.random.default_rng(0)
    remembered = np.zeros((0, 3))
    for _ in range(5):
        batch = rng.normal(size=(4, num_views, 3))
        rows = batch.reshape(-1, 3)
        given = look_up(target, rows)
        if len(remembered):
            expected = methods.nearest(rows, remembered)
            np.testing.assert_allclose(given, expected, atol=ROUNDING)
        # Nothing enters outside of training.
        look_up(target, rng.normal(size=(4 * num_views, 3)), training=False)
        remembered = methods.pushed(remembered, batch[:, :1], 6)
    assert len(remembered) == 6


def test_batch_larger_than_the_memory_leaves_its_last_rows():
    target = memory(size=2)
    look_up(target, two_views_of([[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    given = look_up(target, [[1, 0.1, 0.2], [0, 1, 0]], training=False)
    np.testing.assert_allclose(given, [[0, 0, 1], [0, 1, 0]], atol=ROUNDING)


def test_neighbour_has_no_gradient_even_where_the_memory_is_empty():
    target = memory()
    rows = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
    for _ in range(2):  # empty, then not
        with tf.GradientTape() as tape:
            tape.watch(rows)
            total = tf.reduce_sum(target(tf.zeros((4, 3, 3, 1)), rows, training=True))
        gradient = tape.gradient(total, rows)
        assert gradient is None or not np.any(array(gradient))


@pytest.mark.parametrize("how", ["keras", "checkpoint"])
def test_loaded_model_remembers_the_same_neighbours(how, tmp_path):
    def nnclr():
        keras.utils.set_random_seed(0)
        model = kc.ContrastiveModel(
            encoder(),
            kc.ContrastiveLossLayer(kc.losses.InfoNCELoss(0.1), anchor="targets"),
            head=head(),
            predictor=predictor(),
            target=kc.targets.NearestNeighborTarget(12),
        )
        model.compile(optimizer=keras.optimizers.SGD(RATE), **EAGER)
        return model

    model = nnclr()
    train(model, 0, 1)
    if how == "keras":
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    else:
        tf.train.Checkpoint(model=model).save(tmp_path / "ckpt")
        loaded = nnclr()
        status = tf.train.Checkpoint(model=loaded).restore(
            tf.train.latest_checkpoint(tmp_path)
        )
        status.assert_existing_objects_matched()
    for each in (model, loaded):
        train(each, 2, 3)
    for one, other in zip(arrays(model.weights), arrays(loaded.weights)):
        np.testing.assert_array_equal(one, other)


def test_neighbour_config_keeps_every_argument():
    target = kc.targets.NearestNeighborTarget(7, num_views=3)
    again = kc.targets.NearestNeighborTarget.from_config(target.get_config())
    assert (again.size, again.num_views) == (7, 3)
