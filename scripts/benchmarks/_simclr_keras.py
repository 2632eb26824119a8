"""This library's runs for a fixed time: the worker of time_to_knn.py in this environment."""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import _fixed_time  # noqa: E402
from _console import import_quietly  # noqa: E402
from _fixed_time import CHANNELS, STRIDES  # noqa: E402


def work(job: dict, folder: Path) -> dict:
    """Train by `fit`, with a callback that looks at the clock."""
    import_quietly()
    import keras

    import keras_contrastive as kc

    if job["precision"] != "float32":
        keras.mixed_precision.set_global_policy(f"mixed_{job['precision']}")
    images = _fixed_time.load(job["data"], hold_out=job["hold_out"])
    part = kc.data.Part(images.train, images.train_labels)
    if job["run"] == "convolutions":
        return {"seconds_per_step": convolutions_per_step(job, part.image_shape)}
    make = functools.partial({"simclr": _simclr, "fast": _fast}[job["run"]], job)
    seconds_per_step = timed(make, part, job)
    if job["only_speed"]:
        return {"seconds_per_step": seconds_per_step}
    steps = _fixed_time.steps_in(job["seconds"], seconds_per_step)
    keras.utils.set_random_seed(job["seed"])
    model = make(part.image_shape, steps)
    watch = _fixed_time.Watch(
        job,
        folder,
        images,
        steps=steps,
        features=_features(model, part.image_shape),
        mean_loss=lambda: _mean_loss(model),
    )
    clock = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: watch.start(),
        on_train_batch_end=lambda batch, logs: watch.after_step(),
    )
    fit(model, part, job, steps, clock)
    return watch.result(seconds_per_step)


def fit(model, part, job: dict, steps: int, callback) -> None:
    import keras_contrastive as kc

    dataset = kc.data.batches(part, job["batch_size"], seed=job["seed"]).repeat()
    model.fit(
        dataset,
        steps_per_epoch=steps,
        epochs=1,
        shuffle=False,
        verbose=0,
        callbacks=[callback],
    )


def timed(make, part, job: dict) -> float:
    """Seconds of a step of a throwaway model; of `fast` the mean of its two sizes, which have half the steps each."""
    lengths = (1_000_000, 1) if job["run"] == "fast" else (1_000_000,)
    return statistics.mean(
        seconds_per_step(make(part.image_shape, steps), part, job) for steps in lengths
    )


def seconds_per_step(model, part, job: dict) -> float:
    import keras

    pace = _fixed_time.Pace(job["timed_seconds"])

    def after_step(batch, logs):
        model.stop_training = pace.after_step()

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=after_step)
    fit(model, part, job, 1_000_000, callback)
    return pace.seconds_per_step()


def convolutions_per_step(job: dict, image_shape) -> float:
    """Seconds of a step of the encoder's convolutions, if each pass backward took as long as the one forward.

    A pass backward has as many products as one forward: one pass for the gradient of the kernels, one for that of the
    inputs, which the first convolution does not need.
    """
    first, whole = (
        forward_seconds(job, image_shape, depth) for depth in (1, len(CHANNELS))
    )
    return 3 * whole - first


def forward_seconds(job: dict, image_shape, depth: int) -> float:
    """Seconds of so many of the encoder's convolutions, one after the other, on the views of a batch."""
    import keras
    import tensorflow as tf

    inputs = outputs = keras.Input(image_shape)
    for filters, stride in zip(CHANNELS[:depth], STRIDES):
        layer = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)
        outputs = layer(outputs)
    forward = tf.function(keras.Model(inputs, outputs))
    views = tf.random.uniform((2 * job["batch_size"], *image_shape))
    pace = _fixed_time.Pace(job["timed_seconds"] / 2)
    forward(views)
    while not pace.after_step():
        forward(views)
    return pace.seconds_per_step()


def _simclr(job: dict, image_shape, steps: int):
    import keras_contrastive as kc

    settings = job["settings"]
    augment = kc.augment.simclr(
        image_shape[0], settings["strength"], area=(settings["min_area"], 1.0)
    )
    return kc.recipes.simclr(
        shared_encoder(image_shape),
        temperature=settings["temperature"],
        projection_dim=_fixed_time.PROJECTION_DIM,
        hidden_dim=settings["hidden_dim"],
        optimizer=settings["optimizer"],
        learning_rate=settings["learning_rate"],
        warmup=_fixed_time.WARMUP,
        batch_size=job["batch_size"],
        augment=augment,
        steps=steps,
        seed=job["seed"],
    )


def shared_encoder(image_shape):
    """The encoder of `_fixed_time`, from images to features `(n, 256)`."""
    return convolutions(image_shape, CHANNELS, STRIDES, (3, 3, 3, 3))


def convolutions(image_shape, channels, strides, sizes):
    """Convolutions with batch normalisation and ReLU, and the mean over places."""
    import keras

    from keras_contrastive.encoders._blocks import conv_norm

    inputs = outputs = keras.Input(image_shape)
    for filters, stride, size in zip(channels, strides, sizes):
        outputs = conv_norm(outputs, filters, size=size, strides=stride)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))


def _fast(job: dict, image_shape, steps: int):
    import keras_contrastive as kc

    side, options = image_shape[0], {}
    variant = job["settings"].get("variant")
    if variant == "no_whitening":
        options = {"whiten": False}
    elif variant == "learned_filters":
        channels, strides, sizes = (48, 64, 128, 256), (2, 1, 2, 2), (4, 3, 3, 3)
        any_size = (None, None, image_shape[2])
        options = {"encoder": convolutions(any_size, channels, strides, sizes)}
    elif variant == "whole_views":
        options = {"augment": kc.augment.simclr(side, 0.5, area=(0.2, 1.0))}
    elif variant == "no_growth":
        options = {"augment": kc.augment.fast(side)}
    elif variant == "temperature_0.5":
        options = {"temperature": 0.5}
    elif variant == "rate_0.001":
        options = {"learning_rate": 0.001}
    elif variant == "paper_views":
        small, large = kc.augment.simclr(side // 2), kc.augment.simclr(3 * side // 4)
        options = {"augment": large}
        if steps > 1:
            recipe = kc.augment.PiecewiseRecipe([steps // 2], [small, large])
            options = {"augment": recipe}
    return kc.recipes.fast(
        image_size=side,
        batch_size=job["batch_size"],
        steps=steps,
        seed=job["seed"],
        **options,
    )


def _features(model, image_shape):
    """The model as it predicts. Not `predict`: inside `fit` it would run callbacks of its own."""
    import tensorflow as tf

    spec = tf.TensorSpec((None, *image_shape), tf.uint8)
    served = tf.function(
        lambda images: model(images, training=False), input_signature=[spec]
    )
    return lambda images: served(tf.constant(images)).numpy()


def _mean_loss(model) -> float:
    """The mean since the last mark."""
    mean = float(model.loss_mean.result())
    model.loss_mean.reset_state()
    return mean


if __name__ == "__main__":
    sys.exit(_fixed_time.serve(sys.argv[1], work))
