"""The loss layer: adapts a loss to batches of views, owns what it learns or counts, and keeps the metrics.

The loss is left as it is in its paper; everything about views, ids, targets, queues and learned temperatures
is settled here, so that a model only says `layer(embeddings, ids)`.
"""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_contrastive._checks import check_choice, check_positive, shape_text
from keras_contrastive._numerics import normalize_rows
from keras_contrastive._random import make_key
from keras_contrastive.losses.sets import (
    canonical_ids,
    match,
    own_ids_for_unknown,
)

# A learned temperature is kept above this: a logit scale of at most 100, as in CLIP.
MIN_TEMPERATURE = 0.01
# The similarity metrics look at as many anchors of a batch as make a matrix of this size: the loss needs none.
METRIC_ENTRIES = 2**20
# The step that draws are made for outside training: fixed, so that validation losses compare.
VALIDATION_STEP = -1


@keras.saving.register_keras_serializable("keras_contrastive")
class ContrastiveLossLayer(keras.layers.Layer):
    """Compute a contrastive loss of a batch of views, add it with `add_loss`, and keep the metrics.

    A loss over sets compares all views of the batch (with `targets`: every view with the targets of the other
    views); a loss over rows gets the three views of a triplet, when the ids are `[batch, 3]`; a loss over
    pairs gets every ordered pair of views (once, where swapping the sides changes nothing), with their ids and
    the queue where it compares them. Computes in float32 under every policy.

    Metrics, averaged over the epoch, by cosine: `positive_similarity` and `negative_similarity`; `accuracy`:
    how often an anchor's most similar candidate is a positive (a tie with a negative is a miss);
    `embedding_std`: standard deviation of the normalised embeddings, averaged over dimensions, times
    sqrt(dim): about 1 when they spread over the sphere, 0 when they have collapsed. Behind a head that ends in batch
    normalisation, which scales up whatever is left, it stays high while all rows fall on a few directions.

    Args:
        loss: A loss of `keras_contrastive.losses`, or any callable `loss(ids, embeddings, sample_weight=None)`.
        negatives: A layer that remembers past embeddings. `negatives.EmbeddingQueue`: its rows are further candidates,
            left out for anchors of the same id. `negatives.CrossBatchMemory`: rows of the same id are positives. Or a
            subclass of these.
        weight: Float > 0 that the loss is multiplied by: of a method whose paper sums where this takes means.
        anchor: With `targets`, which side a loss over sets takes its anchors from: `"embeddings"`, whose candidates
            are the targets and the queue; or `"targets"`, whose candidates are the embeddings (NNCLR).
        learn_temperature: Learn the logarithm of the loss's temperature, from its value. Kept >= 0.01.
        seed: Integer, for losses that draw.

    Raises:
        ValueError: `loss` is not callable, `learn_temperature` is asked of a loss that has no temperature, or
            `negatives` come with a loss that takes none, or with `anchor="targets"`; in the call, a shape is known to be
            wrong.

    Example:
        >>> layer = ContrastiveLossLayer(kc.losses.NTXentLoss())
        >>> loss = layer(embeddings, ids)  # (batch, views, dim), (batch,)
    """

    def __init__(
        self,
        loss,
        *,
        negatives=None,
        learn_temperature: bool = False,
        weight: float = 1.0,
        anchor: str = "embeddings",
        seed: int = 0,
        **kwargs,
    ):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        check_positive(weight=weight)
        check_choice("anchor", anchor, ("embeddings", "targets"))
        if anchor == "targets" and negatives is not None:
            raise ValueError(
                '`negatives` are candidates beside the targets, which are none with anchor="targets". '
                f"Received: negatives={type(negatives).__name__}."
            )
        if not callable(loss):
            raise ValueError(
                "`loss` must be a loss, such as keras_contrastive.losses.NTXentLoss(). "
                f"Received: loss={loss!r}."
            )
        if learn_temperature and not hasattr(loss, "temperature"):
            raise ValueError(
                "`learn_temperature` needs a loss with a temperature. "
                f"Received: loss={type(loss).__name__}, which has none."
            )
        families = getattr(loss, "families", ("sets",))
        compares = "sets" in families or getattr(loss, "compares_ids", False)
        if negatives is not None and not compares:
            raise ValueError(
                "`negatives` needs a loss that compares with other images. "
                f"Received: loss={type(loss).__name__}, which compares rows."
            )
        if negatives is not None and "sets" not in families:
            _check_plain(negatives, loss)
        elif negatives is not None and not getattr(loss, "takes_candidates", True):
            raise ValueError(
                "`negatives` needs a loss that takes candidates. "
                f"Received: loss={type(loss).__name__}, which takes none."
            )
        self.loss = loss
        # A loss that is no layer may hold some, with weights: Keras must know of them.
        self.loss_parts = [
            part
            for part in getattr(loss, "parts", [])
            if isinstance(part, keras.layers.Layer)
        ]
        self.negatives = negatives
        self.learn_temperature = learn_temperature
        self.weight = weight
        self.anchor = anchor
        self.seed = seed
        self.step = self.add_weight(
            name="step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )
        if learn_temperature:
            start = math.log(max(float(loss.temperature), MIN_TEMPERATURE))
            self.log_temperature = self.add_weight(
                name="log_temperature",
                shape=(),
                initializer=keras.initializers.Constant(start),
                constraint=AtLeast(math.log(MIN_TEMPERATURE)),
            )
        self._means = {
            name: keras.metrics.Mean(name=name)
            for name in (
                "positive_similarity",
                "negative_similarity",
                "accuracy",
                "embedding_std",
            )
        }

    def build(self, input_shape):
        if self.negatives is not None and not self.negatives.built:
            self.negatives.build(input_shape)
        if hasattr(self.loss, "build") and not getattr(self.loss, "built", False):
            self.loss.build(input_shape)
        self.built = True

    @property
    def metrics(self):
        return list(self._means.values())

    @property
    def temperature(self):
        """The temperature in use, learned or fixed: a float32 scalar, or None for a loss without one."""
        if self.learn_temperature:
            return tf.maximum(
                tf.exp(tf.convert_to_tensor(self.log_temperature)), MIN_TEMPERATURE
            )
        return getattr(self.loss, "temperature", None)

    def call(self, embeddings, ids, targets=None, sample_weight=None, training=False):
        """Loss of a batch.

        Args:
            embeddings: Float `(batch, views, dim)`, or `(batch, dim)`: one view.
            ids: int `(batch,)` or `(batch, views)`; -1: unknown, positive with its own views alone.
            targets: Float `(batch, target_views, dim)` of a target network, or None.
            sample_weight: Float `(batch,)`, the weight of each image as an anchor, or None.
            training: Whether this is a training step: draws move on, and the queue takes the embeddings in.

        Returns:
            float32 scalar, added to the losses of the model as well.
        """
        embeddings = _as_views(embeddings, "embeddings")
        targets = None if targets is None else _as_views(targets, "targets")
        ids = tf.convert_to_tensor(ids)
        if sample_weight is not None:
            sample_weight = tf.cast(sample_weight, tf.float32)
        _check_batch(embeddings, ids, targets, sample_weight)
        ids = _ids_of_views(ids, tf.shape(embeddings))
        if sample_weight is not None:
            sample_weight = tf.reshape(sample_weight, [-1])
        keywords = self._keywords(training)
        if self._is_over("rows", embeddings, ids):
            loss = self._over_rows(embeddings, sample_weight, keywords)
        elif self._is_over("pairs", embeddings, ids):
            loss = self._over_pairs(embeddings, ids, targets, sample_weight, keywords)
        elif getattr(self.loss, "view_by_view", False):
            loss = self._over_views(embeddings, ids, sample_weight, keywords)
        elif targets is None:
            loss = self._over_batch(embeddings, ids, sample_weight, keywords)
        else:
            loss = self._over_targets(embeddings, ids, targets, sample_weight, keywords)
        loss = self.weight * tf.cast(loss, tf.float32)
        self.add_loss(loss)
        self._measure_spread(embeddings)
        if training:
            self._advance(embeddings if targets is None else targets, ids)
        return loss

    def _is_over(self, family: str, embeddings, ids) -> bool:
        families = getattr(self.loss, "families", ("sets",))
        if family == "rows":
            given = embeddings.shape[1] == 3 and (families == ("rows",) or ids.differ)
            return "rows" in families and given
        return families == (family,)

    def _keywords(self, training) -> dict:
        keywords = {}
        if self.learn_temperature:
            keywords["temperature"] = self.temperature
        if getattr(self.loss, "draws", False):
            step = tf.convert_to_tensor(self.step) if training else VALIDATION_STEP
            keywords["draw"] = make_key(self.seed, step)
        return keywords

    def _over_rows(self, embeddings, sample_weight, keywords):
        keywords.pop("draw", None)
        anchor, positive, negative = tf.unstack(embeddings, axis=1)
        anchors, positives, negatives = (
            normalize_rows(r) for r in (anchor, positive, negative)
        )
        near = tf.reduce_sum(anchors * positives, axis=-1)
        far = tf.reduce_sum(anchors * negatives, axis=-1)
        ones = tf.ones_like(near)
        self._measure(near, ones, far, ones, near > far, ones)
        return self.loss(
            anchor, positive, negative=negative, sample_weight=sample_weight, **keywords
        )

    def _over_pairs(self, embeddings, ids, targets, sample_weight, keywords):
        """Each view with every other view, or with its target."""
        others = embeddings if targets is None else targets
        pairs = _ordered_pairs(embeddings, others)
        once = targets is None and self.negatives is None
        if once and getattr(self.loss, "symmetric", False):
            pairs = [(i, j) for i, j in pairs if i < j]
        losses = []
        for i, j in pairs:
            first, second = embeddings[:, i], others[:, j]
            of_first, of_second = ids.by_view[:, i], ids.by_view[:, j]
            more = dict(keywords)
            if getattr(self.loss, "compares_ids", False):
                more["ids"] = of_first
                if ids.differ:
                    more["second_ids"] = of_second
                if self.negatives is not None:
                    queue = ("negatives", "negative_ids", "negative_mask")
                    more.update(zip(queue, self.negatives.rows()))
            losses.append(self.loss(first, second, sample_weight=sample_weight, **more))
            self._measure_sets(of_first, first, {"candidate_ids": of_second}, second)
        return tf.add_n(losses) / len(losses)

    def _over_views(self, embeddings, ids, sample_weight, keywords):
        """Each view as a set of its own."""
        losses = [
            self._set_loss(ids.by_view[:, i], view, sample_weight, keywords, {})
            for i, view in enumerate(tf.unstack(embeddings, axis=1))
        ]
        return tf.add_n(losses) / len(losses)

    def _over_batch(self, embeddings, ids, sample_weight, keywords):
        """All views of the batch against each other, and against the queue."""
        rows = tf.reshape(embeddings, [-1, embeddings.shape[-1]])
        if sample_weight is not None:
            sample_weight = tf.repeat(sample_weight, tf.shape(embeddings)[1])
        own = tf.range(tf.shape(rows)[0])
        sets = {}
        if not getattr(self.negatives, "in_batch", True):
            raise ValueError(
                "`negatives` with in_batch=False needs targets, of which an anchor's own is its positive. Give the model "
                "a `target`, such as `targets.MomentumTarget()`."
            )
        if self.negatives is not None:
            sets = {
                **self._candidates(rows, ids.flat, rows, ids.flat),
                "self_index": own,
            }
        return self._set_loss(ids.flat, rows, sample_weight, keywords, sets)

    def _over_targets(self, embeddings, ids, targets, sample_weight, keywords):
        """Each view against the targets of every other view, and against the queue; or the other way round."""
        if not getattr(self.loss, "takes_candidates", True):
            raise ValueError(
                "`targets` needs a loss that takes candidates. "
                f"Received: loss={type(self.loss).__name__}, which takes none."
            )
        losses = []
        for i, j in _ordered_pairs(embeddings, targets):
            anchors = embeddings[:, i], ids.by_view[:, i]
            others = targets[:, j], ids.by_view[:, j]
            if self.anchor == "targets":
                anchors, others = others, anchors
            rows, of_rows = anchors
            sets = self._candidates(*others, rows, of_rows)
            losses.append(self._set_loss(of_rows, rows, sample_weight, keywords, sets))
        return tf.add_n(losses) / len(losses)

    def _candidates(self, rows, ids, anchors, of_anchors) -> dict:
        """The candidate set: `rows`, and the queue's behind them, as keywords of a loss over sets."""
        sets = {"candidates": rows, "candidate_ids": ids}
        if self.negatives is None:
            return sets
        past, past_ids, _ = self.negatives.rows()
        mask = self.negatives.mask(anchors, of_anchors)  # (size,) or (n, size)
        first = tf.ones(tf.shape(rows)[:1], tf.bool)
        here = self._visible_in_batch(rows, anchors, by_anchor=mask.shape.rank == 2)
        if here.shape.rank > mask.shape.rank:
            mask = tf.repeat(mask[None, :], tf.shape(anchors)[0], axis=0)
        behind = tf.fill(tf.shape(past)[:1], self.negatives.negative_only)
        return {
            **sets,
            "candidates": tf.concat([rows, past], axis=0),
            "candidate_ids": tf.concat([ids, past_ids], axis=0),
            "candidate_mask": tf.concat([here, mask], axis=-1),
            "negative_only": tf.concat([~first, behind], axis=0),
        }

    def _visible_in_batch(self, rows, anchors, *, by_anchor: bool) -> tf.Tensor:
        """Which rows of the batch an anchor is compared with: bool `(rows,)`, or `(n, rows)` where anchors differ."""
        shape = [tf.shape(anchors)[0], tf.shape(rows)[0]]
        if not getattr(self.negatives, "in_batch", True):
            # Row i is the target of anchor i.
            return tf.eye(*shape, dtype=tf.bool)
        return tf.ones(shape if by_anchor else shape[1:], tf.bool)

    def _set_loss(self, ids, anchors, sample_weight, keywords, sets):
        loss = self.loss(ids, anchors, sample_weight=sample_weight, **keywords, **sets)
        if not sets:
            sets = {"candidate_ids": ids, "self_index": tf.range(tf.shape(ids)[0])}
        columns = sets.pop("candidates", anchors)
        self._measure_sets(ids, anchors, sets, columns)
        return loss

    def _measure_sets(self, ids, anchors, sets, columns):
        """Similarities of the first anchors to their columns."""
        few = tf.maximum(1, METRIC_ENTRIES // tf.maximum(1, tf.shape(columns)[0]))
        by_anchor = ["self_index"]
        if len(sets.get("candidate_mask", ids).shape) == 2:
            by_anchor.append("candidate_mask")
        own = {name: sets[name][:few] for name in by_anchor if name in sets}
        matched = match(ids[:few], **{**sets, **own})
        anchors = tf.stop_gradient(normalize_rows(anchors[:few]))
        columns = tf.stop_gradient(normalize_rows(columns))
        similarity = tf.matmul(anchors, columns, transpose_b=True)  # (few, columns)
        positive = matched.positive_weight > 0
        negative = matched.exists & ~positive

        def best(mask):
            return tf.reduce_max(tf.where(mask, similarity, -2.0), axis=1)

        self._measure(
            similarity,
            tf.cast(positive, tf.float32),
            similarity,
            tf.cast(negative, tf.float32),
            best(positive) > best(negative),
            tf.cast(tf.reduce_any(positive, axis=1), tf.float32),
        )

    def _measure(self, near, near_weight, far, far_weight, hits, counts):
        self._means["positive_similarity"].update_state(near, near_weight)
        self._means["negative_similarity"].update_state(far, far_weight)
        self._means["accuracy"].update_state(tf.cast(hits, tf.float32), counts)

    def _measure_spread(self, embeddings):
        rows = tf.reshape(normalize_rows(embeddings), [-1, embeddings.shape[-1]])
        spread = tf.reduce_mean(tf.math.reduce_std(tf.stop_gradient(rows), axis=0))
        self._means["embedding_std"].update_state(
            spread * math.sqrt(embeddings.shape[-1])
        )

    def _advance(self, embeddings, ids):
        """What moves in a training step, after the loss."""
        if self.negatives is not None:
            rows = tf.reshape(embeddings, [-1, embeddings.shape[-1]])
            self.negatives.add(
                tf.stop_gradient(rows), ids.queued(tf.shape(embeddings)[1])
            )
        if hasattr(self.loss, "update"):
            self.loss.update(tf.stop_gradient(embeddings))
        self.step.assign_add(1)

    def compute_output_shape(self, *args, **kwargs):
        return ()

    def get_config(self) -> dict:
        config = super().get_config()
        config.pop("dtype", None)
        serialize = keras.saving.serialize_keras_object
        return {
            **config,
            "loss": serialize(self.loss),
            "negatives": None if self.negatives is None else serialize(self.negatives),
            "learn_temperature": self.learn_temperature,
            "weight": self.weight,
            "anchor": self.anchor,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        parts = {
            name: deserialize(config[name])
            for name in ("loss", "negatives")
            if config[name]
        }
        return cls(**{**config, **parts})


@keras.saving.register_keras_serializable("keras_contrastive")
class AtLeast(keras.constraints.Constraint):
    """Weight constraint: every entry >= `minimum`."""

    def __init__(self, minimum: float):
        self.minimum = minimum

    def __call__(self, w):
        return tf.maximum(tf.convert_to_tensor(w), self.minimum)

    def get_config(self) -> dict:
        return {"minimum": self.minimum}


class _ViewIds:
    """The ids of a batch of views: `by_view` `[batch, views]`, and `flat`, row after row.

    In place of -1, unknown, every row has an id of its own below -1: positive with its own views alone.
    """

    def __init__(self, by_view, given, differ: bool):
        self.by_view = by_view
        self.flat = tf.reshape(by_view, [-1])
        self.differ = differ
        self._given = given

    def queued(self, views) -> tf.Tensor:
        """The ids as a queue keeps them: unknown ones stay -1, for the first `views` views of every image."""
        given = (
            self._given[:, :views]
            if self.differ
            else tf.repeat(self._given[:, None], views, axis=1)
        )
        return tf.reshape(given, [-1])


def _ids_of_views(ids, shape) -> _ViewIds:
    """`ids` `[batch]`, `[batch, 1]` or `[batch, views]`, for embeddings of `shape` `[batch, views, dim]`."""
    differ = ids.shape.rank == 2 and ids.shape[1] != 1
    ids = tf.cast(ids, tf.int64) if differ else canonical_ids(ids, "ids")
    by_view = ids if differ else tf.repeat(ids[:, None], shape[1], axis=1)
    return _ViewIds(own_ids_for_unknown(by_view), ids, differ)


def _check_plain(negatives, loss) -> None:
    """Raise unless the rows of `negatives` are the same negatives for all anchors: a loss over pairs takes no more."""
    if negatives.selects or not negatives.negative_only:
        raise ValueError(
            "`negatives` of a loss over pairs must be an EmbeddingQueue without `top_k` and `max_similarity`. "
            f"Received: negatives={type(negatives).__name__}, loss={type(loss).__name__}."
        )


def _check_batch(embeddings, ids, targets, sample_weight) -> None:
    """Raise where ids, targets or weights are known not to be of the batch of `embeddings`."""
    batch, views, dim = embeddings.shape
    allowed = {
        "ids": (ids, [[batch], [batch, 1], [batch, views]]),
        "targets": (targets, [[batch, None, dim]]),
        "sample_weight": (sample_weight, [[batch], [batch, 1]]),
    }
    for name, (given, shapes) in allowed.items():
        if given is not None and not any(
            given.shape.is_compatible_with(s) for s in shapes
        ):
            listed = " or ".join(shape_text(s) for s in shapes)
            raise ValueError(
                f"`{name}` must have shape {listed} for embeddings of shape "
                f"{shape_text(embeddings.shape)}. Received: {name}.shape={shape_text(given.shape)}."
            )


def _as_views(rows, name: str) -> tf.Tensor:
    rows = tf.cast(tf.convert_to_tensor(rows), tf.float32)
    if rows.shape.rank == 2:
        rows = rows[:, None, :]
    if rows.shape.rank != 3:
        raise ValueError(
            f"`{name}` must have shape (batch, views, dim) or (batch, dim). "
            f"Received: {name}.shape={shape_text(rows.shape)}."
        )
    return rows


def _ordered_pairs(views, others) -> list[tuple[int, int]]:
    """(i, j) for every view i and other view j != i."""
    pairs = [
        (i, j) for i in range(views.shape[1]) for j in range(others.shape[1]) if i != j
    ]
    if not pairs:
        raise ValueError(
            "A loss that compares views needs at least two of them. "
            f"Received: embeddings.shape={shape_text(views.shape)}."
        )
    return pairs
