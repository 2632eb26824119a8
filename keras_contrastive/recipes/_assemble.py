"""What all recipes share: where the views are drawn, and the optimizer with its learning rate."""

from __future__ import annotations

import functools

import keras

from keras_contrastive import optimizers
from keras_contrastive._checks import check_at_least, check_choice, check_positive
from keras_contrastive.model import ContrastiveModel

# What no paper decays, by the last part of the name.
_BIASES = ("bias", "gamma", "beta")


def _adam(learning_rate, weight_decay):
    return (
        _adamw(learning_rate, weight_decay)
        if weight_decay
        else keras.optimizers.Adam(learning_rate)
    )


def _adamw(learning_rate, weight_decay):
    optimizer = keras.optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=list(_BIASES))
    return optimizer


def _momentum(make, learning_rate, weight_decay):
    return make(learning_rate, weight_decay=weight_decay)


_larc = functools.partial(optimizers.LARS, trust_coefficient=0.02, clip=True)
# The optimizers by name, each `(learning_rate, weight_decay)`; see the package's docstring.
OPTIMIZERS = {
    "adam": _adam,
    "adamw": _adamw,
    "larc": functools.partial(_momentum, _larc),
    "lars": functools.partial(_momentum, optimizers.LARS),
    "sgd": functools.partial(_momentum, optimizers.MomentumSGD),
}
# Learning rates where the paper has another optimizer, and which of them are for batches of 256 and scale.
_RATES = {"adam": 1e-3, "adamw": 1e-3, "larc": 0.3, "lars": 0.3, "sgd": 0.05}
_SCALED = ("larc", "lars", "sgd")


def recipe_in_step(augment, augment_on: str, encoder, default):
    """The recipe that the model is built with: none where it is drawn in the pipeline."""
    check_choice("augment_on", augment_on, ("auto", "step", "pipeline"))
    if augment_on == "pipeline":
        return None
    if augment is not None:
        return augment
    _, height, width, _ = encoder.input_shape
    if height is None or height != width:
        raise ValueError(
            "`augment` must be given for an encoder of images that are not square of a known size. "
            f"Received: encoder.input_shape={encoder.input_shape}."
        )
    return default(height)


def compiled(
    model: ContrastiveModel,
    optimizer,
    learning_rate: float | None,
    *,
    paper_rate: float | None = None,
    paper: str = "adam",
    weight_decay: float,
    batch_size: int,
    steps: int | None,
    warmup: float = 0.05,
    **options,
) -> ContrastiveModel:
    """The model, compiled with an optimizer by name or one that is ready.

    `paper` and `paper_rate` are the optimizer of the paper and its rate: for a batch of 256, but for Adam.
    """
    if isinstance(optimizer, str):
        check_choice("optimizer", optimizer, OPTIMIZERS)
        check_at_least(0, weight_decay=weight_decay)
        check_positive(batch_size=batch_size)
        if learning_rate is None:
            learning_rate = (
                paper_rate
                if optimizer == paper and paper_rate is not None
                else _RATES[optimizer]
            )
            if optimizer in _SCALED or optimizer == paper == "adamw":
                learning_rate = optimizers.scale_learning_rate(
                    learning_rate, batch_size
                )
        check_positive(learning_rate=learning_rate)
        rate = _schedule(learning_rate, steps, warmup)
        optimizer = OPTIMIZERS[optimizer](rate, weight_decay)
        for name, value in options.items():
            setattr(optimizer, name, value)
    elif learning_rate is not None:
        raise ValueError(
            "`learning_rate` is of an optimizer that is named; one that is ready brings its own. "
            f"Received: learning_rate={learning_rate}, optimizer={optimizer!r}."
        )
    # XLA pays on a GPU; on a CPU it makes convolutions slower. The augmentation is compiled in any case.
    model.compile(optimizer=optimizer, jit_compile=False)
    return model


def _schedule(learning_rate, steps, warmup):
    if steps is None:
        return learning_rate
    return optimizers.WarmupCosine(
        learning_rate, steps, warmup_steps=min(steps, max(1, int(warmup * steps)))
    )


def share_of(steps: int | None, share: float) -> int:
    """So many of the steps as a share of the paper's training: 0 where their number is not known."""
    return 0 if steps is None else int(share * steps)
