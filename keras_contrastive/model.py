"""ContrastiveModel: an encoder paired with a contrastive loss layer, trained by `fit`.

`train_step` reads as the method does: views, embeddings, loss, update. It knows nothing about any one method;
what a method remembers is state of a layer. The loss sees embeddings and ids alone, never images.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive import augment as augmentation
from keras_contrastive._checks import shape_text
from keras_contrastive._compat import (
    count_updates,
    has_moved,
    scale_loss,
    unscale_gradients,
)
from keras_contrastive._numerics import normalize_rows
from keras_contrastive.layers import VALIDATION_STEP, ContrastiveLossLayer
from keras_contrastive.whitening import FeatureWhitening

# So many images of a batch are shown to the whitening.
_OBSERVED = 64
# The constructor's arguments that are objects of their own.
_PARTS = ("encoder", "loss", "head", "predictor", "target", "augment")


@keras.saving.register_keras_serializable("keras_contrastive")
class ContrastiveModel(keras.Model):
    """Pair an encoder with a contrastive loss.

    `fit` takes a dataset of `(images, ids)`, `(images, ids, sample_weight)` or `images` alone: uint8 images
    `(batch, height, width, channels)`, of which the model makes views by `augment`; or a batch that has views
    already `(batch, views, ...)`. `model(images)` and `predict` give the encoder's features, float32
    `(batch, width)`: what is before the head, without augmentation.

    Args:
        encoder: `keras.Model` from float images in 0..1 to features `(batch, width)`.
        loss: `ContrastiveLossLayer`, or a loss that gets wrapped in one.
        head: Layer from features to projections, as of `heads.mlp`; None: the features are compared.
        predictor: Layer from projections to predictions of the same width, or None.
        target: What the embeddings are compared with: `targets.MomentumTarget` and others, or a layer with the methods
            of `targets.Target`. It gets no gradient but where it says so, and follows encoder and head after every
            update that the optimizer really makes. None: the embeddings are compared with each other.
        augment: `augment.Recipe` or a list of operations, drawn in the training step; a rank-4 batch becomes
            `augment.num_views` views, of a rank-5 batch every image is drawn once. `augment.Recipes` of several sizes
            (multi-crop) need an encoder of any size, such as `encoders.small_resnet((None, None, 3))`, which is called
            once for each: what it adds to the loss itself then counts for the last size alone. A target sees the
            views of the first size. None: the second axis of the input is views.
        normalize: Whether `model(images)` gives features of unit length.
        whiten: Whether `model(images)` gives whitened features (`FeatureWhitening`). Mean and covariance follow the
            encoder's features of 64 images of each batch, without augmentation; the head gets the features as they are.
        seed: Integer: the draws of a step are a function of it and of the step's number.

    Metrics: `loss`, and those of the loss layer, as averages over the epoch.

    Raises:
        ValueError: An argument is of the wrong kind.

    Example:
        >>> model = ContrastiveModel(
        ...     kc.encoders.small_resnet((32, 32, 3)),
        ...     kc.losses.NTXentLoss(temperature=0.2),
        ...     head=kc.heads.mlp(128),
        ...     augment=kc.augment.simclr(32),
        ... )
        >>> model.compile(optimizer=keras.optimizers.Adam(1e-3))
        >>> model.fit(kc.data.batches(source.train, 256), epochs=10, shuffle=False)
    """

    def __init__(
        self,
        encoder: keras.Model,
        loss,
        *,
        head=None,
        predictor=None,
        target=None,
        augment=None,
        normalize: bool = False,
        whiten: bool = False,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`encoder` must be a keras.Model or layer that gives features. "
                f"Received: encoder={encoder!r} of type {type(encoder).__name__}."
            )
        if not callable(loss):
            raise ValueError(
                "`loss` must be a ContrastiveLossLayer or a loss, such as "
                f"keras_contrastive.losses.NTXentLoss(). Received: loss={loss!r}."
            )
        # The order of these lines is the order of the weights in a saved file: add at the end.
        self.encoder = encoder
        self.head = head
        self.predictor = predictor
        self.loss_layer = (
            loss
            if isinstance(loss, ContrastiveLossLayer)
            else ContrastiveLossLayer(loss, seed=seed, name="contrastive_loss")
        )
        self.target = target
        self.augment = _as_recipe(augment)
        if self.augment is not None and self.augment.normalizes:
            raise ValueError(
                "`augment` must not end in `Normalize`: the model is served images in 0..1, so the encoder must be "
                "trained on them. Put `keras.layers.Normalization(mean=..., variance=...)` into the encoder."
            )
        self.normalize = normalize
        self.whitening = FeatureWhitening(name="whitening") if whiten else None
        self.seed = seed
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        self.loss_mean = keras.metrics.Mean(name="loss")
        if encoder.built and getattr(encoder, "input_shape", None) is not None:
            self.build(encoder.input_shape)

    def build(self, input_shape):
        """Build every part, so that a loaded file finds the weights of those that only training calls."""
        shape = (None, self._feature_dim(input_shape))
        for part in (self.head, self.predictor):
            if part is not None:
                if not part.built:
                    part.build(shape)
                shape = tuple(part.compute_output_shape(shape))
        if not self.loss_layer.built:
            self.loss_layer.build((None, None, shape[-1]))
        if self.target is not None:
            self.target.build_like(self.encoder, self.head)
        if self.whitening is not None:
            self.whitening.build((None, self._feature_dim(input_shape)))
        self.built = True

    def _feature_dim(self, input_shape) -> int:
        """The width of the features; a subclassed encoder, which cannot tell, is called once on zeros."""
        known = getattr(self.encoder, "output_shape", None)
        if self.encoder.built and known is not None:
            return known[-1]
        has_views = self.augment is None or len(input_shape) == 5
        image_shape = tuple(input_shape)[2:] if has_views else tuple(input_shape)[1:]
        return self.encoder(tf.zeros((1, *image_shape)), training=False).shape[-1]

    @property
    def metrics(self):
        return [self.loss_mean, *self.loss_layer.metrics]

    def call(self, images, training=False):
        """Features of images: float32 `(batch, width)`, or `(batch, views, width)` of a batch of views."""
        images = tf.convert_to_tensor(images)
        rank = getattr(self.encoder, "input_shape", None)
        has_views = rank is not None and images.shape.rank == len(rank) + 1
        features = self.encoder(
            _scaled(_flat_views(images) if has_views else images), training=training
        )
        features = tf.cast(features, tf.float32)
        if self.whitening is not None:
            features = self.whitening(features)
        if self.normalize:
            features = normalize_rows(features)
        return _unflat_views(features, images) if has_views else features

    def train_step(self, data):
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                "ContrastiveModel does not train on several replicas yet: each would see its own negatives "
                "and the same draws. Compile it outside the strategy's scope."
            )
        images, ids, sample_weight = _unpack(data)
        views = self.make_views(images, tf.convert_to_tensor(self.step))
        with tf.GradientTape() as tape:
            loss = self.take_loss(views, ids, sample_weight, training=True)
            scaled_loss = scale_loss(self.optimizer, loss)
        self.update_target(self.apply_update(tape, scaled_loss))
        self.update_whitening(images)
        self.step.assign_add(1)
        return self.update_metrics(loss)

    def test_step(self, data):
        """As `train_step`, without an update and with fixed draws, so that `val_loss` compares."""
        images, ids, sample_weight = _unpack(data)
        views = self.make_views(images, VALIDATION_STEP)
        return self.update_metrics(
            self.take_loss(views, ids, sample_weight, training=False)
        )

    def make_views(self, images, step) -> tf.Tensor | tuple[tf.Tensor, ...]:
        """The views that the loss compares, drawn from the model's seed and `step`.

        One tensor `(batch, views, ...)`, or a tuple of such, one for each size.
        """
        if self.augment is None:
            for views in _of_sizes(images):
                self._check_views(views)
            return images
        if isinstance(images, tuple):
            raise ValueError(
                "Images must be one tensor where the model makes the views. Received: "
                f"{len(images)} of them. For views of several sizes that are made already give `augment=None`."
            )
        if images.dtype != tf.uint8:
            raise ValueError(
                "`images` must be uint8, 0..255, where the model makes the views. Received: images.dtype="
                f"{images.dtype.name}. Convert them: `data.Part` takes floats in 0..1 as well."
            )
        return augmentation.views(images, None, self.augment, self.seed, step)

    def _check_views(self, views) -> None:
        shape = getattr(self.encoder, "input_shape", None)
        if shape is not None and views.shape.rank not in (None, len(shape) + 1):
            raise ValueError(
                "With `augment=None` a batch must have its views on the second axis: rank "
                f"{len(shape) + 1}. Received: shape={shape_text(views.shape)}. Map the recipe over the dataset "
                "(`augment.map_dataset`), or give the model `augment`."
            )

    def embed(self, views, *, training) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Embeddings `(batch, views, dim)` of all views in one batch, and targets of the first size or None."""
        views = _of_sizes(views)
        projections = self._features(views, training)
        if self.head is not None:
            projections = self.head(projections, training=training)
        targets = None
        if self.target is not None:
            flat = _scaled(_flat_views(views[0]))
            own = projections[: tf.shape(flat)[0]]
            targets = self.target(flat, own, training=training)
            if not getattr(self.target, "passes_gradient", False):
                targets = tf.stop_gradient(targets)
            targets = _unflat_views(targets, views[0])
        if self.predictor is not None:
            projections = self.predictor(projections, training=training)
        return _joined_views(projections, views), targets

    def _features(self, views, training):
        """Rows of features: all views of the first size, then all of the next."""
        if len(views) == 1:
            return self.encoder(_scaled(_flat_views(views[0])), training=training)
        shape = getattr(self.encoder, "input_shape", None)
        if shape is not None and None not in shape[1:3]:
            raise ValueError(
                "Views of several sizes need an encoder of any size, such as "
                f"`encoders.small_resnet((None, None, 3))`. Received: encoder.input_shape={shape}."
            )
        features = [
            self.encoder(_scaled(_flat_views(each)), training=training)
            for each in views
        ]
        return tf.concat(features, axis=0)

    def take_loss(self, views, ids, sample_weight, *, training) -> tf.Tensor:
        """The loss of a batch of views, float32 scalar: all that the layers have added to `self.losses`."""
        embeddings, targets = self.embed(views, training=training)
        self.loss_layer(
            embeddings,
            ids,
            targets=targets,
            sample_weight=sample_weight,
            training=training,
        )
        return tf.add_n([tf.cast(loss, tf.float32) for loss in self.losses])

    def apply_update(self, tape: tf.GradientTape, scaled_loss: tf.Tensor):
        """Give the gradients to the optimizer; whether it has moved the weights: True, or a bool scalar tensor.

        It does not where it accumulates gradients first, or skips a float16 step that overflowed.
        """
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        gradients = unscale_gradients(self.optimizer, gradients)
        before = count_updates(self.optimizer)
        self.optimizer.apply_gradients(zip(gradients, variables))
        return has_moved(self.optimizer, before, gradients)

    def update_target(self, moved) -> None:
        """Let the target follow, where the weights have moved."""
        if self.target is None:
            return
        if not tf.is_tensor(moved):  # at every step
            self.target.update(self.encoder, self.head)
            return

        def follow():
            self.target.update(self.encoder, self.head)
            return True

        tf.cond(moved, follow, lambda: False)

    def update_whitening(self, images) -> None:
        """Show some of a batch's images to the whitening, as they will be served; of views the first of each."""
        if self.whitening is None:
            return
        images = _of_sizes(images)[0][:_OBSERVED]
        if self.augment is None or images.shape.rank == 5:
            images = images[:, 0]
        self.whitening.observe(self.encoder(_scaled(images), training=False))

    def update_metrics(self, loss) -> dict:
        """The epoch's averages so far, by name."""
        self.loss_mean.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}

    def get_config(self) -> dict:
        parts = {name: self._part(name) for name in _PARTS}
        serialized = {
            name: None if part is None else keras.saving.serialize_keras_object(part)
            for name, part in parts.items()
        }
        base = keras.layers.Layer.get_config(self)
        own = {key: base[key] for key in ("name", "trainable", "dtype") if key in base}
        return {
            **own,
            **serialized,
            "normalize": self.normalize,
            "whiten": self.whitening is not None,
            "seed": self.seed,
        }

    def _part(self, name: str):
        return self.loss_layer if name == "loss" else getattr(self, name)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        parts = {
            name: deserialize(config[name], custom_objects=custom_objects)
            for name in _PARTS
            if config.get(name) is not None
        }
        return cls(**{**config, **parts})


def _as_recipe(augment):
    """A recipe as it is; a list of operations, or a single one, as a recipe of them."""
    if augment is None or isinstance(augment, augmentation.Recipe):
        return augment
    return augmentation.Recipe(
        augment if isinstance(augment, (list, tuple)) else [augment]
    )


def _unpack(data):
    """Images, ids and sample weights of a batch; without ids, every image is unknown: -1."""
    images, ids, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if isinstance(images, (tuple, list)):  # views of several sizes
        images = tuple(tf.convert_to_tensor(each) for each in images)
    else:
        images = tf.convert_to_tensor(images)
    if ids is None:
        batch = tf.shape(_of_sizes(images)[0])[0]
        ids = tf.fill([batch], tf.constant(-1, tf.int64))
    return images, ids, sample_weight


def _scaled(images):
    """uint8 images as float32 in 0..1; anything else as it is."""
    return tf.cast(images, tf.float32) / 255 if images.dtype == tf.uint8 else images


def _flat_views(views):
    """`(batch, views, ...)` as `(batch * views, ...)`."""
    rest = views.shape[2:]
    if rest.is_fully_defined():
        return tf.reshape(views, [-1, *rest])
    return tf.reshape(views, tf.concat([[-1], tf.shape(views)[2:]], axis=0))


def _unflat_views(rows, views):
    """`(batch * views, dim)` as `(batch, views, dim)`."""
    count = views.shape[1] if views.shape[1] is not None else tf.shape(views)[1]
    return tf.reshape(rows, [-1, count, rows.shape[-1]])


def _of_sizes(views) -> tuple:
    """One tensor for each size of the views."""
    return views if isinstance(views, tuple) else (views,)


def _joined_views(rows, views):
    """Rows of the views of each size, one size after the other, as `(batch, all views, dim)`."""
    if len(views) == 1:
        return _unflat_views(rows, views[0])
    shapes = [tf.shape(each) for each in views]
    parts = tf.split(rows, [shape[0] * shape[1] for shape in shapes])
    return tf.concat(
        [_unflat_views(part, each) for part, each in zip(parts, views)], axis=1
    )
