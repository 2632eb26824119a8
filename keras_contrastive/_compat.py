"""The only module that asks which Keras it runs on: 3 (the main line) or 2.15 (the addons line)."""

from __future__ import annotations

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def scale_loss(optimizer, loss: tf.Tensor) -> tf.Tensor:
    """Multiply `loss` by the optimizer's float16 loss scale; without one, return it as it is."""
    if hasattr(optimizer, "scale_loss"):  # Keras 3: every optimizer
        return optimizer.scale_loss(loss)
    if hasattr(optimizer, "get_scaled_loss"):  # Keras 2.15: LossScaleOptimizer alone
        return optimizer.get_scaled_loss(loss)
    return loss


def unscale_gradients(optimizer, gradients: list) -> list:
    """Undo `scale_loss` where `apply_gradients` does not do so itself (Keras 2.15)."""
    if hasattr(optimizer, "get_unscaled_gradients"):
        return optimizer.get_unscaled_gradients(gradients)
    return gradients


def build_optimizer(optimizer, variables: list) -> None:
    """Create the optimizer's slots now, so that a checkpoint can be restored into them.

    `tfa.optimizers` build on Keras' legacy optimizers, which have no `build`; they create their slots here.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if hasattr(inner, "build"):
        optimizer.build(variables)
    else:
        inner._create_all_weights(variables)


def optimizer_variables(optimizer) -> list:
    """All variables of the optimizer: an attribute, or a method in Keras' legacy optimizers."""
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


def has_gpu() -> bool:
    """Whether TensorFlow may use a GPU here: one is present and not hidden."""
    return bool(tf.config.get_visible_devices("GPU"))


def path_of(variable) -> str:
    """A variable's readable name: Keras 3 has `path`, Keras 2.15 a `name` with an output number."""
    return getattr(variable, "path", variable.name.split(":")[0])
