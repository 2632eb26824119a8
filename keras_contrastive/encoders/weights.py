"""Give an encoder the weights of another: from a saved model, or from a file of weights.

What the file holds is compared with what the encoder has before anything is loaded: Keras would load some files in
part without a word (those of a deeper network of the same kind), others half before it fails.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import keras

from keras_contrastive._compat import path_of
from keras_contrastive.encoders._preprocessing import settle


def load_weights(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Give `encoder` the weights of another of the same kind, whatever the size of its images.

    Do so before the first `fit` or `predict`: what an EfficientNet scales its images by is a constant of compiled code.

    Args:
        encoder: Built `keras.Model`. An encoder of `keras.applications` (see `application`) takes the weights of the
            Keras model inside it as well, without its classifier.
        path: One of
            `model.keras`: a saved `ContrastiveModel`, of which the encoder counts, or a saved model as it is;
            `x.weights.h5`: weights of the encoder alone, as `encoder.save_weights` writes them;
            `x.h5`: the same in the older format, in which Keras 2 wrote and `keras.applications` publishes them.
            `.keras` files are read by the Keras line alone that wrote them, the others by both.

    Raises:
        ValueError: There is no such file, it is none of these, or it does not hold just the weights that the encoder
            has. The message names the file, the encoder and the first difference. The encoder stays as it was.

    Example:
        >>> encoder = kc.encoders.resnet18((None, None, 3))
        >>> kc.encoders.load_weights(encoder, "runs/a/model.keras")
    """
    path = check_file(path, encoder.name)
    load = _load_from_model if path.name.endswith(".keras") else _load_from_file
    load(encoder, path)
    settle(encoder)


def check_file(path: str | os.PathLike, encoder_name: str) -> Path:
    """The path, if it is a file whose name says that it could hold weights."""
    path = Path(path)
    if not path.name.endswith((".keras", ".h5")):
        raise ValueError(
            "A file of weights must end in .keras (a saved model), or in .weights.h5 or .h5 (weights). "
            f"Received: '{path}', for `{encoder_name}`."
        )
    if not path.is_file():
        raise ValueError(
            f"There is no such file with the weights of `{encoder_name}`. Received: '{path}'."
        )
    return path


def _load_from_model(encoder, path: Path) -> None:
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # a broken archive, an unknown class, another Keras
        raise ValueError(
            f"'{path}' is no saved model that can be loaded here: {_first_line(error)} Import what the model is made "
            "of; a file of the other line of Keras must be saved there as .weights.h5."
        ) from error
    source = getattr(model, "encoder", model)
    difference = _difference(_arrays_of(encoder), _arrays_of(source))
    if difference:
        raise _refusal(encoder, path, difference)
    encoder.set_weights(source.get_weights())


def _load_from_file(encoder, path: Path) -> None:
    """Load into the encoder, or into the one model that all its weights belong to."""
    differences = []
    for target in (*_inner_models(encoder), encoder):
        try:
            expected, found = _arrays_to_load(target, path)
        except OSError as error:
            raise ValueError(
                f"'{path}' is no HDF5 file that can be read: {_first_line(error)}"
            ) from error
        difference = _difference(expected, found)
        if difference is None:
            target.load_weights(str(path))
            return
        differences.append((len(expected.keys() & found.keys()), difference))
    raise _refusal(encoder, path, max(differences)[1])  # of the one more like the file


def _inner_models(encoder) -> list:
    return [
        layer
        for layer in encoder.layers
        if isinstance(layer, keras.Model) and len(layer.weights) == len(encoder.weights)
    ]


def _refusal(encoder, path: Path, difference: str) -> ValueError:
    remedy = (
        "Give a file of the same model without its classifier (`include_top=False`)."
        if _inner_models(encoder)
        else "Make the encoder with the same arguments as the one whose weights these are."
    )
    return ValueError(
        f"'{path}' does not hold the weights of `{encoder.name}`: {difference}. {remedy}"
    )


def _difference(expected: dict, found: dict) -> str | None:
    """The first difference of two `{place: (name, shape)}`, or None."""
    for place, (name, shape) in expected.items():
        if place not in found:
            return f"{name} {shape} is missing in the file"
        if found[place][1] != shape:
            other, other_shape = found[place]
            named = "" if other == name else f" ({other})"
            return f"{name} has the shape {shape}, in the file{named} {other_shape}"
    for place, (name, shape) in found.items():
        if place not in expected:
            return f"the file has {name} {shape} too"
    return None


def _arrays_of(model) -> dict:
    """Name and shape of each weight, by its number."""
    return {
        number: (path_of(weight), tuple(weight.shape))
        for number, weight in enumerate(model.weights)
    }


def _arrays_to_load(model, path: Path) -> tuple[dict, dict]:
    """What a model has and what a file holds, as `{place: (name, shape)}` of the file's format."""
    if not path.name.endswith(".weights.h5"):
        return _older_arrays_of(model), _older_arrays_in(path)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.weights.h5"
        model.save_weights(str(own))  # Keras alone knows how it names the places
        expected = _arrays_in(own)
    # A compiled model's file holds its optimizer too, which is not asked for.
    kinds = {place.split("/")[0] for place in expected}
    found = _arrays_in(path)
    return expected, {k: v for k, v in found.items() if k.split("/")[0] in kinds}


def _arrays_in(path: Path) -> dict:
    import h5py  # comes with Keras

    found = {}

    def visit(place, item):
        if isinstance(item, h5py.Dataset):
            found[place] = (place, tuple(item.shape))

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def _older_arrays_of(model) -> dict:
    """The places of the older format: the number of the layer among those with weights, and of the weight in it."""
    layers = [layer for layer in model.layers if layer.weights]
    return {
        (i, j): (path_of(weight), tuple(weight.shape))
        for i, layer in enumerate(layers)
        for j, weight in enumerate(
            layer.trainable_weights + layer.non_trainable_weights
        )
    }


def _older_arrays_in(path: Path) -> dict:
    import h5py

    with h5py.File(path, "r") as file:
        # A whole model saved in this format has its weights in a group of their own.
        weights = file["model_weights"] if "model_weights" in file else file
        layers = [weights[name] for name in _names(weights, "layer_names")]
        arrays = [
            [layer[name] for name in _names(layer, "weight_names")] for layer in layers
        ]
        return {
            (i, j): (array.name.lstrip("/"), tuple(array.shape))
            for i, layer in enumerate(filter(None, arrays))
            for j, array in enumerate(layer)
        }


def _names(group, attribute: str) -> list[str]:
    """A list of names, which Keras cuts into several attributes where it is long: `layer_names0`, ..."""
    pieces = [attribute] if attribute in group.attrs else []
    for number in itertools.count():
        piece = f"{attribute}{number}"
        if piece not in group.attrs:
            break
        pieces.append(piece)
    names = [name for piece in pieces for name in group.attrs[piece]]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
