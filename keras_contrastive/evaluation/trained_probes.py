"""Classifiers that are trained by gradients: a linear layer on a frozen encoder, and the encoder with it."""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer, check_positive, shape_text
from keras_contrastive._compat import sublayers
from keras_contrastive.evaluation._images import (
    class_codes,
    labelled_images,
    stratified_rows,
)
from keras_contrastive.evaluation._training import (
    Head,
    Plan,
    compiled_augment,
    in_blocks,
    standard,
    traced,
    unit_images,
    update_step,
)

# How many images are embedded at once where nothing is trained.
_BLOCK = 256
# What `fine_tune` does by itself: whichever of the two is more.
_MIN_EPOCHS, _MIN_STEPS = 10, 600


class ProbeResult(NamedTuple):
    """What a trained classifier says of the test part."""

    accuracy: float
    """Share of test images whose class it names, in 0..1."""
    predictions: np.ndarray
    """The label that it gives to each test image, `(m,)`."""


def sgd_probe(
    encoder,
    train_images,
    train_labels,
    test_images,
    test_labels,
    *,
    augment=None,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of a linear layer that is trained on the frozen features of augmented images.

    The field's linear protocol: softmax cross-entropy, SGD with momentum 0.9, a learning rate that falls to 0 along a
    cosine, no weight decay. Before the layer, features are standardised by mean and standard deviation of those of the
    training images (constant ones stay 0), so that one learning rate serves every encoder. The encoder predicts
    (`training=False`) and is not changed. Where images are not augmented, `linear_probe` of the features
    finds the best such layer, and needs no learning rate.

    Args:
        encoder: Keras model from float images in 0..1 to features `(n, dim)`: a plain encoder, or a
            `ContrastiveModel`, which takes such floats as they are. uint8 images are divided by 255 here, floats go to
            the model as they come. A model with a `Rescaling` of its own is handed floats in 0..255.
        train_images: uint8 in 0..255 or floats `(n, ...)`.
        train_labels: Integers >= 0, `(n,)` or `(n, 1)`, of two classes or more.
        test_images: uint8 or floats `(m, ...)`, scaled as `train_images`.
        test_labels: Integers >= 0, `(m,)` or `(m, 1)`. An image of a class that is not trained on counts as wrong.
        augment: `augment.Recipe` such as `augment.weak(32)`, or a function `augment(images, key)` from float32
            `(batch, height, width, channels)`, scaled as above, to as many images; the key is int64 `(2,)`, another in
            each step. None: the images as they are, embedded once.
        epochs: Integer >= 1.
        batch_size: Integer >= 1. The images that are left over at the end of an epoch, in an order drawn anew, are
            not trained on in that epoch. At most n is used.
        learning_rate: Float > 0, the first one.
        seed: Integer >= 0, of the order and of the keys. Global random state is neither read nor changed.

    Returns:
        `ProbeResult(accuracy, predictions)`.

    Raises:
        ValueError: Images and labels do not fit each other, labels are no integers >= 0 or of one class alone, an
            option is out of its range, `augment` does not give one view of each image, or features are not finite.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Sec. 2.3; on frozen
        features of augmented images: He et al., 2020, Momentum Contrast, Sec. 4.1.

    Example:
        >>> train, test = source.train, source.test
        >>> sgd_probe(model.encoder, train.images, train.labels, test.images, test.labels, augment=weak(32)).accuracy
    """
    check_integer(1, epochs=epochs)
    _check_options(batch_size, learning_rate, seed)
    task = _task(train_images, train_labels, test_images, test_labels)
    plan = Plan(len(task.train), epochs, batch_size, seed)
    draw = compiled_augment(augment, (plan.batch_size, *task.train.shape[1:]))
    embed = _predicting(encoder)
    features = _features(embed, task.train)
    head = Head(features.shape[1], len(task.classes), *standard(features))
    update = update_step(
        head if draw is None else lambda images: head(embed(images)),
        head.variables,
        keras.optimizers.SGD(plan.cosine(learning_rate), momentum=0.9),
    )
    plan.train(update, features if draw is None else task.train, task.codes, draw)
    return _result(embed, head, task)


def fine_tune(
    encoder,
    train_images,
    train_labels,
    test_images,
    test_labels,
    *,
    share: float = 1.0,
    augment=None,
    epochs: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> ProbeResult:
    """Accuracy of encoder and a linear layer that are trained together, on a share of the labels.

    What a pretrained encoder is worth where labels are few: compare with an untrained one. The whole network trains,
    frozen layers too, by softmax cross-entropy (and what its layers add to the loss) with Adam, whose rate falls to 0
    along a cosine; batch normalisation uses the statistics of its batches. The linear layer begins at 0, on features
    that are centred and scaled by constants taken from the encoder as it was handed in.

    Afterwards, also where an error or Ctrl-C ends it, the encoder has its weights, its states of random draws and its
    `trainable` flags of before; a model that is compiled keeps its optimizer. It is trained in place: it is not to be
    used from elsewhere in the meantime.

    Args:
        encoder: Keras model from float images in 0..1 to features `(n, dim)`; see `sgd_probe`.
        train_images: uint8 in 0..255 or floats `(n, ...)`; see `sgd_probe`.
        train_labels: Integers >= 0, `(n,)` or `(n, 1)`, of two classes or more.
        test_images: uint8 or floats `(m, ...)`, scaled as `train_images`.
        test_labels: Integers >= 0, `(m,)` or `(m, 1)`. An image of a class that is not trained on counts as wrong.
        share: Float in (0, 1]: of each class so many training images keep their label, rounded, at least one; the rest
            is not used. The images of a smaller share are among those of a larger one with the same seed.
        augment: A recipe or function, or None; see `sgd_probe`.
        epochs: Integer >= 1. None: 10, or as many as make 600 steps.
        batch_size: Integer >= 1; see `sgd_probe`.
        learning_rate: Float > 0, the first one.
        seed: Integer >= 0, of the share, the order and the keys. Global random state is neither read nor changed, but
            by layers that draw from it.

    Returns:
        `ProbeResult(accuracy, predictions)`.

    Raises:
        ValueError: As of `sgd_probe`, or the encoder has no weights to train.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Sec. 6 and Appendix
        B.5, with shares of 1 % and 10 %, balanced by class.

    Example:
        >>> train, test = source.train, source.test
        >>> fine_tune(model.encoder, train.images, train.labels, test.images, test.labels, share=0.01).accuracy
    """
    if epochs is not None:
        check_integer(1, epochs=epochs)
    _check_options(batch_size, learning_rate, seed)
    check_positive(share=share)
    if share > 1:
        raise ValueError(f"`share` must be at most 1. Received: share={share!r}.")
    task = _task(train_images, train_labels, test_images, test_labels)
    rows = stratified_rows(task.codes, share, seed)
    task = task._replace(train=task.train[rows], codes=task.codes[rows])
    plan = Plan(len(rows), epochs or _enough(len(rows), batch_size), batch_size, seed)
    draw = compiled_augment(augment, (plan.batch_size, *task.train.shape[1:]))
    embed = _predicting(encoder)
    features = _features(embed, task.train)  # builds the encoder, where it is not yet
    # One scale for all: a feature that hardly differs yet would be much enlarged, and may come to differ a lot.
    mean, spread = features.mean(axis=0), _typical_spread(features)
    head = Head(features.shape[1], len(task.classes), mean, spread)
    with _lent(encoder) as variables:
        update = update_step(
            lambda images: head(encoder(images, training=True)),
            [*variables, *head.variables],
            _loss_scaled(keras.optimizers.Adam(plan.cosine(learning_rate)), encoder),
            losses=lambda: encoder.losses,
        )
        plan.train(update, task.train, task.codes, draw)
        return _result(embed, head, task)


class _Task(NamedTuple):
    """What both probes are asked."""

    train: np.ndarray  # (n, ...)
    codes: np.ndarray  # (n,), the place among `classes` of each training image's
    test: np.ndarray  # (m, ...)
    test_labels: np.ndarray  # (m,)
    classes: np.ndarray  # ascending


def _task(train_images, train_labels, test_images, test_labels) -> _Task:
    train, train_labels = labelled_images(train_images, train_labels, "train")
    test, test_labels = labelled_images(test_images, test_labels, "test")
    for part, images in (("train", train), ("test", test)):
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                f"`{part}_images` must be uint8 in 0..255 or floats in 0..1. "
                f"Received: {part}_images.dtype={images.dtype}."
            )
    classes, codes = class_codes(train_labels)
    return _Task(train, codes, test, test_labels, classes)


def _check_options(batch_size, learning_rate, seed) -> None:
    check_integer(1, batch_size=batch_size)
    check_positive(learning_rate=learning_rate)
    check_integer(0, seed=seed)


def _enough(n: int, batch_size: int) -> int:
    """Epochs that suffice for n images."""
    steps_of_epoch = n // min(batch_size, n)
    return max(_MIN_EPOCHS, math.ceil(_MIN_STEPS / steps_of_epoch))


def _typical_spread(features: np.ndarray) -> float:
    """Root of the mean variance of all features; 1 of constant ones, but for rounding."""
    spread = float(np.sqrt(features.var(axis=0, dtype=np.float64).mean()))
    return spread if spread > 1e-6 * float(np.abs(features).max()) else 1.0


def _predicting(encoder):
    """The encoder as it predicts: a function from images to float32 features."""

    def embed(images):
        features = tf.cast(encoder(unit_images(images), training=False), tf.float32)
        if features.shape.rank != 2:
            raise ValueError(
                "`encoder` must give features (n, dim). Received: features of shape "
                f"{shape_text(features.shape)}."
            )
        return features

    return embed


def _features(embed, images: np.ndarray) -> np.ndarray:
    """Of all images. Raises ValueError unless they are finite."""
    features = in_blocks(traced(embed, images), images, _BLOCK)
    broken = np.count_nonzero(~np.isfinite(features).all(axis=1))
    if broken:
        raise ValueError(
            "`encoder` must give finite features. "
            f"Received: {broken} of {len(features)} rows with NaN or infinite values."
        )
    return features


def _loss_scaled(optimizer, encoder):
    """The optimizer as float16 needs it, where the encoder computes in that."""
    # Of the layers: a model that was loaded from a file says float32, whatever its layers compute in.
    if any(
        getattr(layer, "compute_dtype", None) == "float16"
        for layer in sublayers(encoder)
    ):
        return keras.mixed_precision.LossScaleOptimizer(optimizer)
    return optimizer


def _result(embed, head, task: _Task) -> ProbeResult:
    """What the classifier says of the test part."""
    classify = traced(lambda images: head(embed(images)), task.test)
    logits = in_blocks(classify, task.test, _BLOCK)
    if not np.isfinite(logits).all():
        raise ValueError(
            "Outputs for `test_images` are not finite: training has diverged, or the images are not. "
            "Try a smaller `learning_rate`."
        )
    predictions = task.classes[logits.argmax(axis=1)]
    return ProbeResult(float(np.mean(predictions == task.test_labels)), predictions)


@contextlib.contextmanager
def _lent(encoder):
    """All weights of a built encoder, to train; it gets its values and `trainable` flags back whatever happens."""
    values = [(variable, variable.numpy()) for variable in encoder.variables]
    flags = [(layer, layer.trainable) for layer in sublayers(encoder)]
    try:
        for layer, trainable in flags:
            if not trainable:
                layer.trainable = True
        if not encoder.trainable_variables:
            raise ValueError(
                f"`encoder` must have weights to train. Received: {type(encoder).__name__} '{encoder.name}'."
            )
        yield encoder.trainable_variables
    finally:
        for layer, trainable in flags:  # outer ones first: they hand theirs down
            if layer.trainable != trainable:
                layer.trainable = trainable
        for variable, value in values:
            variable.assign(value)
