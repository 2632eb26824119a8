"""The model card of an export: what the encoder is, and where it comes from."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform

import keras
import numpy as np

from keras_contrastive._compat import versions
from keras_contrastive._version import __version__
from keras_contrastive.whitening import served_encoder


def fingerprint(model: keras.Model) -> str:
    """A number for what an encoder computes: of its weights, the same in every export of it, float16 or not.

    Args:
        model: `ContrastiveModel`, or an encoder.

    Returns:
        16 hexadecimal digits. The card has them, and what `scripts/embed.py` writes.
    """
    digest = hashlib.sha256()
    for weight in served_encoder(model).weights:
        value = weight.numpy()
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def card_of(given: dict | None, class_names, index) -> dict:
    """The card without what is known of the encoder and its signatures."""
    return {
        **{name: None for name in ("data", "method", "settings", "figures")},
        **(given or {}),
        "class_names": None if class_names is None else [*map(str, class_names)],
        "indexed_images": None if index is None else len(index),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(
            "T", "seconds"
        ),
        "versions": {
            "keras_contrastive": __version__,
            **versions(),
            "python": platform.python_version(),
        },
    }


def as_json(card: dict) -> str:
    """The text of a card.

    Raises:
        ValueError: Something in it is nothing that JSON knows.
    """
    try:
        return json.dumps(_plain(card), indent=2, allow_nan=False) + "\n"
    except TypeError as error:
        raise ValueError(f"`card` must be fit for JSON: {error}.") from error


def _plain(value):
    """A value for JSON, which has no NaN and nothing of NumPy's: NaN and infinities become None."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
