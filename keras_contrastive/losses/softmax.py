"""The softmax family: how likely each anchor finds its positives among all its columns."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_positive
from keras_contrastive._numerics import as_scalar, normalize_rows
from keras_contrastive.losses._base import ContrastiveLossBase
from keras_contrastive.losses.sets import check_sets, match


def nt_xent_loss(ids, embeddings, *, temperature=0.1, **sets) -> tf.Tensor:
    """Cross-entropy of finding an anchor's positive among all other rows, by cosine similarity.

    Per anchor i with the positives P: the mean over p in P of -s_ip / t + log sum_{a != i} exp(s_ia / t),
    with s the cosine similarity and t the temperature. With one positive each (two views of an image) this is
    SimCLR's loss; with several it is SupCon's with the sum outside the logarithm. Rows are normalised inside.

    Args:
        ids: int `(n,)`: rows with the same id are positives of each other, -1 matches nothing. Or multi-hot
            float or bool `(n, classes)`: a positive weighs as many labels as it shares.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a float scalar tensor (gradients flow into it).
        **sets: Keyword arguments of all losses over sets:
            `candidates` float `(columns, dim)` replace the batch as the other side, with `candidate_ids`;
            `self_index` int `(n,)`: the anchor's own column, which is left out (-1: none);
            `candidate_mask` bool `(columns,)` or `(n, columns)`: False takes the column out;
            `negative_only` bool `(columns,)`: True leaves the column out for anchors of its id;
            `positives` float `(n, columns)`: weights >= 0 in place of equal ids;
            `candidate_log_probability` float `(columns,)`: log of how likely a column was drawn, subtracted
            from its logit, the positive's too (logQ correction).

    Returns:
        Float `(n,)`, >= 0, float64 for float64 embeddings, else float32, not reduced: 0 for an anchor without
        a positive, which does not count. A row of zeros has similarity 0 to all.

    Raises:
        ValueError: `temperature` is not positive, or a rank or length is known to be wrong.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Eq. 1;
        Khosla et al., 2020, Supervised Contrastive Learning, Eq. 2 (several positives).
        SimCLR's public code returns the sum of both directions, twice this mean.

    Example:
        >>> nt_xent_loss([7, 7], [[1.0, 0.0], [0.0, 1.0]]).numpy()  # one column: certain
        array([0., 0.], dtype=float32)
    """
    return _nt_xent(ids, embeddings, temperature=temperature, **sets)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class NTXentLoss(ContrastiveLossBase):
    """`nt_xent_loss` as a Keras loss: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Also for `model.compile(loss=NTXentLoss())` on labelled data, the labels being the ids.

    Args:
        temperature: Float > 0. A `temperature=` in the call takes its place.
        reduction: `"sum_over_batch_size"` (the mean over anchors that count), `"sum"` or `"none"`.
        name: Name of the loss.

    Raises:
        ValueError: `temperature` is not a finite number > 0, or `reduction` is unknown.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "nt_xent_loss",
    ):
        check_positive(temperature=temperature)
        super().__init__(reduction=reduction, name=name)
        self.temperature = temperature

    def values_and_counts(self, y_true, y_pred, *, temperature=None, **sets):
        temperature = self.temperature if temperature is None else temperature
        return _nt_xent(y_true, y_pred, temperature=temperature, **sets)

    def get_config(self) -> dict:
        return {**super().get_config(), "temperature": self.temperature}


def _nt_xent(
    ids,
    embeddings,
    *,
    temperature,
    candidates=None,
    candidate_log_probability=None,
    **sets,
):
    check_positive(temperature=temperature)
    # Normalised before any cast to float32: the floor for tiny rows depends on the dtype they came in.
    check_sets(
        ids,
        embeddings,
        candidates=candidates,
        candidate_log_probability=candidate_log_probability,
        **sets,
    )
    anchors = normalize_rows(embeddings)
    columns = (
        anchors
        if candidates is None
        else tf.cast(normalize_rows(candidates), anchors.dtype)
    )
    exists, weight = match(
        ids,
        num_candidates=None if candidates is None else tf.shape(columns)[0],
        dtype=anchors.dtype,
        **sets,
    )
    logits = tf.matmul(anchors, columns, transpose_b=True) / as_scalar(
        temperature, anchors.dtype
    )  # (n, columns)
    if candidate_log_probability is not None:
        logits -= tf.cast(candidate_log_probability, logits.dtype)[None, :]
    # A large finite number, not -inf: a row without columns then has a finite gradient.
    normalizer = tf.reduce_logsumexp(
        tf.where(exists, logits, logits.dtype.min / 4), axis=1
    )  # (n,)
    total = tf.reduce_sum(weight, axis=1)
    surprise = tf.where(weight > 0, normalizer[:, None] - logits, tf.zeros_like(logits))
    values = tf.math.divide_no_nan(tf.reduce_sum(weight * surprise, axis=1), total)
    return values, tf.cast(total > 0, values.dtype)
