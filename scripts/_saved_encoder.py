"""An exported encoder as the scripts use it: its SavedModel, by TensorFlow alone."""

import hashlib
import json
from pathlib import Path

from _console import Failure


def check_export(path, found_by: str = "") -> None:
    """Make sure, before TensorFlow is loaded, that there is a SavedModel.

    Raises:
        Failure: There is none; it names the one that was meant, where one is near.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return
    near = [*path.glob("*/saved_model.pb"), *path.glob("saved_model/*/saved_model.pb")]
    numbered = [file.parent for file in near if file.parent.name.isdigit()]
    hint = found_by
    if numbered:
        newest = max(numbered, key=lambda folder: int(folder.name))
        hint = f"Did you mean '{newest}'?"
    raise Failure(f"'{path}' is no SavedModel: it has no saved_model.pb. {hint}")


class SavedEncoder:
    """From images of its size to embeddings.

    Attributes:
        image_size, channels: Of the images.
        dim: Of the embeddings.
        fingerprint: Of the files: another after any change.
        weights: A number for its weights, the same in every export of them; None in exports of earlier versions.
        created: When it was exported, or None.
    """

    def __init__(self, path):
        import tensorflow as tf

        self.path = Path(path)
        try:
            self._loaded = tf.saved_model.load(str(path))  # or its variables are gone
        except Exception as error:  # a damaged one ends in any of a dozen exceptions
            raise Failure(
                f"'{path}' cannot be loaded as a SavedModel: {str(error) or type(error).__name__}"
            ) from error
        if "resized" not in self._loaded.signatures:
            raise Failure(
                f"'{path}' has no signature `resized`, as exports of earlier versions: export it again with "
                "scripts/export.py."
            )
        self._signature = self._loaded.signatures["resized"]
        ((self._input, images),) = self._signature.structured_input_signature[1].items()
        _, self.image_size, _, self.channels = images.shape
        self.dim = self._signature.structured_outputs["embedding"].shape[-1]
        self.fingerprint = _fingerprint(self.path)
        card = self._card()
        self.created, self.weights = card.get("created"), card.get("fingerprint")

    def __call__(self, images):
        """uint8 `(n, image_size, image_size, channels)` -> float32 `(n, dim)`, NumPy."""
        return self._signature(**{self._input: images})["embedding"].numpy()

    def _card(self) -> dict:
        try:
            return json.loads((self.path / "assets" / "model_card.json").read_text())
        except (OSError, ValueError):
            return {}


def _fingerprint(path: Path) -> str:
    """Of the graph and the weights: what `assets` say of them may change."""
    digest = hashlib.sha256()
    for file in [path / "saved_model.pb", *sorted((path / "variables").glob("*"))]:
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            while block := content.read(2**20):
                digest.update(block)
    return digest.hexdigest()[:16]
