"""Losses over sets: which columns exist for an anchor, and which of them are its positives.

An anchor is a row of the batch. Its columns are the rows of the batch, or the `candidates` that replace
them. A column may be no column for some anchors: the anchor itself, what `candidate_mask` takes out, and a
`negative_only` column of the anchor's own id.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from keras_contrastive._checks import check_rank, shape_text

# What every loss over sets takes, by keyword.
SET_KEYWORDS = (
    "candidates",
    "candidate_ids",
    "self_index",
    "candidate_mask",
    "negative_only",
    "positives",
)


class Match(NamedTuple):
    """How anchors and columns belong together. Both tensors are `[n, columns]`."""

    exists: tf.Tensor
    """bool: the column exists for the anchor."""
    positive_weight: tf.Tensor
    """Float >= 0: 0 where the column is no positive; 1 by id, or the number of shared labels, or as given."""


class Relation(NamedTuple):
    """How anchors and columns belong together: arguments of `match`, by the same names."""

    ids: tf.Tensor
    candidate_ids: tf.Tensor | None = None
    self_index: tf.Tensor | None = None
    candidate_mask: tf.Tensor | None = None
    negative_only: tf.Tensor | None = None
    positives: tf.Tensor | None = None


def match(
    ids,
    *,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
    positives=None,
    num_candidates=None,
    dtype=tf.float32,
) -> Match:
    """Find each anchor's columns and positives. Arguments as of the losses over sets.

    Args:
        ids: int `[n]`, or multi-hot float or bool `[n, classes]`. An id of -1 matches nothing.
        candidate_ids: The same for the candidates; None: the batch is its own other side.
        self_index: int `[n]`, the anchor's own column, -1 for none. Without candidates it is the row itself.
        candidate_mask: bool `[columns]` or `[n, columns]`; False: no column for that anchor.
        negative_only: bool `[columns]`; True: left out for anchors of its id, and for those of which `positives`
            makes it a positive; never their positive.
        positives: Float `[n, columns]` of weights >= 0, in place of equal ids.
        num_candidates: How many columns there are, where `candidate_ids` are not given.
        dtype: dtype of `positive_weight`.
    """
    ids = canonical_ids(ids, "ids")
    if candidate_ids is None and num_candidates is None:
        candidate_ids = ids
        self_index = tf.range(tf.shape(ids)[0]) if self_index is None else self_index
    if candidate_ids is not None:
        shared = shared_labels(
            ids, canonical_ids(candidate_ids, "candidate_ids"), dtype
        )
    else:
        shared = tf.zeros_like(positives, dtype)
    weight = shared if positives is None else tf.cast(positives, dtype)
    exists = tf.ones_like(weight, tf.bool)
    if self_index is not None:
        columns = tf.range(tf.shape(weight)[1])
        exists &= columns[None, :] != tf.cast(self_index, tf.int32)[:, None]
    if candidate_mask is not None:
        exists &= tf.cast(
            candidate_mask, tf.bool
        )  # [columns] broadcasts over the anchors
    if negative_only is not None:
        negative_only = tf.cast(negative_only, tf.bool)[None, :]
        exists &= ~(negative_only & ((shared > 0) | (weight > 0)))
        weight = tf.where(negative_only, tf.zeros_like(weight), weight)
    return Match(exists, tf.where(exists, weight, tf.zeros_like(weight)))


def canonical_ids(ids, name: str) -> tf.Tensor:
    """Ids as int64 `[n]`, or multi-hot labels as they are, `[n, classes]`."""
    ids = tf.convert_to_tensor(ids)
    rank = ids.shape.rank
    # Keras 2.15 hands labels over as (n, 1), float ones too: those are no multi-hot labels of one class.
    one = rank == 1 or (rank == 2 and ids.shape[1] == 1)
    many = rank == 2 and ids.shape[1] not in (None, 1)
    if rank not in (None, 1, 2) or (many if ids.dtype.is_integer else one):
        raise ValueError(
            f"`{name}` must be integers of shape (n,), or multi-hot float or bool labels of shape (n, classes). "
            f"Received: {name}.shape={shape_text(ids.shape)}, {name}.dtype={ids.dtype.name}."
        )
    if ids.dtype.is_integer:
        return tf.reshape(tf.cast(ids, tf.int64), [-1])
    return ids


def own_ids_for_unknown(ids) -> tf.Tensor:
    """int64 `[n]` or `[n, views]`, where each row's -1 is an id of its own, from the lowest number on."""
    rows = tf.range(tf.shape(ids)[0], dtype=tf.int64)
    own = tf.int64.min + rows
    return tf.where(ids == -1, own if ids.shape.rank == 1 else own[:, None], ids)


def shared_labels(ids, candidate_ids, dtype) -> tf.Tensor:
    """1 where ids are equal, or the number of labels in common. `[n, columns]`."""
    if ids.shape.rank == 2:
        return tf.matmul(
            tf.cast(ids, dtype), tf.cast(candidate_ids, dtype), transpose_b=True
        )
    same = (ids[:, None] == candidate_ids[None, :]) & (ids[:, None] != -1)
    return tf.cast(same, dtype)


def check_sets(
    ids,
    embeddings,
    *,
    candidates=None,
    candidate_ids=None,
    self_index=None,
    candidate_mask=None,
    negative_only=None,
    positives=None,
    candidate_log_probability=None,
) -> None:
    """Check the static shapes of the arguments of a loss over sets.

    Raises:
        ValueError: A rank or length is known to be wrong, or candidates come without a way to match them.
    """
    embeddings = tf.convert_to_tensor(embeddings)
    check_rank(2, embeddings=embeddings)
    _check_length(tf.convert_to_tensor(ids), embeddings, "ids", "embeddings")
    columns, columns_name = embeddings, "embeddings"
    if candidates is not None:
        columns, columns_name = tf.convert_to_tensor(candidates), "candidates"
        check_rank(2, candidates=columns)
        _check_candidates(ids, embeddings, columns, candidate_ids, positives)
    elif candidate_ids is not None:
        raise ValueError(
            "`candidate_ids` needs `candidates`. Received: candidates=None."
        )
    if self_index is not None:
        _check_shape("self_index", self_index, [(embeddings, "embeddings")])
    of_columns = [(columns, columns_name)]
    for name, given in (
        ("negative_only", negative_only),
        ("candidate_log_probability", candidate_log_probability),
    ):
        if given is not None:
            _check_shape(name, given, of_columns)
    of_pairs = [(embeddings, "embeddings"), *of_columns]
    if positives is not None:
        _check_shape("positives", positives, of_pairs)
    if candidate_mask is not None:
        rank = tf.convert_to_tensor(candidate_mask).shape.rank
        _check_shape(
            "candidate_mask", candidate_mask, of_columns if rank == 1 else of_pairs
        )


def set_keywords(sets: dict, *, softmax: bool = False) -> dict:
    """The keywords of a loss over sets, checked by name.

    Args:
        sets: The keywords given.
        softmax: Whether the loss is a softmax, and has something to correct by `candidate_log_probability`.

    Raises:
        TypeError: A keyword is none of a loss over sets.
        ValueError: `candidate_log_probability` comes where there is no softmax.
    """
    for name in sets.keys() - {*SET_KEYWORDS, "candidate_log_probability"}:
        listed = ", ".join(f"`{keyword}`" for keyword in SET_KEYWORDS)
        raise TypeError(
            f"`{name}` is no keyword of this loss. Beside its options, a loss over sets takes {listed}."
        )
    sets = dict(sets)
    if not softmax and sets.pop("candidate_log_probability", None) is not None:
        raise ValueError(
            "`candidate_log_probability` is for the softmax losses, such as InfoNCELoss: this loss takes none."
        )
    return sets


def check_pairs(first, *, ids, second_ids, **of_columns) -> None:
    """Check the static shapes of the keywords of a loss over pairs, against its rows `first`.

    Raises:
        ValueError: A rank or length is known to be wrong, or `second_ids` come without `ids`.
    """
    if second_ids is not None and ids is None:
        raise ValueError("`second_ids` needs `ids`. Received: ids=None.")
    for name, given in (("ids", ids), ("second_ids", second_ids)):
        if given is not None:
            _check_length(tf.convert_to_tensor(given), first, name, "first")
    if second_ids is not None:
        _check_same_kind(ids, second_ids, "second_ids")
    for name, given in of_columns.items():
        if given is not None:
            axes = [(first, "first"), (first, "second")]
            if name == "candidate_log_probability":
                axes = axes[1:]
            _check_shape(name, given, axes)


def check_negatives(first, negatives, *, ids, negative_ids, negative_mask) -> None:
    """Check the static shapes of further negatives of a loss over pairs.

    Raises:
        ValueError: A rank or length is known to be wrong, or something needs what did not come.
    """
    of_negatives = {"negative_ids": negative_ids, "negative_mask": negative_mask}
    for name, given in of_negatives.items():
        if given is not None and negatives is None:
            raise ValueError(f"`{name}` needs `negatives`. Received: negatives=None.")
    if negative_ids is not None and ids is None:
        raise ValueError("`negative_ids` needs `ids`. Received: ids=None.")
    if negatives is None:
        return
    check_rank(2, negatives=negatives)
    _check_width(first, negatives, "first", "negatives")
    for name, given in of_negatives.items():
        if given is not None:
            _check_length(tf.convert_to_tensor(given), negatives, name, "negatives")
    if negative_ids is not None:
        _check_same_kind(ids, negative_ids, "negative_ids")


def check_labels(labels, candidate_labels, weight) -> None:
    """Check the static shapes of labels beside the ids, against a matrix `[n, columns]`.

    Raises:
        ValueError: A length is known to be wrong, or one is of integers and the other multi-hot.
    """
    for axis, (name, given) in enumerate(
        [("labels", labels), ("candidate_labels", candidate_labels)]
    ):
        known = tf.convert_to_tensor(given).shape[:1]
        if not known.is_compatible_with(weight.shape[axis : axis + 1]):
            raise ValueError(
                f"`{name}` must have one entry for each {('anchor', 'column')[axis]}. Received: "
                f"{name}.shape={shape_text(tf.convert_to_tensor(given).shape)}, for {weight.shape[axis]}."
            )
    _check_same_kind(labels, candidate_labels, "candidate_labels", "labels")


def _check_width(rows, others, name: str, others_name: str) -> None:
    if not others.shape[1:].is_compatible_with(rows.shape[1:]):
        raise ValueError(
            f"`{name}` and `{others_name}` must have the same width. Received: {name}.shape="
            f"{shape_text(rows.shape)}, {others_name}.shape={shape_text(others.shape)}."
        )


def _check_same_kind(ids, others, name: str, ids_name: str = "ids") -> None:
    ids, others = canonical_ids(ids, "ids"), canonical_ids(others, name)
    if ids.shape.rank != others.shape.rank:
        raise ValueError(
            f"`{ids_name}` and `{name}` must both be integers or both be multi-hot. Received: "
            f"{ids_name}.shape={shape_text(ids.shape)}, {name}.shape={shape_text(others.shape)}."
        )


def _check_candidates(ids, embeddings, candidates, candidate_ids, positives) -> None:
    _check_width(embeddings, candidates, "embeddings", "candidates")
    if candidate_ids is None and positives is None:
        raise ValueError(
            "`candidates` needs `candidate_ids` or `positives`, which say what belongs to what. "
            "Received: candidate_ids=None."
        )
    if candidate_ids is not None:
        given = tf.convert_to_tensor(candidate_ids)
        _check_length(given, candidates, "candidate_ids", "candidates")
        _check_same_kind(ids, candidate_ids, "candidate_ids")


def _check_shape(name: str, given, axes: list) -> None:
    """Raise unless `given` has one axis for the rows of each tensor of `axes`, as far as that is known."""
    shape = tf.convert_to_tensor(given).shape
    wanted = tf.TensorShape([tensor.shape[0] for tensor, _ in axes])
    if not shape.is_compatible_with(wanted):
        sides = ", ".join(f"rows of `{rows_name}`" for _, rows_name in axes)
        raise ValueError(
            f"`{name}` must have shape ({sides}): {shape_text(wanted)}. "
            f"Received: {name}.shape={shape_text(shape)}."
        )


def _check_length(ids, rows, name: str, rows_name: str) -> None:
    if not ids.shape[:1].is_compatible_with(rows.shape[:1]):
        raise ValueError(
            f"`{name}` must have one entry for each row of `{rows_name}`. Received: "
            f"{name}.shape={shape_text(ids.shape)}, {rows_name}.shape={shape_text(rows.shape)}."
        )
