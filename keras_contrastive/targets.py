"""Targets: what the embeddings of a batch are compared with, where a method does not compare them with each other.

| target | the embeddings meet | gradient | methods |
|---|---|---|---|
| `SharedTarget` | the projections | flows | |
| `StopGradientTarget` | the projections | stops | SimSiam, SwAV |
| `MomentumTarget` | the outputs of a moving average of encoder and head | stops | MoCo, BYOL, DINO |
| `NearestNeighborTarget` | for each projection the nearest of past ones | stops | NNCLR |

`ContrastiveModel(encoder, loss, target=...)` calls them. One of your own is a layer with the methods of `Target`.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import check_at_least, check_integer
from keras_contrastive._compat import hide_from_training
from keras_contrastive._numerics import normalize_rows, replace_oldest


class Target(keras.layers.Layer):
    """Base of the targets: by itself, the projections with their gradient."""

    # Whether gradients flow through the targets. The model stops them otherwise.
    passes_gradient = False

    def build_like(self, encoder, head) -> None:
        """Make the weights, for an encoder and a head (or None) that are built."""
        self.built = True

    def call(self, images, projections, training=False):
        """Targets of a batch.

        Args:
            images: Float `(n, ...)`, as the encoder takes them: the views of an image are neighbours.
            projections: Float `(n, dim)`, of the model's own encoder and head on these images.
            training: Whether this is a training step.

        Returns:
            Float `(n, dim)`.
        """
        return projections

    def update(self, encoder, head) -> None:
        """Follow the encoder and the head, after an update of their weights by the optimizer."""


@keras.saving.register_keras_serializable("keras_contrastive")
class SharedTarget(Target):
    """The projections themselves, with their gradient: both sides of the comparison are trained.

    Without a predictor this compares the embeddings with each other. With one, and a loss without negatives, it is
    what SimSiam's stopped gradient is there to prevent: everything collapses to one point.
    """

    passes_gradient = True


@keras.saving.register_keras_serializable("keras_contrastive")
class StopGradientTarget(Target):
    """The projections themselves, without their gradient: the predictions move to them, not they to the predictions.

    Reference:
        Chen and He, 2021, Exploring Simple Siamese Representation Learning, Eq. 3.
    """

    def call(self, images, projections, training=False):
        return tf.stop_gradient(projections)


@keras.saving.register_keras_serializable("keras_contrastive")
class MomentumTarget(Target):
    """The outputs of a second encoder and head, whose weights are moving averages of the model's.

    After each update of the optimizer: w <- m w + (1 - m) online w, for the trainable weights. Both start as copies of
    the model's, statistics of batch normalisation included; these then follow from the target's own batches, as in
    the papers. Nothing here is trained by gradients. Freeze what is to be frozen before the model is made: the copy is
    taken then.

    Args:
        momentum: Float in [0, 1], m; with `steps` its first value.
        steps: Integer >= 1: how many updates there will be. m rises to `final_momentum` along a cosine: at update k,
            counted from 0, it is final - (final - momentum) (cos(pi k / steps) + 1) / 2. None: m stays.
        final_momentum: Float in [0, 1], the end of the schedule.

    Raises:
        ValueError: An argument is out of its range; or, when the model is made, encoder or head cannot be copied.

    Reference:
        He et al., 2020, Momentum Contrast, Eq. 2, constant; Grill et al., 2020, Bootstrap Your Own Latent, Eq. 1
        and Sec. 3.2, the cosine.
    """

    def __init__(
        self,
        momentum: float = 0.996,
        *,
        steps: int | None = None,
        final_momentum: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least(0, momentum=momentum, final_momentum=final_momentum)
        for name, value in (("momentum", momentum), ("final_momentum", final_momentum)):
            if value > 1:
                raise ValueError(
                    f"`{name}` must be at most 1. Received: {name}={value!r}."
                )
        if steps is not None:
            check_integer(1, steps=steps)
        self.momentum = momentum
        self.steps = steps
        self.final_momentum = final_momentum
        self.encoder = None
        self.head = None
        # int64, made here: it has the same place in every file.
        self.num_updates = self.add_weight(
            name="num_updates",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )

    def build_like(self, encoder, head):
        if self.encoder is None:
            self.encoder = _copy_of(encoder)
            self.head = None if head is None else _copy_of(head)
            for network in self._networks():
                hide_from_training(network)
        self.built = True

    # Keras 2.15 asks these of a part; Keras 3 asks every variable, which `hide_from_training` has seen to.
    @property
    def trainable_weights(self):
        return []

    @property
    def trainable_variables(self):
        return []

    @property
    def non_trainable_weights(self):
        return [
            self.num_updates,
            *(w for part in self._networks() for w in part.weights),
        ]

    @property
    def trainable(self):
        return True

    @trainable.setter
    def trainable(self, value):
        """Left as it is: a frozen batch normalisation would no longer see its own batches."""

    def call(self, images, projections, training=False):
        outputs = self.encoder(images, training=training)
        if self.head is not None:
            outputs = self.head(outputs, training=training)
        return tf.stop_gradient(outputs)

    def update(self, encoder, head):
        kept = self.current_momentum()
        for mine, online in zip(self._networks(), (encoder, head)):
            trained = {id(weight) for weight in online.trainable_weights}
            for weight, source in zip(mine.weights, online.weights):
                if id(source) in trained:
                    old = tf.convert_to_tensor(weight)
                    share = tf.cast(kept, old.dtype)
                    new = share * old + (1 - share) * tf.convert_to_tensor(source)
                    weight.assign(new)
        self.num_updates.assign_add(1)

    def current_momentum(self) -> tf.Tensor:
        """m of the next update, a float32 scalar."""
        if self.steps is None:
            return tf.constant(self.momentum, tf.float32)
        done = tf.cast(tf.convert_to_tensor(self.num_updates), tf.float32) / self.steps
        fall = (tf.cos(math.pi * tf.minimum(done, 1.0)) + 1) / 2
        return self.final_momentum - (self.final_momentum - self.momentum) * fall

    def _networks(self) -> list:
        return [part for part in (self.encoder, self.head) if part is not None]

    def get_config(self) -> dict:
        own = {
            "momentum": self.momentum,
            "steps": self.steps,
            "final_momentum": self.final_momentum,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_contrastive")
class NearestNeighborTarget(Target):
    """For each projection the most similar of the last `size` projections: another image of its kind, it is hoped.

    By cosine; the neighbours are of unit length. In a training step the projections of each image's first view enter,
    after the neighbours have been found; the oldest leave. As long as nothing is in there, a projection is its own
    neighbour.

    Args:
        size: Integer >= 1, how many projections are remembered.
        num_views: Integer >= 1, views of an image in a batch; the first of them enters.

    Raises:
        ValueError: An argument is out of its range.

    Reference:
        Dwibedi et al., 2021, With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
        Representations, Eq. 2; the support set starts empty here, there with random rows.
    """

    def __init__(self, size: int, *, num_views: int = 2, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        check_integer(1, size=size, num_views=num_views)
        self.size, self.num_views = size, num_views

    def build_like(self, encoder, head):
        if not self.built:
            dim = (encoder if head is None else head).output_shape[-1]
            self.embeddings = self.add_weight(
                name="embeddings",
                shape=(self.size, dim),
                initializer="zeros",
                trainable=False,
            )
            self.added = self.add_weight(
                name="added",
                shape=(),
                dtype="int64",
                initializer="zeros",
                trainable=False,
            )
        self.built = True

    def call(self, images, projections, training=False):
        projections = normalize_rows(tf.stop_gradient(projections))
        rows, added = (
            tf.convert_to_tensor(self.embeddings),
            tf.convert_to_tensor(self.added),
        )
        filled = tf.range(self.size, dtype=tf.int64) < added
        similarity = tf.matmul(projections, rows, transpose_b=True)  # (n, size)
        nearest = tf.argmax(tf.where(filled[None, :], similarity, -2.0), axis=1)
        neighbours = tf.where(added > 0, tf.gather(rows, nearest), projections)
        if training:
            newest = projections[:: self.num_views]
            self.embeddings.assign(replace_oldest(rows, newest, added))
            self.added.assign(added + tf.shape(newest, out_type=tf.int64)[0])
        return neighbours

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        return {**config, "size": self.size, "num_views": self.num_views}


def _copy_of(network):
    """A second network like this one, with its weights of now."""
    try:
        try:
            copy = keras.models.clone_model(network)
        except ValueError:  # a subclass of Model
            copy = type(network).from_config(network.get_config())
        if not copy.built:
            copy.build(network.input_shape)
        copy.set_weights(network.get_weights())
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            "A momentum target needs an encoder and a head that Keras can copy: functional or Sequential models, or "
            f"subclasses with `get_config` that are built. Received: {type(network).__name__} '{network.name}': {error}"
        ) from error
    return copy
