"""Checks of arguments at the public door: what must hold, what came, what to do.

Every message names the argument in backquotes, says what is allowed and ends in what was received, so that
scripts can print it as it is. Tensors are checked by their static shapes: an unknown dimension passes.
"""

from __future__ import annotations

import difflib
import math
import numbers

import tensorflow as tf


def check_positive(**values) -> None:
    """Raise unless each value is a finite number > 0. Tensors are passed over: they are not known yet."""
    for name, value in values.items():
        if tf.is_tensor(value):
            continue
        if not _is_number(value) or not math.isfinite(value) or value <= 0:
            raise ValueError(
                f"`{name}` must be a finite number > 0. Received: {name}={value!r}."
            )


def check_finite(**values) -> None:
    """Raise unless each value is a finite number. Tensors are passed over: they are not known yet."""
    for name, value in values.items():
        if tf.is_tensor(value):
            continue
        if not _is_number(value) or not math.isfinite(value):
            raise ValueError(
                f"`{name}` must be a finite number. Received: {name}={value!r}."
            )


def check_numbers(**values) -> None:
    """Raise where a value is a tensor: it is a constant of compiled code."""
    for name, value in values.items():
        if tf.is_tensor(value):
            raise ValueError(
                f"`{name}` must be a number, not a tensor: the compiled code holds it. Received: {name}={value!r}."
            )


def check_at_least(minimum, **values) -> None:
    """Raise unless each value is a finite number >= `minimum`."""
    for name, value in values.items():
        if not _is_number(value) or not math.isfinite(value) or value < minimum:
            raise ValueError(
                f"`{name}` must be a finite number >= {minimum}. Received: {name}={value!r}."
            )


def check_integer(minimum: int, **values) -> None:
    """Raise unless each value is an integer >= `minimum`."""
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, numbers.Integral)
            or value < minimum
        ):
            raise ValueError(
                f"`{name}` must be an integer >= {minimum}. Received: {name}={value!r}."
            )


def check_choice(name: str, value, choices) -> None:
    """Raise unless `value` is one of `choices`; name the nearest ones."""
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(
        str(value), [str(choice) for choice in choices], n=2
    )
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(
        f"`{name}` must be one of {listed}. Received: {name}={value!r}.{hint}"
    )


def check_rank(rank: int, **tensors) -> None:
    """Raise unless each tensor, where its rank is known, has that rank."""
    for name, tensor in tensors.items():
        if tensor.shape.rank not in (None, rank):
            raise ValueError(
                f"`{name}` must have rank {rank}. Received: {name}.shape={shape_text(tensor.shape)}."
            )


def check_same_shape(**tensors) -> None:
    """Raise unless all tensors are rank 2 and, where known, of one shape `(n, dim)`."""
    names = " and ".join(
        [", ".join(f"`{n}`" for n in list(tensors)[:-1]), f"`{list(tensors)[-1]}`"]
    )
    received = ", ".join(f"{n}.shape={shape_text(t.shape)}" for n, t in tensors.items())
    first = next(iter(tensors.values())).shape
    for tensor in tensors.values():
        if tensor.shape.rank not in (None, 2) or not tensor.shape.is_compatible_with(
            first
        ):
            raise ValueError(
                f"{names} must have the same shape (n, dim). Received: {received}."
            )


def shape_text(shape) -> str:
    """A shape as a tuple, for messages: `(None, 128)`."""
    shape = tf.TensorShape(shape)
    return "unknown" if shape.rank is None else str(tuple(shape.as_list()))


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
