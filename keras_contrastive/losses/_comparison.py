"""From the arguments of a loss to what the engine compares."""

from __future__ import annotations

import numbers

import tensorflow as tf

from keras_contrastive._checks import check_positive, check_same_shape
from keras_contrastive._numerics import as_real, as_scalar
from keras_contrastive.losses._blocks import Comparison
from keras_contrastive.losses.sets import (
    Relation,
    canonical_ids,
    check_pairs,
    check_sets,
    own_ids_for_unknown,
    set_keywords,
)


def compare_sets(
    ids,
    embeddings,
    *,
    temperature=1.0,
    similarity="cosine",
    candidates=None,
    candidate_log_probability=None,
    **sets,
) -> Comparison:
    """Every anchor with its columns: logit = similarity / temperature - log Q(column).

    Args:
        ids: int `(n,)`, or multi-hot float or bool `(n, classes)`.
        embeddings: Float `(n, dim)`.
        temperature: Float > 0, or a scalar tensor.
        similarity: `"cosine"` or `"inner_product"`.
        candidates: Float `(columns, dim)`, or None: the batch.
        candidate_log_probability: Float `(columns,)`, log Q, or None.
        **sets: The other keywords of a loss over sets: see `nt_xent_loss`.

    Raises:
        ValueError: `temperature` is not positive, or a rank or length is known to be wrong.
    """
    check_positive(temperature=temperature)
    sets = set_keywords(sets, softmax=True)
    check_sets(
        ids,
        embeddings,
        candidates=candidates,
        candidate_log_probability=candidate_log_probability,
        **sets,
    )
    embeddings = tf.convert_to_tensor(embeddings)
    dtype = as_real(embeddings[:0]).dtype
    sets = {name: given for name, given in sets.items() if given is not None}
    relation = _relation(ids, dtype, **sets)
    if candidates is None and sets:  # not symmetric: the batch as a set of candidates
        candidates = embeddings
        own = tf.range(tf.shape(embeddings)[0])
        relation = relation._replace(
            candidate_ids=relation.ids,
            self_index=own if relation.self_index is None else relation.self_index,
        )
    elif candidates is not None and relation.candidate_ids is None:
        # `positives` alone say what belongs to what.
        shape = [tf.shape(candidates)[:1], tf.shape(relation.ids)[1:]]
        nothing = tf.constant(
            -1 if relation.ids.dtype.is_integer else 0, relation.ids.dtype
        )
        relation = relation._replace(
            candidate_ids=tf.fill(tf.concat(shape, 0), nothing)
        )
    bias = None
    if candidate_log_probability is not None:
        bias = -tf.cast(candidate_log_probability, dtype)
    known = isinstance(temperature, numbers.Real) and similarity == "cosine"
    return Comparison(
        embeddings,
        candidates,
        relation,
        scale=1 / as_scalar(temperature, dtype),
        bias=bias,
        bound=1 / float(temperature) if known else None,
        similarity=similarity,
    )


def compare_pairs(
    first,
    second,
    *,
    scale,
    bound=None,
    ids=None,
    second_ids=None,
    positives=None,
    candidate_mask=None,
    candidate_log_probability=None,
    both_sides=False,
) -> Comparison:
    """Every row of `first` with all rows of `second`: logit = scale * cosine - log Q(row).

    Args:
        first: Float `(n, dim)`.
        second: Float `(n, dim)`; row i belongs to row i of `first`.
        scale: Float scalar tensor or number > 0, the inverse temperature.
        bound: `scale`, where it is known beforehand.
        ids: int `(n,)` or multi-hot, or None: a row belongs to its own row alone.
        second_ids: The same for `second`; None: as `ids`, where a row of the id -1 still belongs to its own.
        positives: Float `(n, n)`: weights in place of ids.
        candidate_mask: bool `(n, n)`; False: the two are not compared.
        candidate_log_probability: Float `(n,)`, log Q of a pair, or None.
        both_sides: Whether the rows of `second` are anchors as well.

    Raises:
        ValueError: A rank or length is known to be wrong.
    """
    first, second = tf.convert_to_tensor(first), tf.convert_to_tensor(second)
    check_same_shape(first=first, second=second)
    check_pairs(
        first,
        ids=ids,
        second_ids=second_ids,
        positives=positives,
        candidate_mask=candidate_mask,
        candidate_log_probability=candidate_log_probability,
    )
    dtype = as_real(first[:0]).dtype
    if ids is None:
        ids = tf.range(tf.shape(first)[0], dtype=tf.int64)
    ids = canonical_ids(ids, "ids")
    if second_ids is None:
        if ids.dtype.is_integer:  # an unknown row gets an id of its own
            ids = own_ids_for_unknown(ids)
        second_ids = ids
    optional = {"positives": positives, "candidate_mask": candidate_mask}
    given = {name: value for name, value in optional.items() if value is not None}
    relation = _relation(ids, dtype, candidate_ids=second_ids, **given)
    bias = None
    if candidate_log_probability is not None:
        bias = -tf.cast(candidate_log_probability, dtype)
    scale = as_scalar(scale, dtype)
    return Comparison(
        first, second, relation, scale, bias=bias, bound=bound, both_sides=both_sides
    )


def compare_with_negatives(
    comparison: Comparison, negatives, negative_ids=None, negative_mask=None
) -> Comparison:
    """The anchors of a comparison of pairs with further columns, which are nobody's positives.

    Args:
        comparison: That of the pairs.
        negatives: Float `(m, dim)`.
        negative_ids: int `(m,)` or multi-hot `(m, classes)`: left out for anchors of the same id.
        negative_mask: bool `(m,)`; False: no column.
    """
    number = tf.shape(negatives)[0]
    ids = comparison.relation.ids
    if negative_ids is None:
        ids, negative_ids = tf.fill(tf.shape(ids)[:1], -1), tf.fill([number], -1)
    sets = {"negative_only": tf.fill([number], True)}
    if negative_mask is not None:
        sets["candidate_mask"] = negative_mask
    dtype = comparison.scale.dtype
    relation = _relation(ids, dtype, candidate_ids=negative_ids, **sets)
    return comparison._replace(
        columns=negatives, relation=relation, bias=None, both_sides=False
    )


def _relation(ids, dtype, **sets) -> Relation:
    """Tensors of the types that `match` compares, whatever came."""
    ids = canonical_ids(ids, "ids")
    if not ids.dtype.is_integer:
        ids = tf.cast(ids, dtype)
    if "candidate_ids" in sets:
        candidate_ids = canonical_ids(sets["candidate_ids"], "candidate_ids")
        sets["candidate_ids"] = tf.cast(candidate_ids, ids.dtype)
    for name, wanted in (
        ("self_index", tf.int32),
        ("candidate_mask", tf.bool),
        ("negative_only", tf.bool),
        ("positives", dtype),
    ):
        if name in sets:
            sets[name] = tf.cast(sets[name], wanted)
    return Relation(ids, **sets)
