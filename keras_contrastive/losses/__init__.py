"""Losses, each a pure function and a Keras class.

| class | function | called with | paper | file |
|---|---|---|---|---|
| `ContrastiveLoss` | `contrastive_loss` | ids, embeddings; or three rows | Hadsell et al. 2006 | contrastive.py |
| `NTXentLoss` | `nt_xent_loss` | ids, embeddings | Chen et al. 2020 | softmax.py |
"""

from keras_contrastive.losses.contrastive import ContrastiveLoss, contrastive_loss
from keras_contrastive.losses.softmax import NTXentLoss, nt_xent_loss

__all__ = ["ContrastiveLoss", "NTXentLoss", "contrastive_loss", "nt_xent_loss"]
