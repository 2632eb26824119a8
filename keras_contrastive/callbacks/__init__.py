"""Callbacks for `fit`: what one wants to see of a contrastive run besides its loss."""

from keras_contrastive.callbacks.checkpoint import RunCheckpoint, StopOnNaN
from keras_contrastive.callbacks.knn_probe import KNNProbe
from keras_contrastive.callbacks.refresh_embeddings import RefreshEmbeddings
from keras_contrastive.callbacks.tensorboard_pictures import TensorBoardPictures

__all__ = [
    "KNNProbe",
    "RefreshEmbeddings",
    "RunCheckpoint",
    "StopOnNaN",
    "TensorBoardPictures",
]
