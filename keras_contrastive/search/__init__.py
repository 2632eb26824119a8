"""Search by similarity in embeddings: the nearest of each query, pairs that are alike, groups of duplicates.

Exact by default, and faster than the exact search of the libraries made for it (README); `approximate=` hands large
indexes over to one of these.

>>> index = Index(embeddings, ids=paths)
>>> found = index.search(queries, k=5)
>>> index.save("index.npz")
"""

from keras_contrastive.search.index import Index, Neighbours, Pairs
from keras_contrastive.search.whitening import whiten

__all__ = ["Index", "Neighbours", "Pairs", "whiten"]
