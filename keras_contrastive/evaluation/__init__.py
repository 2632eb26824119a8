"""How good embeddings are, measured by labels that training did not see. Arrays in, plain floats out."""

from keras_contrastive.evaluation.clustering import ClusteringScores, clustering
from keras_contrastive.evaluation.few_label import FewLabelAccuracy, few_label_accuracy
from keras_contrastive.evaluation.geometry import (
    Geometry,
    alignment,
    effective_rank,
    embedding_std,
    geometry,
    uniformity,
)
from keras_contrastive.evaluation.knn import knn_accuracy, knn_predictions
from keras_contrastive.evaluation.linear_probe import (
    LinearClassifier,
    LinearProbeResult,
    linear_probe,
)
from keras_contrastive.evaluation.ranking import similarity_ranking
from keras_contrastive.evaluation.retrieval import RetrievalScores, retrieval
from keras_contrastive.evaluation.significance import (
    Comparison,
    Interval,
    compare,
    confidence_interval,
)
from keras_contrastive.evaluation.trained_probes import (
    ProbeResult,
    fine_tune,
    sgd_probe,
)

__all__ = [
    "ClusteringScores",
    "Comparison",
    "FewLabelAccuracy",
    "Geometry",
    "Interval",
    "LinearClassifier",
    "LinearProbeResult",
    "ProbeResult",
    "RetrievalScores",
    "alignment",
    "clustering",
    "compare",
    "confidence_interval",
    "effective_rank",
    "embedding_std",
    "few_label_accuracy",
    "fine_tune",
    "geometry",
    "knn_accuracy",
    "knn_predictions",
    "linear_probe",
    "retrieval",
    "sgd_probe",
    "similarity_ranking",
    "uniformity",
]
