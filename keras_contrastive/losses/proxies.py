"""Losses that compare rows with learned proxies, one for each class: Proxy Anchor and ProxyNCA."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_integer, check_positive
from keras_contrastive._numerics import softplus
from keras_contrastive.losses._base import LossLayer, where_counted
from keras_contrastive.losses._blocks import lowest
from keras_contrastive.losses._classes import compare_with_classes


def proxy_anchor_loss(ids, embeddings, *, proxies, margin=0.1, scale=32.0) -> tf.Tensor:
    """Each proxy, as an anchor, pulls the rows of its class and pushes all others.

    The mean over the proxies p with a row of their class in the batch of log(1 + sum_x e^{-a (cos(x, p) - m)}) over
    the rows x of the class, plus the mean over all proxies of log(1 + sum_x e^{a (cos(x, p) + m)}) over all other
    rows, with a the scale and m the margin.

    Args:
        ids: int `(n,)`, the classes of the rows. Rows whose ids are not in [0, classes) are left out.
        embeddings: Float `(n, dim)`, normalised inside.
        proxies: Float `(classes, dim)`, normalised inside.
        margin: Float >= 0, m, in units of the cosine.
        scale: Float > 0, a.

    Returns:
        Float scalar, >= 0, float64 for float64 embeddings, else float32. 0 where no row is left.

    Raises:
        ValueError: `margin` is negative, `scale` is not positive, `ids` are multi-hot, or shapes are known to be
            wrong.

    Reference:
        Kim et al., 2020, Proxy Anchor Loss for Deep Metric Learning, Eq. 4. Its code trains the proxies at 100 times
        the learning rate.

    Example:
        >>> rows, proxies = [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> loss = proxy_anchor_loss([0], rows, proxies=proxies, margin=0.0, scale=1.0)
        >>> round(float(loss), 4)  # log(1 + e^-1), and log(2) / 2
        0.6598
    """
    options = {"margin": margin, "scale": scale}
    return _proxy_anchor(ids, embeddings, proxies=proxies, **options)[0]


def proxy_nca_loss(
    ids, embeddings, *, proxies, scale=8.0, positive_in_denominator=False
) -> tf.Tensor:
    """Each row nearer to the proxy of its class than to all others.

    Per row -log( e^{-s d_y} / sum_{k != y} e^{-s d_k} ), with d_k = |x - p_k|^2 = 2 - 2 cos of the unit row and
    proxy k, y the row's class and s the scale. It may be negative.

    Args:
        ids: int `(n,)`, the classes of the rows. A row whose id is not in [0, classes) does not count.
        embeddings: Float `(n, dim)`, normalised inside.
        proxies: Float `(classes, dim)`, normalised inside.
        scale: Float > 0, s.
        positive_in_denominator: Whether the sum is over all k, as in ProxyNCA++: a cross-entropy.

    Returns:
        Float `(n,)`, float64 for float64 embeddings, else float32, not reduced: 0 for rows that do not count, which
        are all where there is a single class and the positive is excluded.

    Raises:
        ValueError: `scale` is not positive, `ids` are multi-hot, or shapes are known to be wrong.

    Reference:
        Movshovitz-Attias et al., 2017, No Fuss Distance Metric Learning using Proxies, Eq. 4, where s = 1.
        Teh et al., 2020, ProxyNCA++, Eq. 6, and pytorch-metric-learning include the positive.

    Example:
        >>> rows, proxies = [[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> proxy_nca_loss([0], rows, proxies=proxies, scale=1.0).numpy()  # 0 - 2
        array([-2.], dtype=float32)
    """
    options = {"scale": scale, "positive_in_denominator": positive_in_denominator}
    return _proxy_nca(ids, embeddings, proxies=proxies, **options)[0]


@keras.saving.register_keras_serializable("keras_contrastive")
class ProxyAnchorLoss(LossLayer):
    """`proxy_anchor_loss` as a layer that learns its proxies: `loss(ids, embeddings)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The variable `proxies` `(num_classes, dim)` is made
    at the first call. The loss is one number for the batch as a whole, so it takes no `sample_weight`.

    Args:
        num_classes: Integer >= 1; ids are in [0, num_classes).
        margin: Float >= 0, in units of the cosine.
        scale: Float > 0.
        reduction: `"sum_over_batch_size"`, `"sum"` or `"none"`, which are all the same here.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        margin: float = 0.1,
        scale: float = 32.0,
        *,
        reduction: str = "sum_over_batch_size",
        name: str = "proxy_anchor_loss",
        **kwargs,
    ):
        check_integer(1, num_classes=num_classes)
        check_at_least(0, margin=margin)
        check_positive(scale=scale)
        options = {"num_classes": num_classes, "margin": margin, "scale": scale}
        super().__init__(options, reduction=reduction, name=name, **kwargs)

    def make_weights(self, dim):
        self.proxies = _add_proxies(self, dim)

    def values_and_counts(self, ids, embeddings):
        """The loss, a scalar, and 1."""
        proxies = tf.convert_to_tensor(self.proxies)
        options = {"margin": self.margin, "scale": self.scale}
        return _proxy_anchor(ids, embeddings, proxies=proxies, **options)


@keras.saving.register_keras_serializable("keras_contrastive")
class ProxyNCALoss(LossLayer):
    """`proxy_nca_loss` as a layer that learns its proxies: `loss(ids, embeddings, sample_weight=None)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The variable `proxies` `(num_classes, dim)` is made
    at the first call.

    Args:
        num_classes: Integer >= 1; ids are in [0, num_classes).
        scale: Float > 0.
        positive_in_denominator: Whether a row's own proxy is in the sum over proxies.
        reduction: `"sum_over_batch_size"` (the mean over rows that count), `"sum"` or `"none"`.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    def __init__(
        self,
        num_classes: int,
        scale: float = 8.0,
        *,
        positive_in_denominator: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "proxy_nca_loss",
        **kwargs,
    ):
        check_integer(1, num_classes=num_classes)
        check_positive(scale=scale)
        options = {"num_classes": num_classes, "scale": scale}
        options["positive_in_denominator"] = positive_in_denominator
        super().__init__(options, reduction=reduction, name=name, **kwargs)

    def make_weights(self, dim):
        self.proxies = _add_proxies(self, dim)

    def values_and_counts(self, ids, embeddings):
        """Loss of each row `(n,)`, and whether it counts, 1 or 0."""
        return _proxy_nca(
            ids,
            embeddings,
            proxies=tf.convert_to_tensor(self.proxies),
            scale=self.scale,
            positive_in_denominator=self.positive_in_denominator,
        )


def _add_proxies(layer, dim: int):
    # Kaiming's fan-out normal of the authors' code: a deviation of sqrt(2 / num_classes).
    kaiming = keras.initializers.VarianceScaling(
        scale=2.0, mode="fan_in", distribution="untruncated_normal"
    )
    return layer.add_weight(
        name="proxies", shape=(layer.num_classes, dim), initializer=kaiming
    )


def _proxy_anchor(ids, embeddings, *, proxies, margin, scale):
    check_at_least(0, margin=margin)
    check_positive(scale=scale)
    classes = compare_with_classes(ids, embeddings, proxies=proxies)
    pull = _soft_sum(-scale * (classes.cosines - margin), classes.own)
    others = classes.known[:, None] & ~classes.own
    push = _soft_sum(scale * (classes.cosines + margin), others)
    present = tf.cast(tf.reduce_any(classes.own, axis=0), pull.dtype)
    pulled = tf.math.divide_no_nan(tf.reduce_sum(pull), tf.reduce_sum(present))
    value = pulled + tf.reduce_mean(push)
    return value, tf.ones_like(value)


def _soft_sum(logits, mask) -> tf.Tensor:
    """log(1 + sum over the rows where bool `mask` of e^logit), for each class."""
    logits = tf.where(mask, logits, lowest(logits.dtype))
    return softplus(tf.reduce_logsumexp(logits, axis=0))


def _proxy_nca(ids, embeddings, *, proxies, scale, positive_in_denominator):
    check_positive(scale=scale)
    classes = compare_with_classes(ids, embeddings, proxies=proxies)
    logits = 2 * scale * classes.cosines  # -scale d, and 2 scale, which cancels
    nearness, counts = classes.of_own(logits), classes.known
    if not positive_in_denominator:
        logits = tf.where(classes.own, lowest(logits.dtype), logits)
        counts &= tf.shape(proxies)[0] > 1
    return where_counted(counts, tf.reduce_logsumexp(logits, axis=1) - nearness)
