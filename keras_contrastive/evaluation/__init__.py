"""How good embeddings are, measured by labels that training did not see. Arrays in, plain floats out."""

from keras_contrastive.evaluation.few_label import FewLabelAccuracy, few_label_accuracy
from keras_contrastive.evaluation.knn import knn_accuracy

__all__ = ["FewLabelAccuracy", "few_label_accuracy", "knn_accuracy"]
