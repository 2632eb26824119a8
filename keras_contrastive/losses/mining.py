"""Mining: which pairs of a batch a loss over sets is to see. Parts that combine with any such loss, and each other.

A miner takes the arguments of a loss over sets and gives the keywords with which the loss is to be called: it narrows
`candidate_mask`, or adds to `positives`. So miners can be called by hand,

    sets = TopKNegatives(8)(ids, embeddings)
    nt_xent_loss(ids, embeddings, **sets)

or put in front of a loss, one after the other, in `MinedLoss`. What they choose has no gradient. All need the matrix of
distances; a loss that they serve needs it as a mask then. (What belongs to the definition of a loss is an option of the
loss: `mining=` of `TripletLoss`, `mining_epsilon=` of `MultiSimilarityLoss`.)

False negatives by id need no miner: columns of the anchor's id are its positives, or left out where they are
`negative_only`. By another label, or by similarity, `SameLabel` and `Similar` drop or attract them.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_contrastive._checks import (
    check_choice,
    check_finite,
    check_integer,
    check_positive,
    check_rank,
)
from keras_contrastive._numerics import normalize_rows
from keras_contrastive._random import uniform
from keras_contrastive.losses._base import ContrastiveLossBase, take_traits
from keras_contrastive.losses._distances import DISTANCES
from keras_contrastive.losses._pairs import Pairs, all_pairs, best_column
from keras_contrastive.losses.sets import canonical_ids, check_labels, shared_labels

ACTIONS = ("drop", "attract")


class Miner:
    """Base class: `choose` is all that a subclass adds to its options.

    Args:
        options: The constructor's arguments, which become attributes of the same names.

    Raises:
        ValueError: `distance` is among them and unknown.
    """

    distance = "cosine"
    # Keywords of the call that are the miner's own, and not the loss's.
    keywords = ()

    def __init__(self, options: dict):
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)
        check_choice("distance", self.distance, DISTANCES)

    def __call__(self, ids, embeddings, **sets) -> dict:
        """The keywords of a loss over sets: those given, but with what was chosen."""
        own = {name: sets.pop(name) for name in self.keywords if name in sets}
        rows = tf.stop_gradient(tf.convert_to_tensor(embeddings))
        given = {k: v for k, v in sets.items() if k != "candidate_log_probability"}
        if given.get("candidates") is not None:
            candidates = tf.convert_to_tensor(given["candidates"])
            given["candidates"] = tf.stop_gradient(candidates)
        pairs = all_pairs(ids, rows, distance=self.distance, **given)
        return {**sets, **self.choose(pairs, rows, sets, **own)}

    def choose(self, pairs: Pairs, rows, sets: dict, **own) -> dict:
        """The keywords that change.

        Args:
            pairs: All pairs, as the keywords given leave them.
            rows: Float `(n, dim)`, the anchors.
            sets: The keywords given.
            **own: The miner's own keywords.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `choose`.")

    def get_config(self) -> dict:
        return {name: getattr(self, name) for name in self._options}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_contrastive")
class Hardest(Miner):
    """Each anchor's farthest positive and nearest negative.

    Args:
        distance: `"cosine"`, `"euclidean"`, `"squared_euclidean"` or `"inner_product"`.

    Raises:
        ValueError: `distance` is unknown.

    Reference:
        Hermans, Beyer, Leibe, 2017, In Defense of the Triplet Loss for Person Re-Identification, Eq. 5.
    """

    def __init__(self, *, distance: str = "cosine"):
        super().__init__({"distance": distance})

    def choose(self, pairs, rows, sets):
        columns = tf.shape(pairs.distance)[1]
        positive = best_column(pairs.where(pairs.positive, below=True))
        negative = best_column(-pairs.where(pairs.negative))
        near, far = (
            tf.one_hot(one, columns, True, False, dtype=tf.bool)
            for one in (negative, positive)
        )
        return {"candidate_mask": (pairs.negative & near) | (pairs.positive & far)}


@keras.saving.register_keras_serializable("keras_contrastive")
class SemiHard(Miner):
    """All positives, and the negatives that are farther than some positive by less than `margin`.

    Args:
        margin: Float > 0, in units of the distance.
        distance: `"cosine"`, `"euclidean"`, `"squared_euclidean"` or `"inner_product"`.

    Raises:
        ValueError: `margin` is not positive, or `distance` is unknown.

    Reference:
        Schroff et al., 2015, FaceNet: A Unified Embedding for Face Recognition and Clustering, Sec. 3.2.
    """

    def __init__(self, margin: float = 0.2, *, distance: str = "cosine"):
        check_positive(margin=margin)
        super().__init__({"margin": margin, "distance": distance})

    def choose(self, pairs, rows, sets):
        ordered = tf.sort(pairs.where(pairs.positive), axis=1)
        nearer = tf.searchsorted(ordered, pairs.distance, side="left")
        last = tf.gather(ordered, tf.maximum(nearer - 1, 0), batch_dims=1)
        semi_hard = (nearer > 0) & (pairs.distance < last + self.margin)
        return {"candidate_mask": pairs.positive | (pairs.negative & semi_hard)}


@keras.saving.register_keras_serializable("keras_contrastive")
class TopKNegatives(Miner):
    """All positives, and the k nearest negatives; of equally near ones the first.

    Args:
        k: Integer >= 1; where an anchor has fewer negatives, all of them.
        distance: `"cosine"`, `"euclidean"`, `"squared_euclidean"` or `"inner_product"`.

    Raises:
        ValueError: `k` is not a positive integer, or `distance` is unknown.
    """

    def __init__(self, k: int, *, distance: str = "cosine"):
        check_integer(1, k=k)
        super().__init__({"k": k, "distance": distance})

    def choose(self, pairs, rows, sets):
        chosen = _largest(-pairs.where(pairs.negative), self.k)
        return {"candidate_mask": pairs.positive | (pairs.negative & chosen)}


@keras.saving.register_keras_serializable("keras_contrastive")
class DistanceWeighted(Miner):
    """All positives, and negatives drawn so that all distances are equally likely. Without `draw`, a seed, all negatives.

    Points spread evenly over a sphere of many dimensions are nearly all at the distance sqrt(2), and so are evenly drawn
    negatives. Here a negative at the distance d (Euclidean, of unit rows) is drawn with a probability in proportion to
    1 / q(d), where q(d) = d^(dim - 2) (1 - d^2 / 4)^((dim - 3) / 2), but with d at least `cutoff`, and none from
    `max_distance` on, whose gradient would be small, unless there are no others.

    Args:
        num_negatives: Integer >= 1: how many are drawn for each anchor, without replacement.
        cutoff: Float in 0..2: nearer negatives, which may be noise, are drawn as if they were so far.
        max_distance: Float in 0..2, more than `cutoff`.

    Raises:
        ValueError: an option is out of its range.

    Reference:
        Wu et al., 2017, Sampling Matters in Deep Embedding Learning, Sec. 4.2; the two cutoffs are the public code's.
    """

    keywords = ("draw",)

    def __init__(
        self, num_negatives: int = 1, *, cutoff: float = 0.5, max_distance: float = 1.4
    ):
        check_integer(1, num_negatives=num_negatives)
        check_positive(cutoff=cutoff, max_distance=max_distance)
        if not cutoff < max_distance <= 2:
            raise ValueError(
                "`max_distance` must be in `cutoff`..2. Received: "
                f"max_distance={max_distance!r}, cutoff={cutoff!r}."
            )
        options = {"num_negatives": num_negatives, "cutoff": cutoff}
        super().__init__({**options, "max_distance": max_distance})

    def choose(self, pairs, rows, sets, *, draw=None):
        if draw is None:  # every valid choice
            return {}
        dtype = pairs.distance.dtype
        dim = tf.cast(tf.shape(rows)[1], dtype)
        distance = tf.sqrt(tf.maximum(2 * pairs.distance, self.cutoff**2))
        spread = tf.maximum(1 - tf.square(distance) / 4, 1e-6)
        rarity = -(dim - 2) * tf.math.log(distance)
        rarity -= (dim - 3) / 2 * tf.math.log(spread)
        # A draw without replacement by weights: the largest of log weight plus Gumbel noise.
        noise = uniform(tf.cast(draw, tf.int64), tf.shape(distance))
        noise = -tf.math.log(-tf.math.log(tf.cast(noise, dtype) + 1e-9) + 1e-9)
        too_far = 1e6 * tf.cast(distance >= self.max_distance, dtype)
        low = tf.constant(dtype.min / 8, dtype)
        scores = tf.where(pairs.negative, rarity + noise - too_far, low)
        chosen = _largest(scores, self.num_negatives)
        return {"candidate_mask": pairs.positive | (pairs.negative & chosen)}


@keras.saving.register_keras_serializable("keras_contrastive")
class Similar(Miner):
    """False negatives by similarity: negatives too similar to the anchor to be of another kind.

    Args:
        max_similarity: Float in -1..1, a cosine: negatives above it are false.
        action: `"drop"`: they are left out; `"attract"`: they become positives (`negative_only` columns are left out).

    Raises:
        ValueError: `max_similarity` is out of its range, or `action` is unknown.

    Reference:
        Huynh et al., 2022, Boosting Contrastive Self-Supervised Learning with False Negative Cancellation, Sec. 3.
    """

    def __init__(self, max_similarity: float = 0.9, *, action: str = "drop"):
        check_similarity(max_similarity)
        check_choice("action", action, ACTIONS)
        super().__init__({"max_similarity": max_similarity, "action": action})

    def choose(self, pairs, rows, sets):
        similarity = tf.minimum(1 - pairs.distance, 1.0)  # rounding may go beyond
        false = pairs.negative & (similarity > self.max_similarity)
        return _without(false, pairs, sets, self.action)


@keras.saving.register_keras_serializable("keras_contrastive")
class SameLabel(Miner):
    """False negatives by a label beside the ids: negatives that share the anchor's class, product, source image.

    The call takes `labels`, int `(n,)` or multi-hot `(n, classes)`, -1 where unknown; with `candidates` also
    `candidate_labels`.

    Args:
        action: `"drop"`: they are left out; `"attract"`: they become positives (`negative_only` columns are left out).

    Raises:
        ValueError: `action` is unknown; in the call, labels are missing or of another length than the rows.
    """

    keywords = ("labels", "candidate_labels")

    def __init__(self, *, action: str = "drop"):
        check_choice("action", action, ACTIONS)
        super().__init__({"action": action})

    def choose(self, pairs, rows, sets, *, labels=None, candidate_labels=None):
        if sets.get("candidates") is None and candidate_labels is None:
            candidate_labels = labels
        for name, given in (("labels", labels), ("candidate_labels", candidate_labels)):
            if given is None:
                raise ValueError(f"`{name}` must be given. Received: {name}=None.")
        check_labels(labels, candidate_labels, pairs.weight)
        shared = shared_labels(
            canonical_ids(labels, "labels"),
            canonical_ids(candidate_labels, "candidate_labels"),
            pairs.distance.dtype,
        )
        return _without(pairs.negative & (shared > 0), pairs, sets, self.action)


@keras.saving.register_keras_serializable("keras_contrastive")
class MinedLoss(ContrastiveLossBase):
    """A loss over sets that sees the pairs that miners leave: `loss(ids, embeddings, sample_weight=None, **sets)`.

    Args:
        loss: A loss over sets of this package.
        miners: A miner of `losses.mining`, or a list of them, each of which sees what the one before it left.
        name: Name of the loss.

    Raises:
        ValueError: `loss` is not over sets with candidates, or a miner is none.

    Example:
        >>> from keras_contrastive.losses import NTXentLoss
        >>> loss = MinedLoss(NTXentLoss(1.0), [Similar(0.95), TopKNegatives(1)])
        >>> float(loss([7, 7, 8], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))  # the negative is left out: it is too similar
        0.0
    """

    def __init__(self, loss, miners, *, name: str = "mined_loss"):
        families = getattr(loss, "families", ())
        if "sets" not in families or not loss.takes_candidates:
            raise ValueError(
                "`loss` must be a loss over sets that takes candidates, such as NTXentLoss(). "
                f"Received: loss={loss!r}."
            )
        miners = list(miners) if isinstance(miners, (list, tuple)) else [miners]
        for miner in miners:
            if not isinstance(miner, Miner):
                raise ValueError(
                    "`miners` must be miners of keras_contrastive.losses.mining, such as TopKNegatives(64). "
                    f"Received: {miner!r}."
                )
        super().__init__(reduction=loss.reduction, name=name)
        self.loss, self.miners = loss, miners
        take_traits(self, loss)
        self.families = ("sets",)
        self.draws = loss.draws or any("draw" in m.keywords for m in miners)

    def values_and_counts(self, y_true, y_pred, **sets):
        names = {name for miner in self.miners for name in miner.keywords}
        own = {name: sets.pop(name) for name in names if name in sets}
        of_loss = {k: sets.pop(k) for k in ("temperature",) if k in sets}
        if self.loss.draws:
            of_loss["draw"] = own.get("draw", sets.pop("draw", None))
        for miner in self.miners:
            of_miner = {name: own[name] for name in miner.keywords if name in own}
            sets = miner(y_true, y_pred, **sets, **of_miner)
        return self.loss.values_and_counts(y_true, y_pred, **sets, **of_loss)

    def get_config(self) -> dict:
        serialize = keras.saving.serialize_keras_object
        return {
            "loss": serialize(self.loss),
            "miners": [serialize(miner) for miner in self.miners],
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            deserialize(config["loss"]),
            [deserialize(miner) for miner in config["miners"]],
            name=config["name"],
        )


def hard_negative_mask(anchors, candidates, k: int, *, mask=None) -> tf.Tensor:
    """The `k` candidates most similar to each anchor, by cosine; of equally similar ones the first.

    Args:
        anchors: Float `(n, dim)`.
        candidates: Float `(m, dim)`.
        k: Integer >= 1; where an anchor has fewer candidates, all of them.
        mask: bool `(m,)` or `(n, m)`: the candidates there are; None: all. Leave out the anchor's positives, or they
            are among the hardest.

    Returns:
        bool `(n, m)`, without gradient: a `candidate_mask` for a loss over sets.

    Raises:
        ValueError: `k` is not a positive integer, or a rank is not 2.
    """
    check_integer(1, k=k)
    similarity = _similarity(anchors, candidates)
    exists = tf.ones_like(similarity, tf.bool)
    if mask is not None:
        exists &= tf.cast(mask, tf.bool)
    return _largest(tf.where(exists, similarity, -2.0), k) & exists


def false_negative_mask(anchors, candidates, max_similarity: float) -> tf.Tensor:
    """Leave out candidates too similar to the anchor to be of another kind.

    Args:
        anchors: Float `(n, dim)`.
        candidates: Float `(m, dim)`.
        max_similarity: Float in -1..1, a cosine: candidates above it are left out. (The positives too: join them
            again where they are among the candidates.)

    Returns:
        bool `(n, m)`, without gradient: True where the candidate stays; a `candidate_mask` for a loss over sets.

    Raises:
        ValueError: `max_similarity` is out of its range, or a rank is not 2.
    """
    check_similarity(max_similarity)
    return _similarity(anchors, candidates) <= max_similarity


def check_similarity(max_similarity) -> None:
    """Raise unless `max_similarity` is a cosine."""
    check_finite(max_similarity=max_similarity)
    if not -1 <= max_similarity <= 1:
        raise ValueError(
            f"`max_similarity` must be in -1..1, a cosine. Received: max_similarity={max_similarity!r}."
        )


def _similarity(anchors, candidates) -> tf.Tensor:
    anchors, candidates = (tf.convert_to_tensor(rows) for rows in (anchors, candidates))
    check_rank(2, anchors=anchors, candidates=candidates)
    anchors, candidates = (
        tf.stop_gradient(normalize_rows(tf.cast(rows, tf.float32)))
        for rows in (anchors, candidates)
    )
    similarity = tf.matmul(anchors, candidates, transpose_b=True)
    return tf.clip_by_value(similarity, -1.0, 1.0)  # rounding may go beyond


def _largest(scores, k: int) -> tf.Tensor:
    """The k largest of each row: bool of the shape of `scores` `(n, m)`; of equal ones the first."""
    _, found = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))  # (n, k)
    rows = tf.repeat(tf.range(tf.shape(scores)[0]), tf.shape(found)[1])
    places = tf.stack([rows, tf.reshape(found, [-1])], axis=1)
    return tf.scatter_nd(places, tf.ones_like(rows), tf.shape(scores)) > 0


def _without(false, pairs: Pairs, sets: dict, action: str) -> dict:
    """Drop or attract the false negatives, bool `(n, columns)`."""
    exists = pairs.positive | pairs.negative
    if action == "drop":
        return {"candidate_mask": exists & ~false}
    never = sets.get("negative_only")
    never = tf.zeros_like(false) if never is None else false & tf.cast(never, tf.bool)
    attracted = tf.cast(false & ~never, pairs.weight.dtype)
    return {"candidate_mask": exists & ~never, "positives": pairs.weight + attracted}
