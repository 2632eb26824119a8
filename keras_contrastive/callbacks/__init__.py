"""Callbacks for `fit`: what one wants to see of a contrastive run besides its loss."""

from keras_contrastive.callbacks.checkpoint import RunCheckpoint, StopOnNaN
from keras_contrastive.callbacks.collapse_watch import CollapseWatch
from keras_contrastive.callbacks.embedding_projector import EmbeddingProjector
from keras_contrastive.callbacks.geometry import Geometry
from keras_contrastive.callbacks.knn_probe import KNNProbe
from keras_contrastive.callbacks.learning_rate import LearningRate
from keras_contrastive.callbacks.linear_probe import LinearProbe
from keras_contrastive.callbacks.refresh_embeddings import RefreshEmbeddings
from keras_contrastive.callbacks.tensorboard_pictures import TensorBoardPictures
from keras_contrastive.callbacks.throughput import Throughput

__all__ = [
    "CollapseWatch",
    "EmbeddingProjector",
    "Geometry",
    "KNNProbe",
    "LearningRate",
    "LinearProbe",
    "RefreshEmbeddings",
    "RunCheckpoint",
    "StopOnNaN",
    "TensorBoardPictures",
    "Throughput",
]
