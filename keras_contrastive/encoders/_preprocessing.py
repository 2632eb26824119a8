"""What an application of Keras wants done to images in 0..1, as a layer of the encoder."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

# Of the pixels of ImageNet in 0..1, red, green and blue: what the published weights were trained with.
_IMAGENET_DEVIATIONS = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable("keras_contrastive")
class ApplicationPreprocessing(keras.layers.Layer):
    """Images in 0..1 as a family of `keras.applications` takes them: `preprocess_input` of 255 times the image.

    Grey images are repeated to three channels first. Computed in float32 under every policy.

    Args:
        family: Name of the module in `keras.applications`, as "resnet" or "mobilenet_v3". Families that scale images
            themselves get them in 0..255. It is called with float images `(batch, height, width, 1 or 3)`, and gives
            float32 `(batch, height, width, 3)`.
    """

    def __init__(self, family: str, **kwargs):
        kwargs.update(dtype="float32")
        super().__init__(**kwargs)
        self.family = family

    def call(self, images):
        if images.shape[-1] == 1:
            images = tf.tile(images, [1, 1, 1, 3])
        module = getattr(keras.applications, self.family)
        return module.preprocess_input(images * 255, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)

    def get_config(self):
        return {**super().get_config(), "family": self.family}


def settle(encoder: keras.Model) -> None:
    """Bring the layers of an encoder in line with weights that it was just given.

    Keras' `Normalization` computes with copies of its weights, made anew by its `finalize_state` alone.

    The published weights of EfficientNet (B0 to B7) hold the deviations of ImageNet's pixels where the layer wants
    variances. Keras mends that by one more layer, but only where it downloads the weights itself
    (`weights="imagenet"`). Here the variances are put right, so that the encoder has the same layers in each case.
    """
    families = {getattr(layer, "family", None) for layer in encoder.layers}
    for layer in _all_layers(encoder):
        if not isinstance(layer, keras.layers.Normalization):
            continue
        if "efficientnet" in families and len(layer.weights) == 3:
            mean, variance, count = layer.get_weights()
            if np.allclose(variance, _IMAGENET_DEVIATIONS, rtol=1e-3):
                layer.set_weights([mean, np.square(variance), count])
        layer.finalize_state()


def _all_layers(model):
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
