"""Pictures of embeddings, neighbours and views: arrays in, matplotlib figures out.

Every function returns a `matplotlib.figure.Figure` and touches neither pyplot nor a backend, so it works in
scripts, servers and notebooks alike; `save` writes it to a file. matplotlib and scikit-learn load when used.
"""

from keras_contrastive.pictures._common import save
from keras_contrastive.pictures.charts import curves
from keras_contrastive.pictures.maps import embedding_map, project
from keras_contrastive.pictures.sheets import neighbours, views

__all__ = ["curves", "embedding_map", "neighbours", "project", "save", "views"]
