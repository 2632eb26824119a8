"""Numbers that stay finite: norms with a defined gradient at zero, and exact top-k in blocks."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Below this the square root's gradient is cut to 0: at 0 itself it would be infinite.
SQUARED_FLOOR = 1e-12


def as_real(tensor) -> tf.Tensor:
    """float64 stays float64; everything else becomes float32, the least that losses are computed in."""
    tensor = tf.convert_to_tensor(tensor)
    return tensor if tensor.dtype == tf.float64 else tf.cast(tensor, tf.float32)


def as_scalar(value, dtype) -> tf.Tensor:
    """A number or scalar tensor in `dtype`. `tf.cast` alone would take a number through float32."""
    return tf.cast(value, dtype) if tf.is_tensor(value) else tf.constant(value, dtype)


def safe_sqrt(squared: tf.Tensor) -> tf.Tensor:
    """sqrt(max(squared, 1e-12)), whose gradient is 0, not NaN, at and below the floor."""
    return tf.sqrt(tf.maximum(squared, tf.constant(SQUARED_FLOOR, squared.dtype)))


@tf.custom_gradient
def softplus(x: tf.Tensor) -> tf.Tensor:
    """log(1 + exp(x)); value and gradient share their one exponential, the costly part on CPUs."""
    small = tf.exp(-tf.abs(x))

    def gradient(upstream):
        return upstream * tf.where(x < 0, small, tf.ones_like(x)) / (1 + small)

    return tf.nn.relu(x) + tf.math.log1p(small), gradient


def normalize_rows(rows) -> tf.Tensor:
    """Rows of unit length along the last axis; a row of zeros stays zero, with a zero gradient.

    Scaled by the largest entry first, so that neither tiny nor huge rows lose digits (`tf.math.l2_normalize`
    adds its epsilon to the squared norm: a row of norm 1e-7 comes back with norm 0.1).

    Args:
        rows: Float tensor `[..., dim]`.

    Returns:
        float64 for float64, else float32, of the same shape.
    """
    rows = tf.convert_to_tensor(rows)
    # A row below the floor counts as zero: its gradient, of size 1 / norm, would not fit the dtype.
    floor = 6.1e-5 if rows.dtype == tf.float16 else 1e-18
    return _unit_rows(as_real(rows), floor)


def _unit_rows(rows, floor: float) -> tf.Tensor:
    @tf.custom_gradient
    def compute(rows):
        largest = tf.reduce_max(tf.abs(rows), axis=-1, keepdims=True)
        empty = largest < tf.constant(floor, rows.dtype)
        largest = tf.where(empty, tf.ones_like(largest), largest)
        scaled = tf.where(empty, tf.zeros_like(rows), rows / largest)
        squared = tf.reduce_sum(tf.square(scaled), axis=-1, keepdims=True)
        norm = tf.sqrt(tf.where(empty, tf.ones_like(squared), squared))
        unit = scaled / norm

        # By hand, since it needs the unit rows and two columns alone, not every step on the way.
        def gradient(upstream):
            along = tf.reduce_sum(upstream * unit, axis=-1, keepdims=True)
            across = (upstream - along * unit) / norm / largest
            return tf.where(empty, tf.zeros_like(across), across)

        return unit, gradient

    return compute(rows)


def inverse_lengths(rows, axis: int = -1, *, dtype=None) -> tf.Tensor:
    """1 / |x| of the vectors along an axis, which is dropped; 0, with a zero gradient, where that would not fit.

    That is below 1e-12, in float16 below 6.1e-5: the gradient of what it scales is of its size. Two passes over the
    rows where `normalize_rows` takes many, for unit rows that only meet in products; but no entry above 1e18.

    Args:
        rows: Float tensor.
        axis: The axis along which the vectors lie.
        dtype: The dtype that the gradient has to fit, where that is not the dtype of `rows`.

    Returns:
        float64 for float64, else float32.
    """
    rows = tf.convert_to_tensor(rows)
    least = 6.1e-5 if (dtype or rows.dtype) == tf.float16 else 1e-12
    squared = tf.reduce_sum(tf.square(as_real(rows)), axis=axis)
    inverse = tf.math.rsqrt(tf.maximum(squared, least**2))
    return tf.where(squared < least**2, tf.zeros_like(inverse), inverse)


def unit_rows(rows: np.ndarray, *, block: int = 4096) -> np.ndarray:
    """`normalize_rows` of an array `[n, dim]`, block by block: its steps on the way take little memory. float32."""
    unit = np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), block):
        part = np.asarray(rows[start : start + block], np.float32)
        unit[start : start + block] = normalize_rows(part).numpy()
    return unit


# How many scores share one maximum in `top_k_columns`.
GROUP = 32


def top_k_columns(queries, columns, count, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The k columns with the largest inner product with each query: `tf.math.top_k` of the product, but faster.

    That looks at all scores one by one. Here the maxima of groups of 32 are taken first, one cheap pass, and only the
    scores of the k groups with the largest ones are looked at: a column of another group has k before it, one of each.
    Works in graphs, in a SavedModel and under XLA.

    Args:
        queries: float32 `(m, dim)`.
        columns: float32 `(dim, capacity)`, capacity a known multiple of 32. Powers of two are slow: their rows fall
            into the same lines of a CPU's cache.
        count: int32 or int64 scalar: the columns from there on are not there. They must be finite all the same.
        k: Integer >= 1.

    Returns:
        Scores float32 `(m, k)`, largest first, and int64 `(m, k)`: the indices of those columns, of equal scores the
        lowest first. Where there are fewer than k columns the rest has the score -inf and the index 0.
    """
    capacity = columns.shape[1]
    groups = capacity // GROUP
    count = tf.cast(count, tf.int64)
    scores = tf.matmul(queries, columns)  # (m, capacity)
    if groups < 4 * k:  # the chosen groups would be a large part of all
        there = tf.range(capacity, dtype=tf.int64) < count
        scores = tf.where(there, scores, -np.inf)
        values, indices = tf.math.top_k(scores, min(k, capacity))
        missing = [[0, 0], [0, k - min(k, capacity)]]
        values = tf.pad(values, missing, constant_values=-np.inf)
        indices = tf.pad(tf.cast(indices, tf.int64), missing)
        return values, tf.where(values == -np.inf, tf.zeros_like(indices), indices)
    scores = tf.reshape(scores, [-1, groups, GROUP])
    whole = count // GROUP  # groups from there on are not full
    best = tf.reduce_max(scores, axis=2)
    best = tf.where(tf.range(groups, dtype=tf.int64) < whole, best, -np.inf)
    chosen = tf.math.top_k(best, k, sorted=False).indices
    # In the order of their columns, so that of equal scores the lowest column stands first.
    chosen = tf.sort(tf.cast(chosen, tf.int64), axis=1)  # (m, k)
    candidates = tf.gather(scores, chosen, batch_dims=1)  # (m, k, GROUP)
    # With fewer than k full groups others were chosen too: the one that follows must not come twice.
    candidates = tf.where((chosen < whole)[:, :, None], candidates, -np.inf)
    last = tf.gather(scores, tf.minimum(whole, groups - 1), axis=1)  # (m, GROUP)
    there = whole * GROUP + tf.range(GROUP, dtype=tf.int64) < count
    last = tf.where(there, last, -np.inf)
    candidates = tf.concat([tf.reshape(candidates, [-1, k * GROUP]), last], axis=1)
    values, places = tf.math.top_k(candidates, k)
    places = tf.cast(places, tf.int64)
    chosen = tf.concat([chosen, tf.fill([tf.shape(queries)[0], 1], whole)], axis=1)
    indices = tf.gather(chosen, places // GROUP, batch_dims=1) * GROUP + places % GROUP
    return values, tf.where(values == -np.inf, tf.zeros_like(indices), indices)


def most_similar(
    queries: np.ndarray, rows: np.ndarray, k: int, *, block: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest cosine similarity to each query: exact, block by block.

    Args:
        queries: Float `[n, dim]`.
        rows: Float `[m, dim]`, m >= k.
        k: Integer >= 1.
        block: How many queries are compared at once: memory is block * m floats.

    Returns:
        Similarities float32 `[n, k]`, largest first, and int64 `[n, k]`: the indices of those rows.
    """
    rows = tf.constant(unit_rows(np.asarray(rows)))
    queries = unit_rows(np.asarray(queries))
    found = [
        tf.math.top_k(
            tf.matmul(queries[start : start + block], rows, transpose_b=True), k
        )
        for start in range(0, len(queries), block)
    ]
    values = np.concatenate([part.values.numpy() for part in found])
    indices = np.concatenate([part.indices.numpy() for part in found])
    return values, indices.astype(np.int64)


def replace_oldest(buffer: tf.Tensor, rows: tf.Tensor, added: tf.Tensor) -> tf.Tensor:
    """A ring buffer with `rows` in the places of its oldest.

    Args:
        buffer: `(size, ...)`.
        rows: `(n, ...)`, cast to the dtype of `buffer`; of more than `size` the last ones stay.
        added: int64 scalar, how many rows have been put in before.

    Returns:
        `(size, ...)`.
    """
    size = buffer.shape[0]
    count = tf.shape(rows, out_type=tf.int64)[0]
    kept = tf.minimum(count, size)
    places = (added + tf.range(count - kept, count)) % size
    newest = tf.cast(rows[count - kept :], buffer.dtype)
    return tf.tensor_scatter_nd_update(buffer, places[:, None], newest)
