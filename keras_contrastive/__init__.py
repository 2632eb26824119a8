"""keras_contrastive: unlabelled images in, a trained encoder out that serves anywhere.

>>> import keras_contrastive as kc
>>> source = kc.data.load("digits")
>>> encoder = kc.encoders.small_resnet(source.train.image_shape)
>>> model = kc.recipes.simclr(encoder, augment=kc.augment.digits(16))
>>> model.fit(kc.data.batches(source.train, 128), epochs=60)
>>> kc.export.save(model, "saved_model/1")
"""

from keras_contrastive import (
    augment,
    callbacks,
    data,
    encoders,
    evaluation,
    export,
    heads,
    layers,
    losses,
    model,
    negatives,
    optimizers,
    pictures,
    recipes,
    report,
    search,
    targets,
    whitening,
)
from keras_contrastive._version import __version__
from keras_contrastive.layers import ContrastiveLossLayer
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.whitening import FeatureWhitening

__all__ = [
    "ContrastiveLossLayer",
    "ContrastiveModel",
    "FeatureWhitening",
    "__version__",
    "augment",
    "callbacks",
    "data",
    "encoders",
    "evaluation",
    "export",
    "heads",
    "layers",
    "losses",
    "model",
    "negatives",
    "optimizers",
    "pictures",
    "recipes",
    "report",
    "search",
    "targets",
    "whitening",
]
