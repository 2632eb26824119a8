"""DINO's loss: the student's distribution over output columns follows the teacher's, which is centred and sharpened."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import (
    check_at_least,
    check_integer,
    check_positive,
    shape_text,
)
from keras_contrastive._numerics import as_real, as_scalar
from keras_contrastive.losses._base import LossLayer, rows_of_pairs


def dino_loss(
    student,
    teacher,
    *,
    center=None,
    student_temperature=0.1,
    teacher_temperature=0.04,
) -> tf.Tensor:
    """Cross-entropy of the student's softmax against the teacher's, of another view of the same image.

    Per row -sum_k softmax((t - c) / tau_t)_k log softmax(s / tau_s)_k, with s the row of the student, t that of the
    teacher and c the center. No gradient flows into teacher or center.

    Args:
        student: Float `(n, dim)`, the outputs of the student's head, not normalised.
        teacher: Float `(n, dim)`, those of the teacher's; row i is the target of row i of `student`.
        center: Float `(dim,)`, subtracted from the teacher's rows, or None: none.
        student_temperature: Float > 0, tau_s, or a float scalar tensor.
        teacher_temperature: Float > 0, tau_t, or a float scalar tensor: of a schedule.

    Returns:
        Float `(n,)`, >= 0, float64 for float64 inputs, else float32, not reduced. Every row counts.

    Raises:
        ValueError: A temperature is not positive, or a shape is known to be wrong.

    Reference:
        Caron et al., 2021, Emerging Properties in Self-Supervised Vision Transformers, Algorithm 1. DINOv2 sums over
        the pairs of views, where this is of one pair.

    Example:
        >>> student, teacher = [[0.0, 0.0]], [[1.0, 0.0]]
        >>> dino_loss(student, teacher).numpy().round(4)  # log(2), whatever the teacher
        array([0.6931], dtype=float32)
    """
    return _dino(
        student,
        teacher,
        center=center,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )


@keras.saving.register_keras_serializable("keras_contrastive")
class DINOLoss(LossLayer):
    """`dino_loss` as a layer that keeps the center: `loss(student, teacher, sample_weight=None)`.

    It returns the loss and adds it nowhere: see `SigmoidLoss`. The variable `center` `(dim,)`, zeros at first and not
    trained, is the moving average of the teacher's outputs. A call leaves it as it is: `update(targets)` moves it,
    which `ContrastiveLossLayer` calls once a training step, after the loss.

    Args:
        dim: Integer >= 1, the width of the outputs.
        student_temperature: Float > 0.
        teacher_temperature: Float > 0. A `teacher_temperature=` in the call takes its place: a schedule.
        center_momentum: Float in [0, 1], how much of the center an update keeps.
        warmup_temperature: Float > 0, the teacher's temperature at the beginning, or None: it stays.
        warmup_steps: Integer >= 0: it rises (or falls) to `teacher_temperature` evenly over so many training steps.
        reduction: `"sum_over_batch_size"` (the mean over rows), `"sum"` or `"none"`.
        name: Name of the layer.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: An argument is out of its range, or `reduction` is unknown.
    """

    families = ("pairs",)
    symmetric = False

    def __init__(
        self,
        dim: int,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        center_momentum: float = 0.9,
        *,
        warmup_temperature: float | None = None,
        warmup_steps: int = 0,
        reduction: str = "sum_over_batch_size",
        name: str = "dino_loss",
        **kwargs,
    ):
        check_integer(1, dim=dim)
        check_positive(
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        _check_momentum(center_momentum)
        check_integer(0, warmup_steps=warmup_steps)
        if warmup_temperature is not None:
            check_positive(warmup_temperature=warmup_temperature)
        options = {
            "dim": dim,
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
            "center_momentum": center_momentum,
            "warmup_temperature": warmup_temperature,
            "warmup_steps": warmup_steps,
        }
        super().__init__(options, reduction=reduction, name=name, **kwargs)
        self.center = self.add_weight(
            name="center", shape=(dim,), initializer="zeros", trainable=False
        )
        if self._warms_up:
            self.step = self.add_weight(
                name="step",
                shape=(),
                dtype="int64",
                initializer="zeros",
                trainable=False,
            )
        self.built = True

    @property
    def _warms_up(self) -> bool:
        return self.warmup_temperature is not None and self.warmup_steps > 0

    def current_teacher_temperature(self):
        """The teacher's temperature of this training step: a float, or a float32 scalar tensor."""
        if not self._warms_up:
            return self.teacher_temperature
        done = tf.cast(tf.convert_to_tensor(self.step), tf.float32) / self.warmup_steps
        rise = self.teacher_temperature - self.warmup_temperature
        return self.warmup_temperature + rise * tf.minimum(done, 1.0)

    def values_and_counts(self, student, teacher, *, teacher_temperature=None):
        """Loss of each row `(n,)`, and ones: every row counts."""
        if teacher_temperature is None:
            teacher_temperature = self.current_teacher_temperature()
        values = _dino(
            student,
            teacher,
            center=tf.convert_to_tensor(self.center),
            student_temperature=self.student_temperature,
            teacher_temperature=teacher_temperature,
        )
        return values, tf.ones_like(values)

    def update(self, targets) -> None:
        """Move the center towards the mean over the rows of `targets`, float `(..., dim)`, and count the training step.

        The targets are the teacher's outputs.

        Raises:
            ValueError: The targets are known to be of another width.
        """
        targets = tf.convert_to_tensor(targets)
        if not targets.shape[-1:].is_compatible_with([self.dim]):
            raise ValueError(
                f"`targets` must have rows of width `dim`, {self.dim}. "
                f"Received: targets.shape={shape_text(targets.shape)}."
            )
        center = tf.convert_to_tensor(self.center)
        rows = tf.reshape(tf.cast(targets, center.dtype), [-1, self.dim])
        kept = self.center_momentum
        moved = kept * center + (1 - kept) * tf.reduce_mean(rows, axis=0)
        self.center.assign(tf.where(tf.shape(rows)[0] > 0, moved, center))
        if self._warms_up:
            self.step.assign_add(1)


def _dino(student, teacher, *, center, student_temperature, teacher_temperature):
    check_positive(
        student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    student, teacher = rows_of_pairs(student=student, teacher=teacher)
    logits = as_real(student)
    targets = tf.cast(teacher, logits.dtype)
    if center is not None:
        center = tf.cast(center, logits.dtype)
        _check_center(center, student)
        targets -= center
    targets = tf.nn.softmax(targets / as_scalar(teacher_temperature, logits.dtype))
    return tf.nn.softmax_cross_entropy_with_logits(
        tf.stop_gradient(targets), logits / as_scalar(student_temperature, logits.dtype)
    )


def _check_momentum(center_momentum) -> None:
    check_at_least(0, center_momentum=center_momentum)
    if center_momentum > 1:
        raise ValueError(
            f"`center_momentum` must be at most 1. Received: center_momentum={center_momentum!r}."
        )


def _check_center(center, student) -> None:
    if not center.shape.is_compatible_with(student.shape[1:]):
        raise ValueError(
            "`center` must have shape (dim,), as wide as `student`. Received: "
            f"center.shape={shape_text(center.shape)}, student.shape={shape_text(student.shape)}."
        )
