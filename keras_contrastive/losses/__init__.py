"""Losses, each a pure function and a Keras class (a layer, where it has weights or state of its own).

| class | function | called with | paper | file |
|---|---|---|---|---|
| `ContrastiveLoss` | `contrastive_loss` | ids, embeddings; or three rows | Hadsell et al. 2006 | contrastive.py |
| `TripletLoss` | `triplet_loss` | ids, embeddings; or three rows | Schroff et al. 2015 | triplet.py |
| `TripletSemiHardLoss` | `triplet_semi_hard_loss` | ids, embeddings | Schroff et al. 2015 | triplet.py |
| `TripletHardLoss` | `triplet_hard_loss` | ids, embeddings | Hermans et al. 2017 | triplet.py |
| `LiftedStructLoss` | `lifted_struct_loss` | ids, embeddings | Song et al. 2016 | lifted_struct.py |
| `NpairsLoss` | `npairs_loss` | ids, embeddings | Sohn 2016 | npairs.py |
| `NpairsMultilabelLoss` | `npairs_multilabel_loss` | labels, embeddings | Sohn 2016 | npairs.py |
| `MultiSimilarityLoss` | `multi_similarity_loss` | ids, embeddings | Wang et al. 2019 | multi_similarity.py |
| `CircleLoss` | `circle_loss` | ids, embeddings | Sun et al. 2020 | circle.py |
| `SoftNearestNeighborLoss` | `soft_nearest_neighbor_loss` | ids, embeddings | Frosst et al. 2019 | soft_nearest_neighbor.py |
| `InfoNCELoss` | `info_nce_loss` | ids, embeddings, candidates | van den Oord et al. 2018 | softmax.py |
| `NTXentLoss` | `nt_xent_loss` | ids, embeddings | Chen et al. 2020 | softmax.py |
| `SupConLoss` | `sup_con_loss` | ids, embeddings | Khosla et al. 2020 | softmax.py |
| `DecoupledLoss` | `decoupled_loss` | ids, embeddings | Yeh et al. 2021 | decoupled.py |
| `DebiasedLoss` | `debiased_loss` | ids, embeddings | Chuang et al. 2020 | debiased.py |
| `HardNegativeLoss` | `hard_negative_loss` | ids, embeddings | Robinson et al. 2021 | debiased.py |
| `KoLeoLoss` | `koleo_loss` | ids, embeddings | Sablayrolles et al. 2019 | uniformity.py |
| `ArcFaceLoss` (layer) | `arcface_loss` | ids, embeddings | Deng et al. 2019 | arcface.py |
| `CosFaceLoss` (layer) | `cosface_loss` | ids, embeddings | Wang et al. 2018 | arcface.py |
| `ProxyAnchorLoss` (layer) | `proxy_anchor_loss` | ids, embeddings | Kim et al. 2020 | proxies.py |
| `ProxyNCALoss` (layer) | `proxy_nca_loss` | ids, embeddings | Movshovitz-Attias et al. 2017 | proxies.py |
| `SymmetricInfoNCELoss` | `symmetric_info_nce_loss` | pairs | Radford et al. 2021 | symmetric.py |
| `SigmoidLoss` (layer) | `sigmoid_loss` | pairs | Zhai et al. 2023 | sigmoid.py |
| `BarlowTwinsLoss` | `barlow_twins_loss` | pairs | Zbontar et al. 2021 | redundancy.py |
| `VICRegLoss` | `vicreg_loss` | pairs | Bardes et al. 2022 | redundancy.py |
| `CosinePredictionLoss` | `cosine_prediction_loss` | pairs (prediction, target) | Grill et al. 2020, Chen and He 2021 | prediction.py |
| `SwAVLoss` (layer) | `swav_loss` | pairs | Caron et al. 2020 | swav.py |
| `DINOLoss` (layer) | `dino_loss` | pairs (student, teacher) | Caron et al. 2021 | dino.py |
| `AlignmentUniformityLoss` | `alignment_uniformity_loss` | pairs | Wang and Isola 2020 | uniformity.py |

`NestedDimensions` (nested.py) takes any of them at several widths of the embedding at once, `MinedLoss` (mining.py) lets
miners choose the pairs that a loss over sets sees. Equations: each function's docstring, and the README.

Those on similarities are a few lines each over one engine, `_blocks.py`, which never builds a large similarity matrix.
Those that sort, rank or select distances build it once (`_pairs.py`).
"""

from keras_contrastive.losses import mining
from keras_contrastive.losses.arcface import (
    ArcFaceLoss,
    CosFaceLoss,
    arcface_loss,
    cosface_loss,
)
from keras_contrastive.losses.circle import (
    CircleLoss,
    circle_loss,
)
from keras_contrastive.losses.contrastive import (
    ContrastiveLoss,
    contrastive_loss,
)
from keras_contrastive.losses.debiased import (
    DebiasedLoss,
    HardNegativeLoss,
    debiased_loss,
    hard_negative_loss,
)
from keras_contrastive.losses.decoupled import (
    DecoupledLoss,
    decoupled_loss,
)
from keras_contrastive.losses.dino import (
    DINOLoss,
    dino_loss,
)
from keras_contrastive.losses.lifted_struct import (
    LiftedStructLoss,
    lifted_struct_loss,
)
from keras_contrastive.losses.mining import (
    MinedLoss,
)
from keras_contrastive.losses.multi_similarity import (
    MultiSimilarityLoss,
    multi_similarity_loss,
)
from keras_contrastive.losses.nested import (
    NestedDimensions,
)
from keras_contrastive.losses.npairs import (
    NpairsLoss,
    NpairsMultilabelLoss,
    npairs_loss,
    npairs_multilabel_loss,
)
from keras_contrastive.losses.prediction import (
    CosinePredictionLoss,
    cosine_prediction_loss,
)
from keras_contrastive.losses.proxies import (
    ProxyAnchorLoss,
    ProxyNCALoss,
    proxy_anchor_loss,
    proxy_nca_loss,
)
from keras_contrastive.losses.redundancy import (
    BarlowTwinsLoss,
    VICRegLoss,
    barlow_twins_loss,
    vicreg_loss,
)
from keras_contrastive.losses.sigmoid import (
    SigmoidLoss,
    sigmoid_loss,
)
from keras_contrastive.losses.soft_nearest_neighbor import (
    SoftNearestNeighborLoss,
    soft_nearest_neighbor_loss,
)
from keras_contrastive.losses.softmax import (
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
    info_nce_loss,
    nt_xent_loss,
    sup_con_loss,
)
from keras_contrastive.losses.swav import (
    SwAVLoss,
    swav_loss,
)
from keras_contrastive.losses.symmetric import (
    SymmetricInfoNCELoss,
    symmetric_info_nce_loss,
)
from keras_contrastive.losses.triplet import (
    TripletHardLoss,
    TripletLoss,
    TripletSemiHardLoss,
    triplet_hard_loss,
    triplet_loss,
    triplet_semi_hard_loss,
)
from keras_contrastive.losses.uniformity import (
    AlignmentUniformityLoss,
    KoLeoLoss,
    alignment_uniformity_loss,
    koleo_loss,
)

__all__ = [
    "AlignmentUniformityLoss",
    "ArcFaceLoss",
    "BarlowTwinsLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CosinePredictionLoss",
    "DINOLoss",
    "DebiasedLoss",
    "DecoupledLoss",
    "HardNegativeLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LiftedStructLoss",
    "MinedLoss",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "NestedDimensions",
    "NpairsLoss",
    "NpairsMultilabelLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SigmoidLoss",
    "SoftNearestNeighborLoss",
    "SupConLoss",
    "SwAVLoss",
    "SymmetricInfoNCELoss",
    "TripletHardLoss",
    "TripletLoss",
    "TripletSemiHardLoss",
    "VICRegLoss",
    "alignment_uniformity_loss",
    "arcface_loss",
    "barlow_twins_loss",
    "circle_loss",
    "contrastive_loss",
    "cosface_loss",
    "cosine_prediction_loss",
    "debiased_loss",
    "decoupled_loss",
    "dino_loss",
    "hard_negative_loss",
    "info_nce_loss",
    "koleo_loss",
    "lifted_struct_loss",
    "mining",
    "multi_similarity_loss",
    "npairs_loss",
    "npairs_multilabel_loss",
    "nt_xent_loss",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "sigmoid_loss",
    "soft_nearest_neighbor_loss",
    "sup_con_loss",
    "swav_loss",
    "symmetric_info_nce_loss",
    "triplet_hard_loss",
    "triplet_loss",
    "triplet_semi_hard_loss",
    "vicreg_loss",
]
