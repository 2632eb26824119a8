"""Heads: what stands between the encoder and the loss, and is thrown away afterwards.

| head | of |
|---|---|
| `mlp` | projections and predictions of most methods |
| `dino` | DINO: a perceptron, a bottleneck of unit length, and prototypes |

Where each paper has its batch normalisation is said in the recipes, by `batch_norm` (hidden layers) and
`output_batch_norm`.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import normalize_rows


def mlp(
    output_dim: int = 128,
    *,
    hidden_dim: int = 256,
    num_layers: int = 2,
    batch_norm: bool = True,
    output_batch_norm: bool = False,
    activation: str = "relu",
    name: str = "projection_head",
) -> keras.Sequential:
    """A perceptron: hidden layers with batch normalisation and an activation, then a linear layer.

    The loss is taken on its outputs, the projections; evaluation, `predict` and exports use its inputs, the
    features, which keep what the loss teaches the projections to forget.

    Args:
        output_dim: Width of the projections, >= 1.
        hidden_dim: Width of the hidden layers, >= 1.
        num_layers: How many dense layers, >= 1; 1 is a linear head, 2 is SimCLR's, 3 is SimCLR v2's.
        batch_norm: Normalise the hidden layers.
        output_batch_norm: Normalise the projections too, without scale and offset.
        activation: Name of the hidden layers' activation, of Keras.
        name: Name of the head.

    Returns:
        A `keras.Sequential` that is not built yet; the model builds it on the encoder's features.

    Raises:
        ValueError: A width or count is below 1, or Keras knows no such activation.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Sec. 4.2.
    """
    check_integer(
        1, output_dim=output_dim, hidden_dim=hidden_dim, num_layers=num_layers
    )
    layers = []
    for _ in range(num_layers - 1):
        layers.append(keras.layers.Dense(hidden_dim, use_bias=not batch_norm))
        if batch_norm:
            layers.append(_batch_norm())
        layers.append(_activation(activation))
    layers.append(keras.layers.Dense(output_dim, use_bias=not output_batch_norm))
    if output_batch_norm:
        layers.append(_batch_norm(center=False, scale=False))
    return keras.Sequential(layers, name=name)


def dino(
    output_dim: int = 65536,
    *,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    num_layers: int = 3,
    batch_norm: bool = False,
    freeze_steps: int = 0,
    name: str = "projection_head",
) -> keras.Sequential:
    """DINO's head: a perceptron with GELU to a bottleneck, made of unit length, and its cosines with prototypes.

    Args:
        output_dim: Number of prototypes, the width of the outputs, >= 1.
        hidden_dim: Width of the hidden layers, >= 1.
        bottleneck_dim: Width of what the prototypes are compared with, >= 1.
        num_layers: Dense layers up to the bottleneck, >= 1.
        batch_norm: Normalise the hidden layers; the paper does for convolutional encoders, not for transformers.
        freeze_steps: In so many training steps at the beginning the prototypes stay: of an epoch in the paper.
        name: Name of the head.

    Returns:
        A `keras.Sequential` from features to cosines `(n, output_dim)`.

    Raises:
        ValueError: A width or count is below 1, or `freeze_steps` below 0.

    Reference:
        Caron et al., 2021, Emerging Properties in Self-Supervised Vision Transformers, Sec. 3.2 and App. C; the
        lengths of the prototypes are not learned, as in its code.
    """
    body = mlp(
        bottleneck_dim,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        batch_norm=batch_norm,
        activation="gelu",
    )
    prototypes = Prototypes(output_dim, freeze_steps=freeze_steps)
    return keras.Sequential([*body.layers, prototypes], name=name)


@keras.saving.register_keras_serializable("keras_contrastive")
class Prototypes(keras.layers.Layer):
    """Cosines of each row with rows that are learned: float32 `(n, num_prototypes)`.

    Args:
        num_prototypes: Integer >= 1.
        freeze_steps: Integer >= 0: in so many training calls at the beginning no gradient reaches the prototypes.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, num_prototypes: int, *, freeze_steps: int = 0, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        check_integer(1, num_prototypes=num_prototypes)
        check_integer(0, freeze_steps=freeze_steps)
        self.num_prototypes, self.freeze_steps = num_prototypes, freeze_steps

    def build(self, input_shape):
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(self.num_prototypes, input_shape[-1]),
            initializer="random_normal",
        )
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.built = True

    def call(self, inputs, training=False):
        prototypes = tf.convert_to_tensor(self.prototypes)
        if self.freeze_steps:
            frozen = tf.convert_to_tensor(self.step) < self.freeze_steps
            prototypes = tf.where(frozen, tf.stop_gradient(prototypes), prototypes)
            if training:
                self.step.assign_add(1)
        rows = normalize_rows(tf.cast(inputs, tf.float32))
        return tf.matmul(rows, normalize_rows(prototypes), transpose_b=True)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.num_prototypes)

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        own = {"num_prototypes": self.num_prototypes, "freeze_steps": self.freeze_steps}
        return {**config, **own}


def _batch_norm(**options):
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, **options)


def _activation(name: str):
    # ReLU has a layer of its own, as in the files of earlier versions.
    return keras.layers.ReLU() if name == "relu" else keras.layers.Activation(name)
