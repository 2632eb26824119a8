"""Recipes of metric learning: distances and margins."""

from __future__ import annotations

import keras

from keras_contrastive import augment as augmentation
from keras_contrastive import heads, losses
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.recipes._assemble import compiled, recipe_in_step


def siamese(
    encoder: keras.Model,
    margin: float = 1.0,
    *,
    distance: str = "euclidean",
    optimizer="adam",
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """The margin loss on triplets: the features of anchor and positive meet, those of the negative part.

    Args:
        encoder: As in `simclr`; its features are compared directly.
        margin: Float > 0, in units of the distance between features.
        distance: A distance of `losses.contrastive_loss`.
        optimizer: Adam, at 0.001 if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Triplets in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`. By instance, anchor and positive are the same image, told apart by it alone.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.triplets(...)`, for 100 epochs by the example.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Hadsell, Chopra, LeCun, 2006, Dimensionality Reduction by Learning an Invariant Mapping, Eq. 4.
    """
    model = ContrastiveModel(
        encoder,
        losses.ContrastiveLoss(margin, distance=distance),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def triplet(
    encoder: keras.Model,
    margin: float = 0.2,
    *,
    mining: str = "semi_hard",
    projection_dim: int = 128,
    optimizer="adam",
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """FaceNet's triplets: of the unit sphere, by squared distance, with negatives chosen among the batch.

    The head is linear. The paper has labels (`data.class_balanced`, or `data.batches(..., by="label")`); by instance an
    image's views are the positives. Adam is in place of its AdaGrad.

    Args:
        encoder: As in `simclr`.
        margin: Float > 0, in squared distances, which are at most 4.
        mining: `"semi_hard"`, `"hard"` or `"all"`, of `losses.TripletLoss`.
        projection_dim: Width of the projections.
        optimizer: Adam, at 0.001 if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)` or `data.class_balanced(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Schroff, Kalenichenko, Philbin, 2015, FaceNet: A Unified Embedding for Face Recognition and Clustering, Eq. 2
        and Sec. 3.2.
    """
    model = ContrastiveModel(
        encoder,
        losses.TripletLoss(margin, distance="squared_euclidean", mining=mining),
        head=keras.Sequential(
            [
                *heads.mlp(projection_dim, num_layers=1).layers,
                keras.layers.UnitNormalization(),
            ],
            name="projection_head",
        ),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )
