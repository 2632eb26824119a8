"""A small vision transformer, and the two layers of ours in it."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_integer
from keras_contrastive._numerics import as_real
from keras_contrastive.encoders._images import image_input


def small_vit(
    image_shape: tuple[int, int, int],
    *,
    patch_size: int = 4,
    width: int = 192,
    depth: int = 6,
    num_heads: int = 3,
    name: str = "small_vit",
) -> keras.Model:
    """A vision transformer for small images: patches as tokens, and the mean over them as features.

    Patches of `patch_size` pixels are mapped to `width` numbers each and get the fixed sine-cosine code of their
    place. Then `depth` pre-norm blocks: attention, and a perceptron of `4 * width` with GELU, each beside a shortcut;
    a last layer normalisation; the mean over the patches. No class token and no dropout.

    Places are counted from the upper left patch, whatever the size of the image, so one set of weights takes images of
    any size: small views (multi-crop) are seen as the upper left part of a large one.

    Args:
        image_shape: `(height, width, channels)`, height and width multiples of `patch_size`; `(None, None, channels)`:
            images of any size, of which rows and columns beyond the last whole patch are left out.
        patch_size: Side of a patch in pixels, >= 1.
        width: Numbers to a token, a multiple of 4 and of `num_heads`.
        depth: Number of blocks, >= 1.
        num_heads: Number of attention heads, >= 1.
        name: Name of the model.

    Returns:
        `keras.Model` from float `(batch, height, width, channels)` to features `(batch, width)`.

    Raises:
        ValueError: `image_shape` is no image shape, or its sides are no multiples of `patch_size`; `width` is no
            multiple of 4 and of `num_heads`; or a number is no integer >= 1.

    Reference:
        Dosovitskiy et al., 2021, An Image is Worth 16x16 Words, Section 3.1, with the positions and the initial weights
        of Chen, Xie, He, 2021, An Empirical Study of Training Self-Supervised Vision Transformers, and the mean in place
        of a class token (Section 4.3 there).
    """
    check_integer(
        1, patch_size=patch_size, width=width, depth=depth, num_heads=num_heads
    )
    if width % 4 or width % num_heads:
        raise ValueError(
            "`width` must be a multiple of 4, for the positions, and of `num_heads`. "
            f"Received: width={width}, num_heads={num_heads}."
        )
    inputs = image_input(
        image_shape, minimum=patch_size, encoder="small_vit", any_size=True
    )
    if any(side is not None and side % patch_size for side in inputs.shape[1:3]):
        raise ValueError(
            f"`small_vit` takes images whose sides are multiples of `patch_size`. Received: image_shape="
            f"{tuple(image_shape)}, patch_size={patch_size}; choose another size of the images or of the patches."
        )
    x = _patches(inputs, patch_size, width)
    x = PatchPositions()(x)
    for _ in range(depth):
        x = _transformer_block(x, num_heads)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x), name=name)


def _patches(images, patch_size: int, width: int):
    """Each patch mapped to `width` numbers: `(batch, rows, columns, width)`."""
    # Glorot's limit for the dense layer that this is. Keras would take it for a convolution with overlap.
    limit = (6 / (patch_size**2 * images.shape[-1] + width)) ** 0.5
    return keras.layers.Conv2D(
        width,
        patch_size,
        strides=patch_size,
        padding="valid",
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
    )(images)


def _transformer_block(x, num_heads: int):
    """Attention, then a perceptron for each token, both on normalised tokens beside a shortcut."""
    normalized = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.Add()([x, SelfAttention(num_heads)(normalized)])
    normalized = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    hidden = keras.layers.Dense(4 * x.shape[-1], activation="gelu")(normalized)
    return keras.layers.Add()([x, keras.layers.Dense(x.shape[-1])(hidden)])


@keras.saving.register_keras_serializable("keras_contrastive")
class PatchPositions(keras.layers.Layer):
    """Add the code of its place to each patch of a grid, and list the patches as tokens.

    The code of row y and column x is `[sin(x f), cos(x f), sin(y f), cos(y f)]` with dim / 4 frequencies
    f = 10000^(-k / (dim / 4)), k = 0, 1, ... It is made from the grid at each call, so that grids of any size will do,
    and holds no weights.

    Args:
        None but those of a Keras layer. It is called with patches `(batch, rows, columns, dim)`, dim a multiple of 4.

    Returns:
        Tokens `(batch, rows * columns, dim)` of the same dtype, row by row.

    Reference:
        Chen, Xie, He, 2021, An Empirical Study of Training Self-Supervised Vision Transformers, Section 4.3 and code.
    """

    def call(self, patches):
        rows, columns, dim = patches.shape[1:]
        if rows is None or columns is None:
            rows, columns = tf.unstack(tf.shape(patches)[1:3])
        codes = tf.concat(
            [
                tf.tile(_place_codes(columns, dim)[None], [rows, 1, 1]),
                tf.tile(_place_codes(rows, dim)[:, None], [1, columns, 1]),
            ],
            axis=-1,
        )  # (rows, columns, dim)
        return tf.reshape(
            patches + tf.cast(codes, patches.dtype), [-1, rows * columns, dim]
        )

    def compute_output_shape(self, input_shape):
        batch, rows, columns, dim = input_shape
        known = rows is not None and columns is not None
        return (batch, rows * columns if known else None, dim)


def _place_codes(count, dim: int) -> tf.Tensor:
    """Sines and cosines of the places 0, 1, ... count - 1 along one axis: float32 `(count, dim / 2)`."""
    frequencies = 10000.0 ** (-tf.range(dim // 4, dtype=tf.float32) / (dim // 4))
    angles = tf.cast(tf.range(count), tf.float32)[:, None] * frequencies
    return tf.concat([tf.sin(angles), tf.cos(angles)], axis=-1)


@keras.saving.register_keras_serializable("keras_contrastive")
class SelfAttention(keras.layers.Layer):
    """Multi-head attention of tokens to each other: softmax(Q K^T / sqrt(d)) V, then a linear map.

    As `keras.layers.MultiHeadAttention(num_heads, dim / num_heads)` of a sequence with itself, with queries, keys and
    values from one matrix product. On a CPU a call with its gradient takes three quarters of the time of Keras'
    layer, and its weights have the same names in the files of Keras 2 and 3. The softmax is taken in float32.

    Args:
        num_heads: Number of heads, which must divide the width of the tokens. It is called with tokens
            `(batch, tokens, dim)` and gives the same shape.

    Raises:
        ValueError: `num_heads` is no integer >= 1.

    Reference:
        Vaswani et al., 2017, Attention Is All You Need, Section 3.2.
    """

    def __init__(self, num_heads: int, **kwargs):
        super().__init__(**kwargs)
        check_integer(1, num_heads=num_heads)
        self.num_heads = num_heads

    def build(self, input_shape):
        dim = input_shape[-1]
        # Glorot's limits for three square matrices side by side, not for one wide one.
        separate = keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        self.qkv_kernel = weight("qkv_kernel", (dim, 3 * dim), separate)
        self.qkv_bias = weight("qkv_bias", (3 * dim,), "zeros")
        self.output_kernel = weight("output_kernel", (dim, dim), "glorot_uniform")
        self.output_bias = weight("output_bias", (dim,), "zeros")
        self.built = True

    def call(self, tokens):
        dim = tokens.shape[-1]
        count = tokens.shape[1] if tokens.shape[1] is not None else tf.shape(tokens)[1]
        qkv = _linear(tf.reshape(tokens, [-1, dim]), self.qkv_kernel, self.qkv_bias)
        qkv = tf.reshape(qkv, [-1, count, 3, self.num_heads, dim // self.num_heads])
        query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
        query *= (dim // self.num_heads) ** -0.5
        logits = tf.matmul(
            query, key, transpose_b=True
        )  # (batch, heads, tokens, tokens)
        shares = tf.cast(tf.nn.softmax(as_real(logits)), logits.dtype)
        mixed = tf.transpose(tf.matmul(shares, value), [0, 2, 1, 3])
        outputs = _linear(
            tf.reshape(mixed, [-1, dim]), self.output_kernel, self.output_bias
        )
        return tf.reshape(outputs, [-1, count, dim])

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


def _linear(rows, kernel, bias) -> tf.Tensor:
    return tf.nn.bias_add(
        tf.matmul(rows, tf.convert_to_tensor(kernel)), tf.convert_to_tensor(bias)
    )
