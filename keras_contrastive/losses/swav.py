"""SwAV's loss: the clusters of one view, assigned evenly over the batch, are told from the other view."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import (
    check_integer,
    check_positive,
    check_rank,
    shape_text,
)
from keras_contrastive._numerics import as_scalar, normalize_rows, replace_oldest
from keras_contrastive.losses._base import LossLayer, rows_of_pairs
from keras_contrastive.losses._blocks import FIXED_RANGE


def swav_loss(
    first,
    second,
    *,
    prototypes,
    temperature=0.1,
    epsilon=0.05,
    iterations=3,
    both_ways=True,
    queue=None,
) -> tf.Tensor:
    """Cross-entropy of telling the code of each view from the other view, averaged over both directions.

    Per row the mean over both directions of -sum_k q_k log softmax(s / t)_k, with s_k the cosine of the row and
    prototype k, t the temperature and q the code of the row's partner: exp(cosine / epsilon), scaled in turns so
    that over the batch all prototypes get the same share, and the entries of a row sum to 1 (Sinkhorn-Knopp). No
    gradient flows through the codes.

    Args:
        first: Float `(n, dim)`, normalised inside.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        prototypes: Float `(num_prototypes, dim)`, normalised inside.
        temperature: Float > 0, t, or a float scalar tensor (gradients flow into it).
        epsilon: Float > 0. Smaller: sharper codes.
        iterations: Integer >= 1, the turns of the scaling.
        both_ways: False: only the code of `second` is told from `first`, not the other way round: for small crops,
            which have no codes.
        queue: Float `(m, dim)` of earlier batches, normalised inside, or None. The scaling is over them and the batch
            together: for batches that are small beside the number of prototypes.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32, not reduced. Every row counts.

    Raises:
        ValueError: `temperature` or `epsilon` is not positive, `iterations` is no integer >= 1, or a shape is known
            to be wrong.

    Reference:
        Caron et al., 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, Eq. 2 and 3,
        and Algorithm 1. Its code normalises the prototypes after each step, not inside; the loss is the same.

    Example:
        >>> first, second = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> loss = swav_loss(first, second, prototypes=first, temperature=1.0)
        >>> loss.numpy().round(4)  # each has a prototype of its own: log(1 + 1 / e)
        array([0.3133, 0.3133], dtype=float32)
    """
    return _swav(
        first,
        second,
        prototypes=prototypes,
        temperature=temperature,
        epsilon=epsilon,
        iterations=iterations,
        both_ways=both_ways,
        queue=queue,
    )


@keras.saving.register_keras_serializable("keras_contrastive")
class SwAVLoss(LossLayer):
    """`swav_loss` as a layer that learns its prototypes: `loss(first, second, sample_weight=None)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The variable `prototypes` `(num_prototypes, dim)` is
    made at the first call. `update(targets)`, which `ContrastiveLossLayer` calls once a training step, fills the queue and
    counts the steps.

    Args:
        num_prototypes: Integer >= 1.
        temperature: Float > 0. A `temperature=` in the call takes its place.
        epsilon: Float > 0.
        iterations: Integer >= 1.
        both_ways: As of `swav_loss`; False where the model has a target, as with several sizes of crops.
        freeze_steps: Integer >= 0: in so many training steps at the beginning the prototypes get no gradient.
        queue_size: Integer >= 0: how many past targets (projections, without a target), of all views, take part in the
            scaling, once there are so many. 0: none.
        queue_start: Integer >= 0: the training step from which on they do.
        reduction: `"sum_over_batch_size"` (the mean over rows), `"sum"` or `"none"`.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    families = ("pairs",)

    def __init__(
        self,
        num_prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        iterations: int = 3,
        *,
        both_ways: bool = True,
        freeze_steps: int = 0,
        queue_size: int = 0,
        queue_start: int = 0,
        reduction: str = "sum_over_batch_size",
        name: str = "swav_loss",
        **kwargs,
    ):
        check_integer(1, num_prototypes=num_prototypes, iterations=iterations)
        check_integer(
            0, freeze_steps=freeze_steps, queue_size=queue_size, queue_start=queue_start
        )
        check_positive(temperature=temperature, epsilon=epsilon)
        options = {
            "num_prototypes": num_prototypes,
            "temperature": temperature,
            "epsilon": epsilon,
            "iterations": iterations,
            "both_ways": both_ways,
            "freeze_steps": freeze_steps,
            "queue_size": queue_size,
            "queue_start": queue_start,
        }
        super().__init__(options, reduction=reduction, name=name, **kwargs)
        self.symmetric = both_ways

    def make_weights(self, dim):
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(self.num_prototypes, dim),
            initializer="random_normal",
        )
        if self.freeze_steps or self.queue_size:
            self.step = self._state("step", (), "int64")
        if self.queue_size:
            self.queue = self._state("queue", (self.queue_size, dim), "float32")
            self.queued = self._state("queued", (), "int64")

    def _state(self, name, shape, dtype):
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False
        )

    def values_and_counts(self, first, second, *, temperature=None):
        """Loss of each row `(n,)`, and ones: every row counts."""
        prototypes = tf.convert_to_tensor(self.prototypes)
        if self.freeze_steps:
            frozen = tf.convert_to_tensor(self.step) < self.freeze_steps
            prototypes = tf.where(frozen, tf.stop_gradient(prototypes), prototypes)
        values = _swav(
            first,
            second,
            prototypes=prototypes,
            temperature=self.temperature if temperature is None else temperature,
            epsilon=self.epsilon,
            iterations=self.iterations,
            both_ways=self.both_ways,
            queue=tf.convert_to_tensor(self.queue) if self.queue_size else None,
            queue_is_on=self._queue_is_on() if self.queue_size else None,
        )
        return values, tf.ones_like(values)

    def _queue_is_on(self) -> tf.Tensor:
        full = tf.convert_to_tensor(self.queued) >= self.queue_size
        return full & (tf.convert_to_tensor(self.step) >= self.queue_start)

    def update(self, targets) -> None:
        """Count the training step, and put the rows of `targets`, float `(..., dim)`, in the places of the oldest."""
        if self.freeze_steps or self.queue_size:
            self.step.assign_add(1)
        if not self.queue_size:
            return
        queued = tf.convert_to_tensor(self.queued)
        rows = tf.reshape(targets, [-1, targets.shape[-1]])
        self.queue.assign(
            replace_oldest(tf.convert_to_tensor(self.queue), rows, queued)
        )
        self.queued.assign(queued + tf.shape(rows, out_type=tf.int64)[0])


def _swav(
    first,
    second,
    *,
    prototypes,
    temperature,
    epsilon,
    iterations,
    both_ways,
    queue,
    queue_is_on=None,
):
    check_positive(temperature=temperature, epsilon=epsilon)
    check_integer(1, iterations=iterations)
    sides = rows_of_pairs(first=first, second=second)
    prototypes = tf.convert_to_tensor(prototypes)
    _check_prototypes(prototypes, sides[0])
    sides = [normalize_rows(side) for side in sides]
    prototypes = tf.cast(normalize_rows(prototypes), sides[0].dtype)
    scores = [tf.matmul(side, prototypes, transpose_b=True) for side in sides]
    past = None
    if queue is not None:
        queue = tf.cast(normalize_rows(tf.convert_to_tensor(queue)), prototypes.dtype)
        past = tf.stop_gradient(tf.matmul(queue, prototypes, transpose_b=True))
    inverse = 1 / as_scalar(temperature, prototypes.dtype)

    def told(code_of, by):
        code = _codes(
            tf.stop_gradient(scores[code_of]), past, queue_is_on, epsilon, iterations
        )
        return tf.nn.softmax_cross_entropy_with_logits(code, scores[by] * inverse)

    if not both_ways:
        return told(1, by=0)
    return (told(1, by=0) + told(0, by=1)) / 2


def _codes(scores, past, past_is_on, epsilon: float, iterations: int) -> tf.Tensor:
    """The codes of `scores` `[n, prototypes]`, scaled together with those of the queue where it is on."""
    if past is None:
        return _equal_shares(scores, epsilon, iterations)

    def with_past():
        together = _equal_shares(tf.concat([past, scores], 0), epsilon, iterations)
        return together[tf.shape(past)[0] :]

    if past_is_on is None:
        return with_past()
    alone = lambda: _equal_shares(scores, epsilon, iterations)  # noqa: E731
    return tf.cond(past_is_on, with_past, alone)


def _equal_shares(scores, epsilon: float, iterations: int) -> tf.Tensor:
    """exp(scores / epsilon) `[n, prototypes]`, columns scaled to equal sums, then rows to sums of 1, in turns."""
    if 2 / epsilon > FIXED_RANGE[scores.dtype]:
        logits = scores / epsilon
        for _ in range(iterations):
            logits = tf.nn.log_softmax(logits, axis=0)
            logits = tf.nn.log_softmax(logits, axis=1)
        return tf.exp(logits)
    # No cosine is above 1. The factors of rows and columns are all that changes: two vectors, not the matrix.
    kernel = tf.exp((scores - 1) / epsilon)
    of_rows = tf.ones_like(scores[:, :1])
    for _ in range(iterations):
        of_columns = 1 / tf.matmul(kernel, of_rows, transpose_a=True)
        of_rows = 1 / tf.matmul(kernel, of_columns)
    return of_rows * kernel * tf.transpose(of_columns)


def _check_prototypes(prototypes, first) -> None:
    check_rank(2, prototypes=prototypes)
    if not prototypes.shape[1:].is_compatible_with(first.shape[1:]):
        raise ValueError(
            "`first` and `prototypes` must have rows of one width. Received: "
            f"first.shape={shape_text(first.shape)}, prototypes.shape={shape_text(prototypes.shape)}."
        )
