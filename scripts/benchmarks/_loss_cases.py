"""What the benchmark of the losses runs: every loss on its rows, by us and by the libraries that have the same function.

A library's entry makes its loss from the library's modules and a `Rows`, and says what is watched beside the rows:
`(loss, weights)`. Losses over rows are called `loss(ids, rows)` here, whatever a library's own order is.
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np

DIM = 128
CLASSES, PROTOTYPES = 1000, 3000


class Rows(NamedTuple):
    """Two views of so many images, normal and noisy, and the ids of their rows, first views first."""

    first: np.ndarray
    second: np.ndarray
    ids: np.ndarray
    weights: np.ndarray
    """Of classes or prototypes `[count, dim]`."""

    @property
    def stacked(self) -> np.ndarray:
        return np.concatenate([self.first, self.second])


class Case(NamedTuple):
    """A loss and how it is measured."""

    ours: Callable
    """From the package and rows to `(loss, weights)`."""
    pairs: tuple
    """The sizes, in pairs of views: twice as many rows."""
    peers: dict = {}
    """For each library `(largest size, how it makes the loss)`."""
    over_pairs: bool = False
    """The loss is called with the two views."""
    labels: Callable = lambda pairs: pairs
    """How many different ids there are, for so many pairs."""
    dim: int = DIM
    num_weights: int = 0

    def rows(self, pairs: int) -> Rows:
        generator = np.random.default_rng(0)
        shape = (pairs, self.dim)
        first = generator.normal(size=shape).astype(np.float32)
        second = first + generator.normal(size=shape).astype(np.float32)
        ids = np.tile(np.arange(pairs) % self.labels(pairs), 2)
        weights = generator.normal(size=(self.num_weights, self.dim))
        return Rows(first, second, ids, weights.astype(np.float32))


def plain(name: str, **options) -> Callable:
    return lambda kc, rows: (getattr(kc.losses, name)(**options), [])


def layer(name: str, variable: str = "", **options) -> Callable:
    """A loss with weights, which are set to those of the rows."""

    def make(kc, rows):
        loss = getattr(kc.losses, name)(**options)
        if not variable:
            return loss, []
        loss.build(rows.first.shape)
        weight = getattr(loss, variable)
        weight.assign(rows.weights)
        return loss, [weight]

    return make


def lightly(name: str, **options) -> Callable:
    def make(lightly, rows):
        return getattr(lightly, name)(**options), []

    return make


def learning(name: str, *, miner: Callable | None = None, **options) -> Callable:
    """A loss of pytorch-metric-learning, on distances and similarities of rows as they come unless cosine is asked."""

    def make(library, rows):
        made = {
            key: value(library) if callable(value) else value
            for key, value in options.items()
        }
        loss = getattr(library.losses, name)(**made)
        mine = None if miner is None else miner(library)

        def call(ids, embeddings):
            chosen = () if mine is None else (mine(embeddings, ids),)
            return loss(embeddings, ids, *chosen)

        return call, []

    return make


def learning_classes(name: str, variable: str, **options) -> Callable:
    """A loss of pytorch-metric-learning with weights, which are set to those of the rows."""

    def make(library, rows):
        import torch

        loss = getattr(library.losses, name)(
            num_classes=CLASSES, embedding_size=DIM, **options
        )
        weight = getattr(loss, variable)
        given = torch.tensor(rows.weights)
        transposed = tuple(weight.shape) != tuple(given.shape)
        weight.data = given.T.contiguous() if transposed else given
        return (lambda ids, embeddings: loss(embeddings, ids)), [weight]

    return make


def euclidean(library):
    return library.distances.LpDistance(normalize_embeddings=False)


def mean(library):
    return library.reducers.MeanReducer()


def addons(name: str, **options) -> Callable:
    return lambda tfa, rows: (getattr(tfa.losses, name)(**options), [])


def addons_on_products(name: str) -> Callable:
    """A loss of tensorflow-addons that takes the matrix of similarities."""

    def make(tfa, rows):
        import tensorflow as tf

        loss = getattr(tfa.losses, name)()
        # One-hot ids take the place of sparse multi-hot labels.
        labels = tf.constant(rows.ids)
        if name == "NpairsMultilabelLoss":
            labels = tf.one_hot(labels, int(rows.ids.max()) + 1)
        return (
            lambda ids, embeddings: loss(
                labels, tf.matmul(embeddings, embeddings, transpose_b=True)
            )
        ), []

    return make


def ours_on_products(name: str) -> Callable:
    """As tensorflow-addons has it: the batch as candidates, an anchor's own column among them."""

    def make(kc, rows):
        loss = getattr(kc.losses, name)()
        return (
            lambda ids, embeddings: loss(
                ids, embeddings, candidates=embeddings, candidate_ids=ids
            )
        ), []

    return make


def open_clip(name: str, *numbers: float) -> Callable:
    def make(library, rows):
        import torch

        loss, normalize = getattr(library, name)(), torch.nn.functional.normalize

        def call(first, second):
            given = [torch.tensor(number) for number in numbers]
            return loss(normalize(first), normalize(second), *given)

        return call, []

    return make


def sigmoid_by_xla(tf, rows):
    """The plain form of the sigmoid loss, with the whole matrix."""
    pairs = len(rows.first)

    def call(first, second):
        first, second = (tf.math.l2_normalize(side, axis=1) for side in (first, second))
        logits = 10.0 * tf.matmul(first, second, transpose_b=True) - 10.0
        signs = 2.0 * tf.eye(pairs) - 1.0
        return tf.reduce_sum(tf.math.softplus(-signs * logits)) / pairs

    return call, []


def lightly_prediction(lightly, rows):
    """2 - 2 cosine, of the negative cosine; the target is given no gradient by the model."""
    loss = lightly.NegativeCosineSimilarity()
    return (lambda first, second: 2 + 2 * loss(first, second.detach())), []


def lightly_uniformity(lightly, rows):
    from lightly.loss.hypersphere_loss import HypersphereLoss

    return HypersphereLoss(t=2.0), []


def lightly_koleo(lightly, rows):
    loss = lightly.KoLeoLoss()
    return (lambda ids, embeddings: loss(embeddings)), []


def lightly_swav(lightly, rows):
    import torch

    loss, normalize = lightly.SwaVLoss(), torch.nn.functional.normalize
    prototypes = torch.tensor(rows.weights, requires_grad=True)

    def call(first, second):
        unit = normalize(prototypes)
        scores = [normalize(side) @ unit.T for side in (first, second)]
        return loss(scores, [])

    return call, [prototypes]


def lightly_dino(lightly, rows):
    loss = lightly.DINOLoss(output_dim=WIDE, warmup_teacher_temp_epochs=0)

    def call(first, second):
        loss.center.zero_()  # it moves in the call
        return loss([first.detach(), second.detach()], [first, second])

    return call, []


def ours_dino(kc, rows):
    """Both views with the other's target, as the loss layer calls it."""
    loss = kc.losses.DINOLoss(WIDE)
    return (lambda a, b: (loss(a, b) + loss(b, a)) / 2), []


WIDE = 4096


def eighths(pairs: int) -> int:
    """Classes of eight rows."""
    return pairs // 4


def two_views(ours, pairs, **peers) -> Case:
    return Case(ours, pairs, peers)


def labelled(ours, pairs=(512,), **peers) -> Case:
    return Case(ours, pairs, peers, labels=eighths)


def over_pairs(ours, pairs=(1024,), **others) -> Case:
    keywords = {k: others.pop(k) for k in ("dim", "num_weights") if k in others}
    return Case(ours, pairs, others, over_pairs=True, **keywords)


def classified(ours, **peers) -> Case:
    return Case(ours, (512,), peers, labels=lambda pairs: CLASSES, num_weights=CLASSES)


CASES = {
    "nt_xent": two_views(
        plain("NTXentLoss", temperature=0.1),
        (256, 1024, 4096, 16384, 32768),
        lightly=(16384, lightly("NTXentLoss", temperature=0.1)),
        pytorch_metric_learning=(1024, learning("NTXentLoss", temperature=0.1)),
    ),
    "sup_con": Case(
        plain("SupConLoss", temperature=0.1),
        (512, 4096),
        {"pytorch_metric_learning": (512, learning("SupConLoss", temperature=0.1))},
        labels=lambda pairs: 10,
    ),
    "decoupled": two_views(
        plain("DecoupledLoss", temperature=0.1),
        (1024,),
        lightly=(1024, lightly("DCLLoss", temperature=0.1)),
    ),
    "decoupled_weighted": two_views(
        plain("DecoupledLoss", temperature=0.1, weighted=True),
        (1024,),
        lightly=(1024, lightly("DCLWLoss", temperature=0.1, sigma=0.5)),
    ),
    "debiased": two_views(plain("DebiasedLoss"), (1024,)),
    "hard_negative": two_views(plain("HardNegativeLoss"), (1024,)),
    "symmetric_info_nce": over_pairs(
        plain("SymmetricInfoNCELoss", temperature=0.07),
        (1024, 4096),
        open_clip=(4096, open_clip("ClipLoss", 1 / 0.07)),
    ),
    "sigmoid": over_pairs(
        layer("SigmoidLoss", learn=False),
        (1024, 4096),
        tensorflow_xla=(4096, sigmoid_by_xla),
        open_clip=(4096, open_clip("SigLipLoss", 10.0, -10.0)),
    ),
    "contrastive": labelled(plain("ContrastiveLoss", margin=15.0)),
    "triplet": labelled(
        plain("TripletLoss"),
        pytorch_metric_learning=(
            512,
            learning("TripletMarginLoss", margin=0.2, distance=euclidean, reducer=mean),
        ),
    ),
    "triplet_semi_hard": labelled(
        plain("TripletSemiHardLoss"),
        (256, 512),
        tensorflow_addons=(512, addons("TripletSemiHardLoss")),
    ),
    "triplet_hard": labelled(
        plain("TripletHardLoss"),
        tensorflow_addons=(512, addons("TripletHardLoss")),
        pytorch_metric_learning=(
            512,
            learning(
                "TripletMarginLoss",
                margin=1.0,
                distance=euclidean,
                reducer=mean,
                miner=lambda library: library.miners.BatchHardMiner(
                    distance=euclidean(library)
                ),
            ),
        ),
    ),
    "npairs": labelled(
        ours_on_products("NpairsLoss"),
        tensorflow_addons=(512, addons_on_products("NpairsLoss")),
    ),
    "npairs_multilabel": labelled(
        ours_on_products("NpairsMultilabelLoss"),
        tensorflow_addons=(512, addons_on_products("NpairsMultilabelLoss")),
    ),
    "lifted_struct": labelled(
        plain("LiftedStructLoss"),
        tensorflow_addons=(512, addons("LiftedStructLoss")),
        # pytorch-metric-learning's asks for 30 GB at this size.
    ),
    "multi_similarity": labelled(
        plain("MultiSimilarityLoss"),
        pytorch_metric_learning=(512, learning("MultiSimilarityLoss")),
    ),
    "multi_similarity_mined": labelled(
        plain("MultiSimilarityLoss", mining_epsilon=0.1),
        pytorch_metric_learning=(
            512,
            learning(
                "MultiSimilarityLoss",
                miner=lambda library: library.miners.MultiSimilarityMiner(epsilon=0.1),
            ),
        ),
    ),
    "circle": labelled(
        plain("CircleLoss"), pytorch_metric_learning=(512, learning("CircleLoss"))
    ),
    "soft_nearest_neighbor": labelled(
        plain("SoftNearestNeighborLoss", temperature=100.0)
    ),
    "koleo": two_views(plain("KoLeoLoss"), (512,), lightly=(512, lightly_koleo)),
    "arcface": classified(
        layer("ArcFaceLoss", "class_weights", num_classes=CLASSES),
        pytorch_metric_learning=(
            512,
            learning_classes("ArcFaceLoss", "W", margin=float(np.degrees(0.5))),
        ),
    ),
    "cosface": classified(
        layer("CosFaceLoss", "class_weights", num_classes=CLASSES),
        pytorch_metric_learning=(512, learning_classes("CosFaceLoss", "W")),
    ),
    "proxy_anchor": classified(
        layer("ProxyAnchorLoss", "proxies", num_classes=CLASSES),
        pytorch_metric_learning=(512, learning_classes("ProxyAnchorLoss", "proxies")),
    ),
    "proxy_nca": classified(
        layer(
            "ProxyNCALoss",
            "proxies",
            num_classes=CLASSES,
            positive_in_denominator=True,
        ),
        pytorch_metric_learning=(
            512,
            learning_classes("ProxyNCALoss", "proxies", softmax_scale=8),
        ),
    ),
    "barlow_twins": over_pairs(
        plain("BarlowTwinsLoss"), lightly=(1024, lightly("BarlowTwinsLoss"))
    ),
    "barlow_twins_2048": over_pairs(
        plain("BarlowTwinsLoss"),
        lightly=(1024, lightly("BarlowTwinsLoss")),
        dim=2048,
    ),
    "vicreg": over_pairs(plain("VICRegLoss"), lightly=(1024, lightly("VICRegLoss"))),
    "vicreg_2048": over_pairs(
        plain("VICRegLoss"), lightly=(1024, lightly("VICRegLoss")), dim=2048
    ),
    "cosine_prediction": over_pairs(
        plain("CosinePredictionLoss"), lightly=(1024, lightly_prediction)
    ),
    "swav": over_pairs(
        layer("SwAVLoss", "prototypes", num_prototypes=PROTOTYPES),
        lightly=(1024, lightly_swav),
        num_weights=PROTOTYPES,
    ),
    "dino": over_pairs(ours_dino, lightly=(1024, lightly_dino), dim=WIDE),
    "alignment_uniformity": over_pairs(
        plain("AlignmentUniformityLoss"), lightly=(1024, lightly_uniformity)
    ),
}
