"""Optimizers of the papers that Keras lacks, the learning rate's schedule, and its scaling with the batch.

`MomentumSGD` and `LARS` add the weight decay to the gradient, where it passes through the momentum, as PyTorch's SGD
and the papers' code do; Keras' `weight_decay` takes it off the weights apart from the gradient. Both keep the learning
rate inside the velocity, as Keras does: PyTorch multiplies by it afterwards, which differs while the rate changes, by
the momentum that was gathered under another rate.

They are computed in float32 (float64 for float64 variables), also where variables are kept in half precision. Sparse
gradients are made dense, since decay, momentum and norms concern every row. Keras' own options clip or accumulate the
gradient before the decay is added.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import (
    check_at_least,
    check_choice,
    check_integer,
    check_numbers,
    check_positive,
)
from keras_contrastive._compat import SlotOptimizer, path_of
from keras_contrastive._numerics import as_real

RULES = ("linear", "sqrt")


class _DecayedMomentum(SlotOptimizer):
    """Momentum on the gradient with L2 decay; a subclass may scale the rate of each variable.

    `weight_decay` is kept as `l2`: the attribute `weight_decay` is Keras' own decay, which stays None.
    """

    def __init__(
        self, learning_rate, momentum, weight_decay, nesterov, exclude, name, **kwargs
    ):
        if not isinstance(
            learning_rate, keras.optimizers.schedules.LearningRateSchedule
        ):
            check_at_least(0, learning_rate=learning_rate)
            learning_rate = float(learning_rate)  # Keras 3 refuses an integer
        check_at_least(0, momentum=momentum, weight_decay=weight_decay)
        if momentum >= 1:
            raise ValueError(f"`momentum` must be < 1. Received: momentum={momentum}.")
        check_choice("nesterov", nesterov, (False, True))
        _check_names(exclude)
        super().__init__(learning_rate, name=name, **kwargs)
        self.momentum = float(momentum)
        self.l2 = float(weight_decay)
        self.nesterov = bool(nesterov)
        self.exclude = tuple(exclude)

    def build_slots(self, variables) -> None:
        self.velocities = [
            self.add_variable_from_reference(variable, "velocity")
            for variable in variables
        ]
        # By index: in an update, variables are without their Keras path, and a replica's has another name.
        self._excluded = frozenset(
            index
            for index, variable in enumerate(variables)
            if path_of(variable).split("/")[-1] in self.exclude
        )

    def update(self, gradient, variable, index: int, learning_rate) -> None:
        weights, velocity = as_real(variable), self.velocities[index]
        gradient = tf.cast(_dense(gradient, variable), weights.dtype)
        rate = tf.cast(learning_rate, weights.dtype)
        if index not in self._excluded:
            if self.l2:
                gradient = gradient + self.l2 * weights
            rate = self.adapted(rate, weights, gradient)
        step = self.momentum * as_real(velocity) + rate * gradient
        velocity.assign(tf.cast(step, velocity.dtype))
        if self.nesterov:
            step = self.momentum * step + rate * gradient
        variable.assign_sub(tf.cast(step, variable.dtype))

    def adapted(self, rate: tf.Tensor, weights: tf.Tensor, gradient: tf.Tensor):
        """The rate of a variable."""
        return rate

    def exclude_from_weight_decay(self, var_list=None, var_names=None) -> None:
        """Not of these optimizers: the decay that it would change is Keras' own.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} takes `exclude` in the constructor instead of `exclude_from_weight_decay`."
            f" Received: var_list={var_list!r}, var_names={var_names!r}."
        )

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.l2,
            "nesterov": self.nesterov,
            "exclude": list(self.exclude),
        }


@keras.saving.register_keras_serializable("keras_contrastive")
class MomentumSGD(_DecayedMomentum):
    """Gradient descent with momentum and L2 decay, as MoCo, SimSiam and SwAV train.

    Per variable w with gradient g: g <- g + weight_decay w; v <- momentum v + learning_rate g; w <- w - v, or with
    `nesterov` w <- w - (momentum v + learning_rate g), v being the new one. Without decay it is Keras' `SGD`.

    Args:
        learning_rate: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` such as `WarmupCosine`.
        momentum: Float in [0, 1).
        weight_decay: Float >= 0. The gradient of weight_decay / 2 |w|^2.
        nesterov: Whether the step looks ahead by the momentum.
        exclude: Names of variables without decay, such as `("bias", "gamma", "beta")`. A name is the last component
            of the variable's path: "bias" matches "bias" of every layer, not "kernel" of a layer "bias_net".
        name: Name of the optimizer.
        **kwargs: Keras' options: `clipnorm`, `global_clipnorm`, `clipvalue`, `use_ema`, ..., and on Keras 3
            `gradient_accumulation_steps`, with which a schedule counts batches, not updates; Keras' `fit` takes it
            on one replica only.

    Raises:
        ValueError: An argument is outside its range.

    Reference:
        He et al., 2020, Momentum Contrast for Unsupervised Visual Representation Learning, Sec. 4 (0.03, momentum 0.9,
        weight decay 1e-4, batch 256). Nesterov: Sutskever et al., 2013, On the importance of initialization and
        momentum in deep learning.

    Example:
        >>> weights = tf.Variable([1.0, 2.0])
        >>> optimizer = MomentumSGD(0.1, weight_decay=0.5)
        >>> _ = optimizer.apply_gradients([(tf.constant([0.0, 1.0]), weights)])
        >>> weights.numpy()
        array([0.95, 1.8 ], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float = 0.03,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        exclude: tuple[str, ...] = (),
        name: str = "momentum_sgd",
        **kwargs,
    ):
        super().__init__(
            learning_rate, momentum, weight_decay, nesterov, exclude, name, **kwargs
        )


@keras.saving.register_keras_serializable("keras_contrastive")
class LARS(_DecayedMomentum):
    """Layer-wise adaptive rate scaling: every variable moves by a share of its own length, for large batches.

    Per variable w with gradient g: g <- g + weight_decay w; ratio = trust_coefficient |w| / |g| where both norms are
    > 0, else 1; v <- momentum v + learning_rate ratio g; w <- w - v, or with `nesterov`
    w <- w - (momentum v + learning_rate ratio g), v being the new one. Variables of `exclude` get neither decay nor
    adaptation (ratio 1). Norms are over the whole variable, in float32; one whose square does not fit (below 1e-19)
    counts as 0.

    With `clip` the rate of a variable is min(learning_rate, ratio) instead of learning_rate ratio: LARC. Where the
    ratio is large, the step is that of plain momentum.

    This is the form of SimCLR's and BYOL's code. In the paper's the decay stands outside the norm, in
    ratio = trust_coefficient |w| / (|g| + weight_decay |w|).

    Args:
        learning_rate: Float >= 0, or a `keras.optimizers.schedules.LearningRateSchedule` such as `WarmupCosine`. The
            papers' are scaled with the batch: `scale_learning_rate`.
        momentum: Float in [0, 1).
        weight_decay: Float >= 0. The gradient of weight_decay / 2 |w|^2.
        trust_coefficient: Float > 0, the share of its length by which a variable moves at learning rate 1. With `clip`
            0.02 is usual.
        nesterov: Whether the step looks ahead by the momentum.
        exclude: Names of variables that are trained as by plain momentum. A name is the last component of the
            variable's path: "bias" matches "bias" of every layer, not "kernel" of a layer "bias_net". Nothing is
            excluded for its rank: name the scales of your own layers too, and "log_temperature" where it is learned.
        clip: Whether the learning rate bounds the rate of each variable, and does not multiply it.
        name: Name of the optimizer.
        **kwargs: Keras' options: `clipnorm`, `global_clipnorm`, `clipvalue`, `use_ema`, ..., and on Keras 3
            `gradient_accumulation_steps`, with which a schedule counts batches, not updates; Keras' `fit` takes it
            on one replica only.

    Raises:
        ValueError: An argument is outside its range.

    Reference:
        You, Gitman, Ginsburg, 2017, Large Batch Training of Convolutional Networks, Algorithm 1; `clip` is LARC, of
        NVIDIA's Apex. As used by Chen et
        al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Sec. 2.2 (0.3 per 256 images,
        weight decay 1e-6) and Grill et al., 2020, Bootstrap Your Own Latent, Sec. 3.3 (0.2, 1.5e-6).

    Example:
        >>> weights = tf.Variable([3.0, 4.0])
        >>> optimizer = LARS(1.0, trust_coefficient=0.1)  # moves by a tenth of the length 5
        >>> _ = optimizer.apply_gradients([(tf.constant([0.0, 1000.0]), weights)])
        >>> weights.numpy()
        array([3. , 3.5], dtype=float32)
    """

    def __init__(
        self,
        learning_rate: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        nesterov: bool = False,
        exclude: tuple[str, ...] = ("bias", "gamma", "beta"),
        clip: bool = False,
        name: str = "lars",
        **kwargs,
    ):
        check_numbers(trust_coefficient=trust_coefficient)
        check_positive(trust_coefficient=trust_coefficient)
        check_choice("clip", clip, (False, True))
        super().__init__(
            learning_rate, momentum, weight_decay, nesterov, exclude, name, **kwargs
        )
        self.trust_coefficient = float(trust_coefficient)
        self.clip = bool(clip)

    def adapted(self, rate, weights, gradient):
        ratio, known = self._ratio(weights, gradient)
        chosen = tf.minimum(rate, ratio) if self.clip else rate * ratio
        return tf.where(known, chosen, rate)

    def trust_ratio(self, weights: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        """trust_coefficient |w| / |g|; 1 where either is 0."""
        ratio, known = self._ratio(weights, gradient)
        return tf.where(known, ratio, tf.ones_like(ratio))

    def _ratio(self, weights, gradient):
        """The ratio, and whether both norms are > 0."""
        length, slope = tf.norm(weights), tf.norm(gradient)
        ratio = self.trust_coefficient * tf.math.divide_no_nan(length, slope)
        return ratio, (length > 0) & (slope > 0)

    def get_config(self) -> dict:
        own = {"trust_coefficient": self.trust_coefficient, "clip": self.clip}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_contrastive")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises in a straight line, then falls by half a cosine.

    From `initial_learning_rate` at step 0 to `learning_rate` at `warmup_steps`, exactly, and from there to
    `final_learning_rate` at `steps`, where it stays:
    final + (learning_rate - final) (1 + cos(pi (step - warmup_steps) / (steps - warmup_steps))) / 2.

    Computed in float64 and then rounded, so it is right to the last digit of float32 at any step below 2^53.

    Args:
        learning_rate: Float > 0, the rate after the warm-up.
        steps: Integer >= 1, how many steps the whole schedule takes, the warm-up among them. Keras counts a step for
            every batch, also where it accumulates gradients.
        warmup_steps: Integer from 0, which begins with `learning_rate`, to `steps`, which leaves no cosine:
            `final_learning_rate` follows at once after step `steps`.
        initial_learning_rate: Float >= 0, the rate at step 0 of a warm-up.
        final_learning_rate: Float >= 0.

    Raises:
        ValueError: An argument is outside its range.

    Reference:
        Loshchilov, Hutter, 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, Eq. 5, without restarts. The
        warm-up: Goyal et al., 2017, Accurate, Large Minibatch SGD, Sec. 2.2.

    Example:
        >>> rate = WarmupCosine(0.5, 100, warmup_steps=20)
        >>> [float(rate(step)) for step in (0, 10, 20, 60, 100)]
        [0.0, 0.25, 0.5, 0.25, 0.0]
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        *,
        warmup_steps: int = 0,
        initial_learning_rate: float = 0.0,
        final_learning_rate: float = 0.0,
    ):
        super().__init__()
        check_numbers(learning_rate=learning_rate)
        check_positive(learning_rate=learning_rate)
        check_at_least(
            0,
            initial_learning_rate=initial_learning_rate,
            final_learning_rate=final_learning_rate,
        )
        check_integer(1, steps=steps)
        check_integer(0, warmup_steps=warmup_steps)
        if warmup_steps > steps:
            raise ValueError(
                f"`warmup_steps` must be at most `steps`. Received: warmup_steps={warmup_steps}, steps={steps}."
            )
        self.learning_rate = float(learning_rate)
        self.steps = int(steps)
        self.warmup_steps = int(warmup_steps)
        self.initial_learning_rate = float(initial_learning_rate)
        self.final_learning_rate = float(final_learning_rate)

    def __call__(self, step) -> tf.Tensor:
        """The rate at a step.

        Args:
            step: Integer or float, or a tensor of them of any shape. Below 0 it counts as 0.

        Returns:
            Float32 tensor of the shape of `step`.
        """
        step = tf.convert_to_tensor(step, dtype_hint=tf.float64)
        step = tf.maximum(tf.cast(step, tf.float64), 0.0)
        left = (self.steps - step) / max(self.steps - self.warmup_steps, 1)
        left = tf.clip_by_value(left, 0.0, 1.0)
        # (1 + cos(pi (1 - left))) / 2, without the digits that 1 + cos loses near the end.
        high = tf.square(tf.sin(math.pi / 2 * left))
        rate = _between(self.final_learning_rate, self.learning_rate, high)
        if self.warmup_steps:
            risen = tf.minimum(step / self.warmup_steps, 1.0)
            rising = _between(self.initial_learning_rate, self.learning_rate, risen)
            rate = tf.where(step <= self.warmup_steps, rising, rate)
        return tf.cast(rate, tf.float32)

    def get_config(self) -> dict:
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "initial_learning_rate": self.initial_learning_rate,
            "final_learning_rate": self.final_learning_rate,
        }


def scale_learning_rate(
    learning_rate: float,
    batch_size: int,
    *,
    base_batch_size: int = 256,
    rule: str = "linear",
) -> float:
    """The learning rate for a batch of another size than the one it was found with.

    "linear": learning_rate * batch_size / base_batch_size, for SGD and LARS. "sqrt":
    learning_rate * sqrt(batch_size / base_batch_size), which keeps the variance of a step; for Adam and LAMB, and in
    SimCLR for small batches of few epochs.

    Args:
        learning_rate: Float > 0, for `base_batch_size`.
        batch_size: Integer >= 1, images of a step: of all replicas, and of all batches that are accumulated.
        base_batch_size: Integer >= 1. The papers give their rates for 256.
        rule: `"linear"` or `"sqrt"`.

    Returns:
        Float > 0.

    Raises:
        ValueError: An argument is outside its range, or the rule unknown.

    Reference:
        Linear: Goyal et al., 2017, Accurate, Large Minibatch SGD, Sec. 2.1. Square root: Krizhevsky, 2014, One weird
        trick for parallelizing convolutional neural networks, Sec. 5; You et al., 2020, Large Batch Optimization for
        Deep Learning (LAMB), Sec. 4.

    Example:
        >>> scale_learning_rate(0.3, 4096)
        4.8
        >>> scale_learning_rate(0.001, 1024, rule="sqrt")
        0.002
    """
    check_numbers(learning_rate=learning_rate)
    check_positive(learning_rate=learning_rate)
    check_integer(1, batch_size=batch_size, base_batch_size=base_batch_size)
    check_choice("rule", rule, RULES)
    factor = batch_size / base_batch_size
    return float(learning_rate) * (math.sqrt(factor) if rule == "sqrt" else factor)


def _between(low: float, high: float, share: tf.Tensor) -> tf.Tensor:
    """`low` at share 0, `high` at share 1, both exactly, which low + share (high - low) is not."""
    return low * (1.0 - share) + high * share


def _dense(gradient, variable) -> tf.Tensor:
    """The gradient as a real tensor; that of an embedding's rows comes as `tf.IndexedSlices`, repeated rows added up."""
    if not isinstance(gradient, tf.IndexedSlices):
        return as_real(gradient)
    return tf.math.unsorted_segment_sum(
        as_real(gradient.values), gradient.indices, variable.shape[0]
    )


def _check_names(exclude) -> None:
    """Raise unless `exclude` is a list of last components of paths."""
    if not isinstance(exclude, (list, tuple)) or not all(
        isinstance(name, str) and name and "/" not in name for name in exclude
    ):
        raise ValueError(
            "`exclude` must be a list of names, each the last component of a variable's path, such as ['bias']. "
            f"Received: exclude={exclude!r}."
        )
