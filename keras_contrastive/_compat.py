"""The only module that asks which Keras it runs on: 3 (the main line) or 2.15 (the addons line)."""

from __future__ import annotations

import keras
import tensorflow as tf

KERAS_3 = int(keras.__version__.split(".")[0]) >= 3


def versions() -> dict[str, str]:
    """What runs here, by name."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__}


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


def learning_rate_of(optimizer) -> float:
    """The learning rate of the next step.

    The attribute gives that on Keras 3. On Keras 2.15 it gives the rate of the last step where there is a schedule, and
    the schedule itself in Keras' legacy optimizers.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rate = optimizer.learning_rate
    if not KERAS_3:
        rate = getattr(optimizer, "_learning_rate", rate)
        rate = rate(optimizer.iterations) if callable(rate) else rate
    return float(tf.convert_to_tensor(rate).numpy())


def has_gpu() -> bool:
    """Whether TensorFlow may use a GPU here: one is present and not hidden."""
    return bool(tf.config.get_visible_devices("GPU"))


def path_of(variable) -> str:
    """A variable's readable name: Keras 3 has `path`, Keras 2.15 a `name` with an output number."""
    return getattr(variable, "path", variable.name.split(":")[0])


def hide_from_training(network) -> None:
    """Take the variables of a network from its model's trainable ones, without freezing its layers.

    A frozen batch normalisation would no longer use the statistics of its batches. Keras 3 asks each variable
    whether it is trainable; Keras 2.15 asks the layer that holds the network, which has to answer itself.
    """
    if KERAS_3:
        for variable in network.trainable_variables:
            variable.trainable = False


def sublayers(network) -> list:
    """The network and all layers within it, each before those that it holds. Neither Keras names them publicly."""
    return list(network._flatten_layers())


def call_with_values(network, values: list, inputs):
    """What the network gives, not in training, with other values in place of some of its weights.

    Args:
        network: Functional `keras.Model`.
        values: Pairs of a weight and a tensor of its shape.
        inputs: What the network is called on.
    """
    if not values:
        return network(inputs, training=False)
    value_of = {id(weight): value for weight, value in values}
    if KERAS_3:
        trainable, others = (
            [value_of.get(id(weight), weight.value) for weight in weights]
            for weights in (
                network.trainable_variables,
                network.non_trainable_variables,
            )
        )
        return network.stateless_call(trainable, others, inputs, training=False)[0]
    # Keras 2.15 knows no such call: the attributes that hold the weights hold the values meanwhile.
    held = [
        (layer, name, weight)
        for layer in sublayers(network)
        for name, weight in vars(layer).items()
        if id(weight) in value_of
    ]
    if len({id(weight) for _, _, weight in held}) < len(value_of):
        raise ValueError(
            "Keras 2.15 can take other values in place of weights that are attributes of their layers alone. "
            f"Received: {network.name}, of whose weights some are held otherwise."
        )
    try:
        for layer, name, weight in held:
            value = tf.cast(value_of[id(weight)], layer.compute_dtype)
            vars(layer)[name] = value
        return network(inputs, training=False)
    finally:
        for layer, name, weight in held:
            vars(layer)[name] = weight


def draws_without_state(network) -> bool:
    """Whether a layer draws, in training, numbers whose generator is no weight and cannot be put back (Keras 2.15)."""
    return not KERAS_3 and any(
        hasattr(layer, "_random_generator") for layer in sublayers(network)
    )


def count_updates(optimizer):
    """How often the optimizer has moved the weights: an integer tensor, or None where it moves them at every call.

    Gradients that are accumulated first, and float16 steps that are skipped, do not count on Keras 3. Keras 2.15
    counts skipped ones: see `has_moved`.
    """
    if not KERAS_3:
        return None
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner is optimizer and not optimizer.gradient_accumulation_steps:
        return None
    return tf.convert_to_tensor(inner.iterations)


def has_moved(optimizer, before, gradients):
    """Whether a call of `apply_gradients` has moved the weights: True, or a bool scalar tensor.

    Args:
        optimizer: The optimizer.
        before: What `count_updates` gave before the call.
        gradients: What it was called with.
    """
    if before is not None:
        return tf.not_equal(count_updates(optimizer), before)
    if hasattr(optimizer, "get_unscaled_gradients"):  # it skips what is not finite
        finite = [
            tf.reduce_all(tf.math.is_finite(gradient))
            for gradient in gradients
            if gradient is not None
        ]
        return tf.reduce_all(tf.stack(finite))
    return True


class SlotOptimizer(keras.optimizers.Optimizer):
    """Keras' optimizer in one form for both lines, without Keras' own weight decay.

    A subclass defines `build_slots(variables)`, which creates a list of slots by `add_variable_from_reference`, and
    `update(gradient, variable, index, learning_rate)`, where `index` is the variable's place in that list.

    Args:
        learning_rate: Float or `LearningRateSchedule`.
        name: Name of the optimizer.
        **kwargs: Options of Keras' optimizer.
    """

    def __init__(self, learning_rate, *, name: str, **kwargs):
        # Explicitly None: 2.15 would decay by 0, at the cost of a pass over the weights.
        if KERAS_3:
            super().__init__(learning_rate, weight_decay=None, name=name, **kwargs)
        else:
            super().__init__(name, weight_decay=None, **kwargs)
            self._learning_rate = self._build_learning_rate(learning_rate)

    def build(self, variables) -> None:
        """Create the slots, once."""
        if getattr(self, "_built", False):
            return
        super().build(variables)
        self.build_slots(variables)
        self._built = True  # Keras 3 sets `built`, 2.15 leaves this to us

    def update_step(self, gradient, variable, learning_rate=None) -> None:
        """What Keras calls for each variable; 2.15 hands over no learning rate."""
        if KERAS_3:
            index = self._get_variable_index(variable)
        else:
            index = self._index_dict[self._var_key(variable)]
            learning_rate = self.learning_rate
        self.update(gradient, variable, index, learning_rate)

    def get_config(self) -> dict:
        config = super().get_config()
        if "learning_rate" not in config:  # 2.15 leaves it to us
            rate = self._learning_rate
            if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
                config["learning_rate"] = keras.optimizers.schedules.serialize(rate)
            else:
                config["learning_rate"] = float(rate.numpy())
        return config
