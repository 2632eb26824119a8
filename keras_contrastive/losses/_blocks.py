"""Statistics of a similarity matrix that is never built: the engine of the softmax family and the sigmoid loss.

An anchor compares itself with its columns: `logit = anchor . column + bias`. All that a loss of the family asks
of its logits are a few numbers for each anchor, its *statistics*: log-sum-exps (`LogSumExp`) and sums over pairs
(`PairSum`), over all columns, over the positives or over the negatives. `Comparison.statistics` gives them as
tensors `[n]` with gradients into the anchors, the columns and the parameters of the terms; the loss is then
ordinary arithmetic on vectors.

How: tile by tile, forwards with running log-sum-exps, backwards by computing each tile again, so that memory
grows with n and not with n^2. (A sum over all pairs needs no statistic for its gradient, and finds it on the way.)
Where the anchors are their own columns only the tiles on and above the diagonal are visited, and where both sides
are anchors (pairs) all are visited once: every tile then serves its rows and, from the other side, its columns. The
loop is compiled by XLA (`compiled`), has tiles of one size, and updates its accumulators in place (a
`tf.TensorArray` becomes XLA's dynamic-update-slice). Where ids tell the positives, sums over these need no tile
(`IdSums`), nor does any function of a single positive.
"""

from __future__ import annotations

import functools
import itertools
import math
import numbers
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from keras_contrastive._numerics import as_real, normalize_rows
from keras_contrastive.losses._id_sums import IdSums
from keras_contrastive.losses.sets import Match, Relation, match

# The largest side of a tile: its few temporaries of 4 MB stay near the caches.
TILE = 1024
# A matrix of up to this many entries (16 MB) is one tile, which is kept for the gradient.
AT_ONCE = 2**22
# One of up to this many is computed without XLA: compiling would cost more than it gains.
SMALL = 2**16
# Logits known to lie within [-b, b], with 2 b up to this, need no running maximum: exp(-80) is a normal number.
FIXED_RANGE = {tf.float32: 80.0, tf.float64: 600.0}


class Pair(NamedTuple):
    """What a tile knows of its pairs of an anchor and a column; tensors `[rows, columns]`."""

    product: tf.Tensor
    """anchor . column: the logit without its bias."""
    bias: tf.Tensor | None
    """Of the columns, to be broadcast; None: 0."""
    weight: tf.Tensor
    """The weight as a positive; 0: a negative."""

    @property
    def logit(self) -> tf.Tensor:
        return self.product if self.bias is None else self.product + self.bias


class Side(NamedTuple):
    """A tile as its anchors see it: by its rows (`axis` 1: what they sum over) or by its columns (`axis` 0)."""

    pair: Pair
    exists: tf.Tensor
    axis: int
    bound: tf.Tensor | None
    """All |logit| are at most this; None: nothing is known."""

    def mask(self, over: str) -> tf.Tensor:
        positive = self.pair.weight > 0
        masks = {"all": self.exists, "positives": positive}
        return masks[over] if over in masks else self.exists & ~positive

    def sum(self, values, mask) -> tf.Tensor:
        return tf.reduce_sum(tf.where(mask, values, 0.0), self.axis)

    def spread(self, vector) -> tf.Tensor:
        """A number for each anchor, to be broadcast over its columns."""
        return tf.expand_dims(vector, self.axis)


class LogSumExp(NamedTuple):
    """log sum_j exp(e_ij) over the columns `over`, with e = scale logit; over positives log sum_j w_ij exp(e_ij).

    An anchor without such a column has `lowest(dtype)`, without a gradient.
    """

    over: str
    """"all", "positives" or "negatives"."""
    scale: float = 1.0
    function: Callable | None = None
    """From a `Pair` to e, entry by entry, where it is another function; hashable by value, as of `PairSum`."""

    num_parameters = 0

    def start(self, like, bound) -> tuple:
        """The state before any tile, for a vector `like`: ([maximum so far,] sum so far)."""
        total = tf.zeros_like(like)
        if self._bound(bound) is not None:
            return (total,)
        return (total + lowest(like.dtype), total)

    def add(self, state: tuple, side: Side, parameters) -> tuple:
        """The state after a tile more."""
        mask, logit = side.mask(self.over), self._exponent(side.pair)
        bound = self._bound(side.bound)
        if bound is not None:
            terms = self._weighted(tf.exp(logit - bound), side)
            return (state[0] + side.sum(terms, mask),)
        top, total = state
        below = tf.where(mask, logit, lowest(logit.dtype))
        new_top = tf.maximum(top, tf.reduce_max(below, side.axis))
        terms = self._weighted(tf.exp(logit - side.spread(new_top)), side)
        return new_top, total * tf.exp(top - new_top) + side.sum(terms, mask)

    def merge(self, first: tuple, second: tuple) -> tuple:
        """The state after the tiles of both."""
        if len(first) == 1:
            return (first[0] + second[0],)
        top = tf.maximum(first[0], second[0])
        return top, sum(total * tf.exp(own - top) for own, total in (first, second))

    def finish(self, state: tuple, bound) -> tf.Tensor:
        """The statistic."""
        total = state[-1]
        bound = self._bound(bound)
        top = state[0] if bound is None else bound
        empty = total == 0
        value = top + tf.math.log(tf.where(empty, tf.ones_like(total), total))
        return tf.where(empty, lowest(total.dtype), value)

    def pull(self, side: Side, value, upstream, parameters) -> tuple:
        """Of sum(upstream * value): the gradient of the logits, and those of the parameters."""
        logit, slope = self._exponent(side.pair), self._slope(side.pair)
        bound = self._bound(side.bound)
        if bound is None:
            terms = tf.exp(logit - side.spread(value))
        else:  # exponentials that both sides of a tile share
            terms = tf.exp(logit - bound)
            top = tf.where(is_empty(value), bound, value)
            upstream *= tf.exp(bound - top)
        terms = self._weighted(terms, side) * slope * side.spread(upstream)
        return tf.where(side.mask(self.over), terms, 0.0), ()

    def _exponent(self, pair: Pair) -> tf.Tensor:
        return self.scale * pair.logit if self.function is None else self.function(pair)

    def _slope(self, pair: Pair):
        """The derivative of the exponent by the product."""
        if self.function is None:
            return self.scale
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pair.product)
            exponent = self.function(pair)
        return tape.gradient(exponent, pair.product)

    def _bound(self, bound):
        """No |exponent| is larger, where that is known."""
        known = bound is not None and self.function is None
        return abs(self.scale) * bound if known else None

    def _weighted(self, terms, side: Side) -> tf.Tensor:
        return side.pair.weight * terms if self.over == "positives" else terms


class PairSum(NamedTuple):
    """sum_j w_ij function(pair_ij, *parameters_i) over the columns `over`, where w is 1 but for positives."""

    over: str
    function: Callable | None = None
    """From a `Pair` and its parameters to a tensor of a tile, entry by entry; finite for all finite logits, and
    so is its derivative. Compiled code is kept by it: it must be hashable by value. None: 1."""
    num_parameters: int = 0
    linear: bool = False
    """In product and bias together: the sum is the function of their sums."""

    def of_sums(self, pair: Pair, parameters) -> tf.Tensor:
        """The statistic from a pair of sums over the positives; unless it is linear, over at most one."""
        if self.function is None:
            return pair.weight
        values = self.function(pair, *parameters)
        return tf.where(pair.weight > 0, values, tf.zeros_like(values))

    def start(self, like, bound) -> tuple:
        return (tf.zeros_like(like),)

    def add(self, state: tuple, side: Side, parameters) -> tuple:
        return (state[0] + self._sum(side, side.pair, parameters),)

    def merge(self, first: tuple, second: tuple) -> tuple:
        return (first[0] + second[0],)

    def finish(self, state: tuple, bound) -> tf.Tensor:
        return state[0]

    def pull(self, side: Side, value, upstream, parameters) -> tuple:
        if self.function is None:
            return None, ()
        product = side.pair.product
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch((product, parameters))
            pair = side.pair._replace(product=product)
            total = tf.reduce_sum(upstream * self._sum(side, pair, parameters))
        return tape.gradient(total, (product, parameters), unconnected_gradients="zero")

    def _sum(self, side: Side, pair: Pair, parameters) -> tf.Tensor:
        if self.function is None:
            values = tf.ones_like(pair.product)
        else:
            values = self.function(pair, *[side.spread(p) for p in parameters])
        if self.over == "positives":
            values = pair.weight * values
        return side.sum(values, side.mask(self.over))


POSITIVE_LOGITS = PairSum("positives", lambda pair: pair.logit, linear=True)
POSITIVE_WEIGHT = PairSum("positives", linear=True)


class Comparison(NamedTuple):
    """Anchors and columns, and how they belong together: logit = scale * similarity + bias."""

    rows: tf.Tensor
    """Float `[n, dim]`: the anchors."""
    columns: tf.Tensor | None
    """Float `[columns, dim]`; None: the anchors are their own columns, and `relation` is by ids alone."""
    relation: Relation
    scale: tf.Tensor
    """Float scalar > 0, the inverse temperature."""
    bias: tf.Tensor | None = None
    """Float `[columns]`, added to the logits of a column. No gradient flows into it."""
    bound: float | None = None
    """`scale`, where it is known beforehand: no |scale * cosine| is larger."""
    similarity: str = "cosine"
    """"cosine" (rows are normalised here) or "inner_product"."""
    both_sides: bool = False
    """The columns are anchors as well, with the anchors as columns: as many, and `bias` holds for both."""

    def statistics(self, *terms, parameters: tuple = ()) -> list[tf.Tensor]:
        """One tensor `[n]` for each term; with `both_sides` `[2, n]`: of the anchors, and of the columns.

        Args:
            *terms: `LogSumExp`s and `PairSum`s.
            parameters: Those of all terms, one term after the other, each of the shape of a statistic.
        """
        by_id, sums = [], []
        if self._positives_by_id:
            sums = self._id_sums()
            by_id = [
                term
                for term in terms
                if isinstance(term, PairSum) and term.over == "positives"
            ]
        summed = functools.partial(self._summed, sums)
        groups = (
            ([term for term in terms if term not in by_id], self._swept),
            ([term for term in by_id if term.linear], summed),
            ([term for term in by_id if not term.linear], summed),
        )
        groups = [(tuple(group), part) for group, part in groups if group]
        inputs = self._inputs()
        num_inputs = len(inputs)

        # One for all groups: TensorFlow keeps a copy of what goes into each.
        @tf.custom_gradient
        def compute(*tensors):
            inputs, parameters = tensors[:num_inputs], tensors[num_inputs:]
            own = dict(zip(terms, _deal(parameters, terms)))
            sides, values, pulls = self._sides(*inputs), {}, []
            for group, part in groups:
                of_group = [parameter for term in group for parameter in own[term]]
                results, pull = part(group, sides, of_group)
                values.update(zip(group, results))
                pulls.append((group, pull))

            def gradient(*upstream):
                # The sides again, not kept. Nor is anything else but the statistics.
                sides, pull_inputs = _linearized(self._sides, inputs)
                above, of_terms, of_sides = dict(zip(terms, upstream)), {}, []
                for group, pull in pulls:
                    found = pull(sides, *[above[term] for term in group])
                    of_sides.append(found[: len(sides)])
                    of_terms.update(zip(group, _deal(found[len(sides) :], group)))
                total = [functools.reduce(tf.add, parts) for parts in zip(*of_sides)]
                of_parameters = [one for term in terms for one in of_terms[term]]
                return *pull_inputs(total), *of_parameters

            return [values[term] for term in terms], gradient

        return compute(*inputs, *parameters)

    def _swept(self, terms: tuple, sides, parameters) -> tuple:
        """The statistics by a visit to all pairs, and how a gradient is pulled back to sides and parameters."""
        setting = _setting(self, terms)
        bound = self.scale if setting.fixed else None
        given = _Given(self.relation, self.bias, bound)
        tiles = _Tiles(setting, sides, parameters, given)

        def pull(sides, *upstream):
            again = _Tiles(setting, sides, parameters, given, tiles.kept)
            (found,) = again.sweep(_Gradients(again, values, upstream))
            return found

        if not setting.in_one_sweep:
            (values,) = tiles.sweep(_Values(tiles))
            return values, pull

        of_ones = _Gradients(tiles, None, [tf.ones_like(sides[0][:, 0])])
        values, found = tiles.sweep(_Values(tiles), of_ones)

        def pull_scaled(sides, upstream):
            factor = tf.reduce_max(upstream)
            return tf.cond(
                tf.reduce_min(upstream) == factor,
                lambda: [factor * one for one in found],
                lambda: pull(sides, upstream),
            )

        return values, pull_scaled

    def _id_sums(self) -> list[tuple]:
        """For the anchors, and with `both_sides` for the columns: sums over positives, and their number."""
        ids, other_ids, *_ = self.relation
        relations = [self.relation] + [Relation(other_ids, ids)] * self.both_sides
        sums = [IdSums(relation) for relation in relations]
        return [(of_side, of_side.number(self.scale.dtype)) for of_side in sums]

    def _summed(self, sums, terms: tuple, sides, parameters) -> tuple:
        """The statistics of positives from sums by id, and how a gradient is pulled back, as of `_swept`.

        The sums are enough for terms that are linear, and where no anchor has more than one positive. Else all pairs
        are visited.
        """
        num_sides = len(sides)

        def by_sums(*tensors):
            pair = self._positive_pair(sums, tensors[:num_sides])
            dealt = _deal(tensors[num_sides:], terms)
            return [term.of_sums(pair, own) for term, own in zip(terms, dealt)]

        @tf.custom_gradient
        def by_sweep(*tensors):
            sides = tensors[:num_sides]
            values, pull = self._swept(terms, sides, tensors[num_sides:])
            return values, functools.partial(pull, sides)

        def either(of_function: Callable):
            if all(term.linear for term in terms):
                return of_function(by_sums)
            return tf.cond(
                tf.reduce_max([number for _, number in sums]) <= 1,
                lambda: of_function(by_sums),
                lambda: of_function(by_sweep),
            )

        def pull(sides, *upstream):
            return either(lambda f: _linearized(f, [*sides, *parameters])[1](upstream))

        return either(lambda f: f(*sides, *parameters)), pull

    def _positive_pair(self, sums, sides) -> Pair:
        """Sums over the positives of each anchor: tensors of the shape of a statistic."""
        sides, pairs = [sides[0], sides[-1]], []
        for of_side, number in sums:
            product = tf.reduce_sum(sides[0] * of_side(sides[1]), axis=1)
            bias = None if self.bias is None else of_side(self.bias)
            pairs.append(Pair(product, bias, number))
            sides = sides[::-1]
        if not self.both_sides:
            return pairs[0]
        return Pair(
            *[None if part[0] is None else tf.stack(part) for part in zip(*pairs)]
        )

    @property
    def _positives_by_id(self) -> bool:
        relation = self.relation
        mask = relation.candidate_mask
        of_pairs = mask is not None and mask.shape.rank == 2
        in_matrix = of_pairs or relation.positives is not None
        if in_matrix or not relation.ids.dtype.is_integer:
            return False
        # A small matrix is masked with fewer operations.
        return self._entries > min(SMALL, AT_ONCE)

    @property
    def _entries(self) -> float:
        return _entries(self.rows, self.rows if self.columns is None else self.columns)

    def _inputs(self) -> list[tf.Tensor]:
        """What gradients flow into."""
        return [i for i in (self.rows, self.scale, self.columns) if i is not None]

    def _sides(self, rows, scale, columns=None) -> list[tf.Tensor]:
        """Anchors, and columns where they are others, whose products are the logits without bias."""
        # Normalised before any cast to float32: the floor for tiny rows depends on the dtype they came in.
        prepare = normalize_rows if self.similarity == "cosine" else as_real
        anchors = prepare(rows)
        if columns is None:
            return [anchors * tf.sqrt(scale)]
        return [anchors * scale, tf.cast(prepare(columns), anchors.dtype)]


def _deal(parameters, terms) -> list[list]:
    """The parameters of each term, of those of one term after the other."""
    remaining = iter(parameters)
    return [list(itertools.islice(remaining, t.num_parameters)) for t in terms]


def _linearized(function: Callable, inputs) -> tuple:
    """`function(*inputs)`, and the function from gradients of its results to those of the inputs.

    Used within a hand-written gradient, so that what the function makes on its way is not kept until then.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        again = [tf.identity(i) for i in inputs]  # one may be given twice
        tape.watch(again)
        results = function(*again)

    def pull(upstream) -> tuple:
        zero = tf.UnconnectedGradients.ZERO
        return tuple(tape.gradient(results, again, list(upstream), zero))

    return results, pull


def compiled(function: Callable) -> Callable:
    """Let XLA compile `function(ids or first, rows, **options)`, but for small matrices of known size."""
    # Two, since a program of unknown sizes would also be taken for known ones, and an eager call cannot run it:
    # XLA then does not know how many tiles there are.
    programs = {
        known: tf.function(function, jit_compile=True, autograph=False)
        for known in (True, False)
    }

    @tf.autograph.experimental.do_not_convert  # nothing here needs it, and tracing is faster
    @functools.wraps(function)
    def run(first, rows, **options):
        first, rows = tf.convert_to_tensor(first), tf.convert_to_tensor(rows)
        options = {name: _as_argument(option) for name, option in options.items()}
        candidates, negatives = options.get("candidates"), options.get("negatives")
        entries = _entries(rows, rows if candidates is None else candidates)
        if negatives is not None:
            entries += _entries(rows, negatives)
        if entries <= SMALL:
            return function(first, rows, **options)
        return programs[math.isfinite(entries)](first, rows, **options)

    return run


def _as_argument(option):
    """Numbers as plain ones, which are constants of the compiled code, arrays and variables as tensors."""
    if isinstance(option, np.generic):
        option = option.item()
    if option is None or isinstance(option, (bool, str)):
        return option
    is_number = isinstance(option, numbers.Real)
    return float(option) if is_number else tf.convert_to_tensor(option)


def lowest(dtype) -> tf.Tensor:
    """In place of minus infinity: finite, so that no difference of two is NaN."""
    return tf.constant(dtype.min / 4, dtype)


def is_empty(log_sum_exp) -> tf.Tensor:
    """Whether there was no column to sum over; bool of the shape of the statistic."""
    return log_sum_exp == lowest(log_sum_exp.dtype)


class _Given(NamedTuple):
    """What a sweep gets beside its differentiable inputs."""

    relation: Relation
    bias: tf.Tensor | None
    bound: tf.Tensor | None


class _Setting(NamedTuple):
    """What a sweep is like."""

    terms: tuple
    symmetric: bool
    both_sides: bool
    fixed: bool
    """The logits are known to be so small that sums of exponentials need no running maximum."""
    at_once: bool
    """One tile holds everything, and is kept."""

    @property
    def in_one_sweep(self) -> bool:
        """Value and gradient are found together, the gradient as if that from above were 1 for every anchor.

        A sum over pairs can, since its gradient needs no statistic. That from above is nearly always one number,
        of a mean over anchors, by which the gradient is scaled; else it is swept again. (Where nobody asks for
        the gradient, XLA leaves it out of the sweep.)
        """
        alone = len(self.terms) == 1 and isinstance(self.terms[0], PairSum)
        everywhere = alone and self.terms[0].over == "all"
        return everywhere and not (self.at_once or self.both_sides)

    @property
    def ways(self) -> int:
        """2 where a tile serves its columns as well as its rows."""
        return 2 if self.both_sides or self.symmetric else 1

    @property
    def own_transpose(self) -> bool:
        """The one tile is symmetric: its columns see what its rows see."""
        return self.symmetric and self.at_once

    @property
    def counted_ways(self) -> int:
        """How many of the ways have sums of their own."""
        return 1 if self.own_transpose else self.ways


def _setting(comparison: Comparison, terms: tuple) -> _Setting:
    entries = comparison._entries
    scale = max(abs(getattr(term, "scale", 1.0)) for term in terms)
    bounded = comparison.bound is not None and comparison.bias is None
    if any(isinstance(t, LogSumExp) and t.over == "positives" for t in terms):
        # A tiny weight times exp(-80) would be 0.
        relation = comparison.relation
        bounded &= relation.positives is None and relation.ids.dtype.is_integer
    return _Setting(
        terms=terms,
        symmetric=comparison.columns is None,
        both_sides=comparison.both_sides,
        fixed=bounded
        and entries > SMALL
        and 2 * scale * comparison.bound <= FIXED_RANGE[comparison.scale.dtype],
        at_once=entries <= AT_ONCE,
    )


def _entries(rows, columns) -> float:
    """How large the matrix is; infinity where that is not known yet."""
    counts = rows.shape[:1] + columns.shape[:1]
    return counts.num_elements() if counts.is_fully_defined() else math.inf


class _Values:
    """The statistics of all terms, as work for a sweep."""

    def __init__(self, tiles: _Tiles):
        self._tiles, self._terms = tiles, tiles.setting.terms
        self._bound, self._ways = tiles.given.bound, tiles.setting.counted_ways

    def starts(self) -> list:
        zeros = self._tiles.zeros()[: self._ways]
        starts = [[t.start(like, self._bound) for t in self._terms] for like in zeros]
        return starts + [[]] * (2 - self._ways)

    def visit(self, indices, states) -> list:
        seen = self._tiles.seen(indices)
        new = [
            [
                term.add(state, side, own)
                for term, state, own in zip(self._terms, states[way], of_terms)
            ]
            for way, (side, of_terms) in enumerate(seen[: self._ways])
        ]
        return new + [[]] * (2 - self._ways)

    def finish(self, states) -> list[tf.Tensor]:
        states = states[: self._ways]
        if self._tiles.setting.symmetric and self._ways == 2:
            states = [[t.merge(*both) for t, *both in zip(self._terms, *states)]]
        finished = [
            [term.finish(state, self._bound) for term, state in zip(self._terms, way)]
            for way in states
        ]
        return [self._tiles.join_vector(blocks) for blocks in zip(*finished)]


class _Gradients:
    """The gradients of sum(upstream * values), as work for a sweep: of the sides, then of the parameters."""

    def __init__(self, tiles: _Tiles, values, upstream):
        """`values` and `upstream` have an entry for each term; values may be None where no term needs them."""
        self._tiles, self._setting = tiles, tiles.setting
        values = values or [None] * len(upstream)
        self._values = [v if v is None else tiles.cut_vector(v) for v in values]
        self._upstream = [tiles.cut_vector(u) for u in upstream]

    def starts(self) -> list:
        tiles, setting = self._tiles, self._setting
        starts = [[tiles.zero_gradient(0)], []]
        if not setting.own_transpose:
            starts[1].append(tiles.zero_gradient(1))
        number = sum(term.num_parameters for term in setting.terms)
        for way, zeros in enumerate(tiles.zeros()[: setting.counted_ways]):
            starts[way] += [zeros] * number
        return starts

    def visit(self, indices, states) -> list:
        tiles = self._tiles
        seen = [
            self._pull(way, index, *seen)
            for way, (index, seen) in enumerate(zip(indices, tiles.seen(indices)))
        ]
        of_logits = functools.reduce(tf.add, [of_logits for of_logits, _ in seen])
        i, j = indices
        new = [[tf.matmul(of_logits, tiles.columns[j]), *seen[0][1]], []]
        if not self._setting.own_transpose:
            # As [dim, columns]: the product of a transposed tile is several times slower on CPUs.
            new[1].append(tf.matmul(tiles.rows[i], of_logits, transpose_a=True))
        if self._setting.counted_ways == 2:
            new[1] += seen[1][1]
        return tf.nest.map_structure(tf.add, states, new)

    def finish(self, states) -> list[tf.Tensor]:
        tiles, setting = self._tiles, self._setting
        gradients = [
            tiles.join(k, state.pop(0), transposed=k == 1)
            for k, state in enumerate(states)
            if not (k == 1 and setting.own_transpose)
        ]
        states = states[: setting.counted_ways]
        if setting.symmetric:
            gradients = [functools.reduce(tf.add, gradients)]
            states = [[functools.reduce(tf.add, both) for both in zip(*states)]]
        return gradients + [tiles.join_vector(blocks) for blocks in zip(*states)]

    def _pull(self, way: int, index, side: Side, of_terms):
        """The gradients of a tile's logits, and of the parameters of its anchors."""
        of_logits, of_parameters = [], []
        given = zip(self._setting.terms, self._values, self._upstream, of_terms)
        for term, value, above, own in given:
            value = None if value is None else value[way][index]
            pulled = term.pull(side, value, above[way][index], own)
            of_logits += [] if pulled[0] is None else [pulled[0]]
            of_parameters += pulled[1]
        return functools.reduce(tf.add, of_logits), of_parameters


class _Tiles:
    """The inputs of a sweep, cut into blocks of rows (side 0) and columns (side 1), padded to one size.

    A *vector* has a number for each anchor. Cut, it has one tensor `[blocks, tile]` for each way.
    """

    def __init__(self, setting, sides, parameters, given: _Given, kept=None):
        self.setting, self.given, self.kept = setting, given, kept
        self._tilings = [_tiling(sides[0])]
        self._tilings += [_tiling(side) for side in sides[1:]] or self._tilings
        self.rows = self._cut(0, sides[0])
        self.columns = self.rows if setting.symmetric else self._cut(1, sides[1])
        self._cut_relation(given.relation)
        bias = given.bias
        # Each way adds the bias of the other side.
        self._bias = (
            None if bias is None else [self._cut(k, bias) for k in self._others]
        )
        cut = [self.cut_vector(parameter) for parameter in parameters]
        self._parameters = _deal(cut, setting.terms)

    @property
    def _others(self) -> list[int]:
        """For each way the side of its columns."""
        return [1, 0][: self.setting.ways]

    def cut_vector(self, vector) -> list[tf.Tensor]:
        ways = range(self.setting.ways)
        if self.setting.both_sides:
            return [self._cut(k, vector[k]) for k in ways]
        return [self._cut(0, vector)] * len(ways)

    def join_vector(self, blocks) -> tf.Tensor:
        joined = [self.join(k, part) for k, part in enumerate(blocks)]
        return tf.stack(joined) if self.setting.both_sides else joined[0]

    def join(self, k: int, blocks, transposed: bool = False) -> tf.Tensor:
        """Undo the cutting of side `k`, of blocks that are matrices `transposed` maybe."""
        if transposed:
            blocks = tf.linalg.matrix_transpose(blocks)
        if self.setting.at_once:
            return blocks
        shape = tf.concat([[-1], tf.shape(blocks)[2:]], axis=0)
        return tf.reshape(blocks, shape)[: self._tilings[k].count]

    def zeros(self) -> list[tf.Tensor]:
        """The state of a vector of zeros, for each way."""
        sides = (self.rows, self.columns)[: self.setting.ways]
        if self.setting.at_once:
            return [tf.zeros_like(side[0][:, 0]) for side in sides]
        return [tf.zeros_like(side[:, :, 0]) for side in sides]

    def zero_gradient(self, k: int) -> tf.Tensor:
        """The state of a gradient of zeros, of side 1 transposed."""
        side = (self.rows, self.columns)[k]
        zeros = tf.zeros_like(side[0] if self.setting.at_once else side)
        return tf.linalg.matrix_transpose(zeros) if k == 1 else zeros

    def seen(self, indices) -> list[tuple[Side, list]]:
        """The tile at `indices` as each way sees it, with the parameters of its anchors for each term."""
        i, j = indices
        product = self.kept
        if product is None:
            product = tf.matmul(self.rows[i], self.columns[j], transpose_b=True)
        if self.setting.at_once:
            self.kept = product
        exists, weight = self._match(i, j)
        sides = []
        for way, axis in enumerate([1, 0][: self.setting.ways]):
            bias = None
            if self._bias is not None:
                bias = tf.expand_dims(self._bias[way][indices[1 - way]], 1 - axis)
            if way == 1 and self.setting.symmetric and not self.setting.at_once:
                # On the diagonal the rows see it all.
                exists &= i != j
                weight = tf.where(exists, weight, 0.0)
            pair = Pair(product, bias, weight)
            side = Side(pair, exists, axis, self.given.bound)
            index = indices[way]
            own = [tuple(p[way][index] for p in term) for term in self._parameters]
            sides.append((side, own))
        return sides

    def sweep(self, *works) -> list:
        """Visit all tiles once, for every work; what each finishes with.

        A work has `starts()`, the states before any tile: a nest of tensors `[blocks, tile, ...]` for the rows,
        and one for the columns (at once, of tensors of that one tile); `visit((i, j), states)`, the states of
        the block of rows i and of columns j after that tile; and `finish(states)`.
        """
        states = [list(side) for side in zip(*[work.starts() for work in works])]

        def visit(indices, states):
            new = [w.visit(indices, list(own)) for w, own in zip(works, zip(*states))]
            return [list(side) for side in zip(*new)]

        if self.setting.at_once:
            states = visit((0, 0), states)
        else:
            states = self._loop(visit, states)
        return [work.finish(list(own)) for work, own in zip(works, zip(*states))]

    def _loop(self, visit: Callable, states: list) -> list:
        """Let `visit` change the states of the tiles one after the other."""
        sides = [k for k, state in enumerate(states) for _ in tf.nest.flatten(state)]
        blocks = [tiling.blocks for tiling in self._tilings]

        def step(i, j, *arrays):
            own = [array.read((i, j)[k]) for k, array in zip(sides, arrays)]
            new = visit((i, j), tf.nest.pack_sequence_as(states, own))
            arrays = [
                array.write((i, j)[k], state)
                for k, array, state in zip(sides, arrays, tf.nest.flatten(new))
            ]
            more = j + 1 < blocks[1]
            first = i + 1 if self.setting.symmetric else 0
            return (tf.where(more, i, i + 1), tf.where(more, j + 1, first), *arrays)

        arrays = [
            _array(state, blocks[k]) for k, state in zip(sides, tf.nest.flatten(states))
        ]
        _, _, *arrays = tf.while_loop(
            lambda i, *_: i < blocks[0], step, (0, 0, *arrays)
        )
        return tf.nest.pack_sequence_as(states, [array.stack() for array in arrays])

    def _cut(self, k: int, tensor, padding=0) -> tf.Tensor:
        """`[count, ...]` of side `k` as `[blocks, tile, ...]`; at once, as a list of itself."""
        if tensor is None:
            return None
        if self.setting.at_once:
            return [tensor]
        tiling = self._tilings[k]
        paddings = [[0, tiling.padding]] + [[0, 0]] * (tensor.shape.rank - 1)
        padding = tf.cast(padding, tensor.dtype)
        padded = tf.pad(tensor, paddings, constant_values=padding)
        widths = [_size(tensor, axis) for axis in range(1, tensor.shape.rank)]
        return tf.reshape(padded, [tiling.blocks, tiling.tile, *widths])

    def _cut_relation(self, relation: Relation) -> None:
        """The relation as `_match` reads it: rows and columns cut, matrices over pairs padded."""
        setting, counts = self.setting, [tiling.count for tiling in self._tilings]
        ids, other, own, mask, negative_only, positives = relation
        unknown = -1 if ids.dtype.is_integer else 0
        self._ids = self._cut(0, ids, unknown)
        self._other_ids = self._ids if other is None else self._cut(1, other, unknown)
        own = tf.range(counts[0]) if setting.symmetric else own
        self._own = self._cut(0, own, -1)
        self._negative_only = self._cut(1, negative_only)
        self._positives = self._cut_pairs(positives)
        of_pairs = mask is not None and mask.shape.rank == 2
        self._pair_mask = self._cut_pairs(mask if of_pairs else None)
        of_columns, of_rows = None if of_pairs else mask, None
        if not setting.at_once:  # padding does not exist
            if of_columns is None:
                of_columns = tf.ones([counts[1]], tf.bool)
            if setting.ways == 2:
                of_rows = tf.ones([counts[0]], tf.bool)
        self._row_mask = self._cut(0, of_rows)
        self._column_mask = self._cut(1, of_columns)

    def _cut_pairs(self, pairs):
        """`[n, columns]`, padded, or None."""
        if pairs is None or self.setting.at_once:
            return pairs
        return tf.pad(pairs, [[0, tiling.padding] for tiling in self._tilings])

    def _match(self, i, j) -> Match:
        """How the rows of block i and the columns of block j belong together."""

        def part(blocks, index):
            return None if blocks is None else blocks[index]

        own, positives, mask = part(self._own, i), self._positives, self._pair_mask
        if not self.setting.at_once:
            size = [tiling.tile for tiling in self._tilings]
            start = [i * size[0], j * size[1]]
            own = None if own is None else own - start[1]
            mask, positives = (
                None if pairs is None else tf.slice(pairs, start, size)
                for pairs in (mask, positives)
            )
        masks = [mask]
        if self._row_mask is not None:
            masks.append(self._row_mask[i][:, None])
        if self._column_mask is not None:
            masks.append(self._column_mask[j][None, :])
        masks = [mask for mask in masks if mask is not None]
        return match(
            self._ids[i],
            candidate_ids=self._other_ids[j],
            self_index=own,
            candidate_mask=functools.reduce(tf.logical_and, masks) if masks else None,
            negative_only=part(self._negative_only, j),
            positives=positives,
            dtype=self.rows[i].dtype,
        )


class _Tiling(NamedTuple):
    """How a side is cut: numbers where its count is known, else tensors."""

    count: int | tf.Tensor
    blocks: int | tf.Tensor
    tile: int | tf.Tensor

    @property
    def padding(self):
        return self.blocks * self.tile - self.count


def _tiling(side) -> _Tiling:
    count = _size(side, 0)
    blocks = (count + TILE - 1) // TILE
    blocks = tf.maximum(1, blocks) if tf.is_tensor(count) else max(1, blocks)
    return _Tiling(count, blocks, (count + blocks - 1) // blocks)


def _size(tensor, axis: int):
    """A number where it is known, else a tensor."""
    known = tensor.shape[axis]
    return tf.shape(tensor)[axis] if known is None else known


def _array(blocks, number) -> tf.TensorArray:
    shape = blocks.shape[1:]
    array = tf.TensorArray(
        blocks.dtype, number, element_shape=shape, clear_after_read=False
    )
    return array.unstack(blocks)
