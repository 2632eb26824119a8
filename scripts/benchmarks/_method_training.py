"""How methods.py trains a method: the encoder, the settings, the steps."""

from __future__ import annotations

import statistics
import time

import _fixed_time
from _console import Failure, note

ENCODER, BATCH_SIZE = "fast_conv_net", 256
# Of Adam, the better of 0.001 and 0.003 on held-out images; that of the recipe's entry elsewhere.
LEARNING_RATES = {
    "simclr": 0.001,
    "supcon": 0.003,
    "dcl": 0.001,
    "siglip_views": 0.001,
    "moco": 0.003,
    "moco_v3": 0.003,
    "nnclr": 0.003,
    "byol": 0.001,
    "simsiam": 0.001,
    "barlow_twins": 0.003,
    "vicreg": 0.003,
    "swav": 0.003,
    "dino": 0.001,
    "siamese": 0.003,
    "triplet": 0.001,
    "supervised": 0.003,
}
LABELLED_PER_BATCH = BATCH_SIZE // 4
# A throwaway model is timed for so long.
TIMED_SECONDS = 6.0


def learning_rate(method: str, options: dict) -> float:
    """Adam's rate."""
    import keras_contrastive as kc

    entry = kc.recipes.RECIPES.get(method)
    usual = 1e-3 if entry is None else entry.learning_rate
    return options.get("learning_rate", LEARNING_RATES.get(method, usual))


def trained(args, part) -> tuple:
    """The model after training, and what there is to tell of it."""
    import keras_contrastive as kc

    if args.labels_per_class and args.method != "simclr":
        part = kc.data.keep_labels(part, args.labels_per_class, seed=args.seed)
    prepare = supervised if args.method == "supervised" else contrastive
    steps, step_seconds = args.steps, None
    if steps is None:
        # The views of fast have one size for the first half of the steps, and another for the second.
        lengths = (1000, 1) if args.method == "fast" else (1000,)
        step_seconds = statistics.mean(
            seconds_of_step(*prepare(args, part, steps=length)[:2])
            for length in lengths
        )
        steps = 2 * max(1, round(args.seconds / step_seconds / 2))  # see `fit`
        note(f"{args.method}: {1e3 * step_seconds:.0f} ms a step, {steps} steps")
    fitted, dataset, model = prepare(args, part, steps=steps)
    clock, processor = time.perf_counter(), time.process_time()
    history = fit(fitted, dataset, steps)
    training = {
        "steps": steps,
        "step_seconds": step_seconds,  # of the throwaway model
        "seconds": time.perf_counter() - clock,
        "cpu_seconds": time.process_time() - processor,  # of all cores
        "history": history,
    }
    rows = [f"{name} {values[-1]:.3f}" for name, values in history.items()]
    note(f"{args.method}: {training['seconds']:.0f} s; at the end {', '.join(rows)}")
    return model, training


def new_encoder(part, seed: int):
    """The encoder with the initial weights of this seed."""
    import keras

    import keras_contrastive as kc

    keras.utils.set_random_seed(seed)
    return kc.encoders.get(ENCODER)((None, None, part.image_shape[2]))


def views_of(part, method: str = "simclr", steps: int | None = None):
    import keras_contrastive as kc

    if method == "fast":
        return kc.augment.fast(part.image_shape[0], steps=steps)
    return kc.augment.simclr_small(part.image_shape[0])


def untrained(args, part):
    import keras_contrastive as kc

    encoder = new_encoder(part, args.seed)
    return kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())


def contrastive(args, part, *, steps: int) -> tuple:
    """The model of a recipe, what it is fitted on, and the model again."""
    import keras_contrastive as kc

    entry = kc.recipes.get(args.method)
    make, options = entry.dataset, {}
    if args.labels_per_class and args.method != "simclr":
        make = kc.data.partly_labelled
        options = {"labelled_per_batch": LABELLED_PER_BATCH}
    dataset = make(part, BATCH_SIZE, seed=args.seed, **options)
    try:
        model = recipe_model(
            args.method, part, steps=steps, seed=args.seed, options=args.options
        )
    except TypeError as error:  # of what the recipe itself does not check
        if not args.options:
            raise
        raise Failure(f"--options: {error}") from error
    return model, dataset, model


def recipe_model(
    method: str,
    part,
    *,
    steps: int,
    seed: int,
    options: dict,
    batch_size: int = BATCH_SIZE,
):
    """A method's model in the settings of `scripts/train.py --settings small`, but for `options`."""
    import keras_contrastive as kc

    entry = kc.recipes.get(method)
    usual = {
        "optimizer": "adam",
        "learning_rate": learning_rate(method, options),
        "weight_decay": 0.0,
    }
    return entry.make(
        new_encoder(part, seed),
        batch_size=batch_size,
        augment=views_of(part, method, steps),
        steps=steps,
        seed=seed,
        **{**usual, **entry.options, **options},
    )


def supervised(args, part, *, steps: int) -> tuple:
    """A classifier, trained by cross-entropy on the labelled images alone, in the same views; its data; its encoder.

    As many of them in a batch as supcon has, or as is a multiple of the classes.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_contrastive as kc

    encoder = new_encoder(part, args.seed)
    labelled = part.take(np.flatnonzero(part.labels >= 0))
    classes = len(np.unique(labelled.labels))
    each = max(1, LABELLED_PER_BATCH // classes)
    batches = kc.data.class_balanced(labelled, classes, each, seed=args.seed)
    views = kc.augment.map_dataset(batches.repeat(), views_of(part), seed=args.seed)

    def flat(images, ids):
        images = tf.cast(images, tf.float32) / 255
        return tf.concat(tf.unstack(images, axis=1), 0), tf.tile(ids, [2])

    outputs = keras.layers.Dense(classes)(encoder.output)
    classifier = keras.Model(encoder.input, outputs)
    peak = learning_rate(args.method, args.options)
    rate = kc.optimizers.WarmupCosine(peak, steps, warmup_steps=max(1, steps // 20))
    classifier.compile(
        keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    model = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())
    return classifier, views.map(flat), model


def seconds_of_step(model, dataset) -> float:
    """Of `fit`; the model is of no use afterwards."""
    import keras

    pace = _fixed_time.Pace(TIMED_SECONDS)

    def after_step(batch, logs):
        model.stop_training = pace.after_step()

    model.fit(
        dataset.repeat(),
        steps_per_epoch=1_000_000,
        shuffle=False,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=after_step)],
    )
    return pace.seconds_per_step()


def fit(model, dataset, steps: int) -> dict:
    """Train for exactly so many steps; the history tells an even number in two halves."""
    halves = 1 if steps % 2 else 2
    history = model.fit(
        dataset.repeat(),
        epochs=halves,
        steps_per_epoch=steps // halves,
        shuffle=False,
        verbose=0,
    ).history
    return {
        name: [float(value) for value in values] for name, values in history.items()
    }


def features_of(model, *parts) -> list:
    return [model.predict(part.images, batch_size=500, verbose=0) for part in parts]
