"""Losses, each a pure function and a Keras class (a layer, where it learns something itself).

| class | function | called with | paper | file |
|---|---|---|---|---|
| `ContrastiveLoss` | `contrastive_loss` | ids, embeddings; or three rows | Hadsell et al. 2006 | contrastive.py |
| `InfoNCELoss` | `info_nce_loss` | ids, embeddings, candidates | van den Oord et al. 2018 | softmax.py |
| `NTXentLoss` | `nt_xent_loss` | ids, embeddings | Chen et al. 2020 | softmax.py |
| `SupConLoss` | `sup_con_loss` | ids, embeddings | Khosla et al. 2020 | softmax.py |
| `DecoupledLoss` | `decoupled_loss` | ids, embeddings | Yeh et al. 2021 | decoupled.py |
| `DebiasedLoss` | `debiased_loss` | ids, embeddings | Chuang et al. 2020 | debiased.py |
| `HardNegativeLoss` | `hard_negative_loss` | ids, embeddings | Robinson et al. 2021 | debiased.py |
| `SymmetricInfoNCELoss` | `symmetric_info_nce_loss` | pairs | Radford et al. 2021 | symmetric.py |
| `SigmoidLoss` (layer) | `sigmoid_loss` | pairs | Zhai et al. 2023 | sigmoid.py |

All but the first are a few lines each over one engine, `_blocks.py`, which never builds a large similarity matrix.
"""

from keras_contrastive.losses.contrastive import ContrastiveLoss, contrastive_loss
from keras_contrastive.losses.debiased import (
    DebiasedLoss,
    HardNegativeLoss,
    debiased_loss,
    hard_negative_loss,
)
from keras_contrastive.losses.decoupled import DecoupledLoss, decoupled_loss
from keras_contrastive.losses.sigmoid import SigmoidLoss, sigmoid_loss
from keras_contrastive.losses.softmax import (
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
    info_nce_loss,
    nt_xent_loss,
    sup_con_loss,
)
from keras_contrastive.losses.symmetric import (
    SymmetricInfoNCELoss,
    symmetric_info_nce_loss,
)

__all__ = [
    "ContrastiveLoss",
    "DebiasedLoss",
    "DecoupledLoss",
    "HardNegativeLoss",
    "InfoNCELoss",
    "NTXentLoss",
    "SigmoidLoss",
    "SupConLoss",
    "SymmetricInfoNCELoss",
    "contrastive_loss",
    "debiased_loss",
    "decoupled_loss",
    "hard_negative_loss",
    "info_nce_loss",
    "nt_xent_loss",
    "sigmoid_loss",
    "sup_con_loss",
    "symmetric_info_nce_loss",
]
