"""Projection heads: what stands between the encoder and the loss, and is thrown away afterwards."""

from __future__ import annotations

import keras

from keras_contrastive._checks import check_integer


def mlp(
    output_dim: int = 128,
    *,
    hidden_dim: int = 256,
    num_layers: int = 2,
    batch_norm: bool = True,
    name: str = "projection_head",
) -> keras.Sequential:
    """A perceptron: hidden layers with batch normalisation and ReLU, then a linear layer.

    The loss is taken on its outputs, the projections; evaluation, `predict` and exports use its inputs, the
    features, which keep what the loss teaches the projections to forget.

    Args:
        output_dim: Width of the projections, >= 1.
        hidden_dim: Width of the hidden layers, >= 1.
        num_layers: How many dense layers, >= 1; 1 is a linear head, 2 is SimCLR's, 3 is SimCLR v2's.
        batch_norm: Normalise the hidden layers.
        name: Name of the head.

    Returns:
        A `keras.Sequential` that is not built yet; the model builds it on the encoder's features.

    Raises:
        ValueError: A width or count is below 1.

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
            layers.append(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5))
        layers.append(keras.layers.ReLU())
    return keras.Sequential([*layers, keras.layers.Dense(output_dim)], name=name)
