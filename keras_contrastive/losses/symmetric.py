"""The softmax loss over pairs, in both directions: CLIP's."""

from __future__ import annotations

import numbers

import keras
import tensorflow as tf

from keras_contrastive._checks import check_positive
from keras_contrastive.losses._base import FunctionLoss
from keras_contrastive.losses._blocks import (
    POSITIVE_LOGITS,
    POSITIVE_WEIGHT,
    LogSumExp,
    compiled,
)
from keras_contrastive.losses._comparison import compare_pairs, compare_with_negatives
from keras_contrastive.losses.sets import check_negatives


def symmetric_info_nce_loss(first, second, *, temperature=0.07, **pairs) -> tf.Tensor:
    """Cross-entropy of finding each row's partner on the other side, averaged over both directions.

    Per row i: half of -s(f_i, g_i) / t + log sum_j exp(s(f_i, g_j) / t), plus half of
    -s(f_i, g_i) / t + log sum_j exp(s(f_j, g_i) / t), with f the rows of `first`, g those of `second`, s the
    cosine similarity and t the temperature. Exact at any batch size, as `nt_xent_loss`.

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        temperature: Float > 0, or a float scalar tensor (gradients flow into it).
        **pairs: Keyword arguments of all losses over pairs that compare with a batch:
            `ids` int `(n,)` or multi-hot `(n, classes)`: rows of one id belong together as well, so duplicates
            in a batch are positives, not false negatives; -1: its own row alone. `second_ids`: of `second`, if
            they are others; then a row belongs to the rows of its id alone.
            `positives` float `(n, n)`: weights >= 0 of row i of `first` with row j of `second`, in their place.
            `candidate_mask` bool `(n, n)`: False: the two are not compared (accidental hits).
            `candidate_log_probability` float `(n,)`: log of how likely a pair was drawn, subtracted from its
            logits as a column in both directions (logQ correction).
            `negatives` float `(m, dim)`: further columns for `first`, which are nobody's positives (given hard
            negatives, a queue; no logQ correction), with `negative_ids` (left out for rows of the same id, needs
            `ids`) and `negative_mask` bool `(m,)`.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32, not reduced. With several positives the
        weighted mean over them. A direction without a positive does not count; 0 where neither does.

    Raises:
        ValueError: `temperature` is not positive, or a shape is known to be wrong.

    Reference:
        Radford et al., 2021, Learning Transferable Visual Models From Natural Language Supervision, Fig. 3.

    Example:
        >>> images, texts = [[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 5.0]]
        >>> symmetric_info_nce_loss(images, texts, temperature=1.0).numpy().round(4)
        array([0.3133, 0.3133], dtype=float32)
    """
    return _symmetric(first, second, temperature=temperature, **pairs)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class SymmetricInfoNCELoss(FunctionLoss):
    """`symmetric_info_nce_loss` as a Keras loss: `loss(first, second, sample_weight=None, **pairs)`.

    The temperature is learned in `ContrastiveLossLayer(loss, learn_temperature=True)`, which keeps it at 0.01
    or above: a logit scale of at most 100, as in CLIP.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        reduction: `"sum_over_batch_size"` (the mean over rows that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `reduction` is unknown.

    Example:
        Two towers in plain Keras. The last layer is the loss: it adds itself, so `compile` needs none. The
        dataset yields `((images, tokens, ids),)`.

        >>> class Stack(keras.layers.Layer):
        ...     def call(self, towers):
        ...         return tf.stack(towers, axis=1)
        >>> images = keras.Input((32, 32, 3))
        >>> tokens = keras.Input((16,), dtype="int32")
        >>> ids = keras.Input((), dtype="int64")
        >>> embeddings = Stack()([image_tower(images), text_tower(tokens)])  # (batch, 2, dim)
        >>> loss = kc.ContrastiveLossLayer(kc.losses.SymmetricInfoNCELoss(), learn_temperature=True)
        >>> model = keras.Model([images, tokens, ids], loss(embeddings, ids))
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> model.fit(dataset, epochs=10)
    """

    families = ("pairs",)
    symmetric = True
    compares_ids = True

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "symmetric_info_nce_loss",
    ):
        check_positive(temperature=temperature)
        options = {"temperature": temperature}
        super().__init__(_symmetric, options, reduction=reduction, name=name)


@compiled
def _symmetric(
    first,
    second,
    *,
    temperature,
    negatives=None,
    negative_ids=None,
    negative_mask=None,
    **pairs,
):
    check_positive(temperature=temperature)
    check_negatives(
        first,
        negatives,
        ids=pairs.get("ids"),
        negative_ids=negative_ids,
        negative_mask=negative_mask,
    )
    known = isinstance(temperature, numbers.Real)
    inverse = 1 / temperature
    comparison = compare_pairs(
        first,
        second,
        scale=inverse,
        bound=float(inverse) if known else None,
        both_sides=True,
        **pairs,
    )
    everything, logits, weight = comparison.statistics(
        LogSumExp("all"), POSITIVE_LOGITS, POSITIVE_WEIGHT
    )
    if negatives is not None:
        others = compare_with_negatives(
            comparison, negatives, negative_ids, negative_mask
        )
        (further,) = others.statistics(LogSumExp("all"))
        joined = tf.reduce_logsumexp(tf.stack([everything[0], further]), axis=0)
        everything = tf.stack([joined, everything[1]])
    values = tf.nn.relu(everything - tf.math.divide_no_nan(logits, weight))
    counts = tf.cast(weight > 0, values.dtype)  # (2, n)
    values = tf.where(weight > 0, values, tf.zeros_like(values))
    total = tf.reduce_sum(counts, axis=0)
    return tf.math.divide_no_nan(tf.reduce_sum(values, axis=0), total), total / 2
