"""Recipes without negatives: each prevents the collapse, all images in one point, by a means of its own."""

from __future__ import annotations

import keras

from keras_contrastive import augment as augmentation
from keras_contrastive import heads, losses, targets
from keras_contrastive.layers import ContrastiveLossLayer
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.recipes._assemble import compiled, recipe_in_step, share_of


def byol(
    encoder: keras.Model,
    *,
    momentum: float = 0.996,
    projection_dim: int = 256,
    hidden_dim: int = 4096,
    optimizer="lars",
    learning_rate: float | None = None,
    weight_decay: float = 1.5e-6,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """BYOL: from one view the embedding of the other is predicted, as a slowly moving copy of the encoder gives it.

    Against the collapse: the predictor, and the copy, which gets no gradient.

    Args:
        encoder: As in `simclr`.
        momentum: Float in [0, 1] of the copy; it rises to 1 along a cosine over `steps`, without them it stays.
        projection_dim: Width of projections and predictions.
        hidden_dim: Width of the hidden layers of head and predictor, which are normalised.
        optimizer: LARS, at 0.2 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.byol`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Grill et al., 2020, Bootstrap Your Own Latent, Eq. 2 and Sec. 3.
    """
    model = ContrastiveModel(
        encoder,
        # The paper sums over both directions; the layer takes the mean.
        ContrastiveLossLayer(losses.CosinePredictionLoss(), weight=2.0),
        head=heads.mlp(projection_dim, hidden_dim=hidden_dim),
        predictor=heads.mlp(projection_dim, hidden_dim=hidden_dim, name="predictor"),
        target=targets.MomentumTarget(momentum, steps=steps),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.byol),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="lars",
        paper_rate=0.2,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def simsiam(
    encoder: keras.Model,
    *,
    projection_dim: int = 2048,
    projection_layers: int = 3,
    predictor_dim: int = 512,
    optimizer="sgd",
    learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """SimSiam: BYOL without the copy; from one view the embedding of the other is predicted, which gets no gradient.

    Against the collapse: the predictor and the stopped gradient. The predictor's learning rate falls with the others';
    the paper finds it slightly better constant.

    Args:
        encoder: As in `simclr`.
        projection_dim: Width of the projections and of the head's hidden layers; normalised behind every layer.
        projection_layers: Dense layers of the head; the paper has 3, on CIFAR-10 2.
        predictor_dim: Width of the predictor's hidden layer, its bottleneck; normalised, the output is not.
        optimizer: SGD with momentum, at 0.05 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.moco_v2`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Chen and He, 2021, Exploring Simple Siamese Representation Learning, Algorithm 1 and Sec. 3.
    """
    model = ContrastiveModel(
        encoder,
        # The paper's -cos is half of 2 - 2 cos, but for a constant.
        ContrastiveLossLayer(losses.CosinePredictionLoss(), weight=0.5),
        head=heads.mlp(
            projection_dim,
            hidden_dim=projection_dim,
            num_layers=projection_layers,
            output_batch_norm=True,
        ),
        predictor=heads.mlp(projection_dim, hidden_dim=predictor_dim, name="predictor"),
        target=targets.StopGradientTarget(),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.moco_v2),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="sgd",
        paper_rate=0.05,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def barlow_twins(
    encoder: keras.Model,
    *,
    redundancy_weight: float = 0.005,
    projection_dim: int = 8192,
    hidden_dim: int | None = None,
    weight: float = 1.0,
    optimizer="lars",
    learning_rate: float | None = None,
    weight_decay: float = 1.5e-6,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """Barlow Twins: the same dimensions of two views are to be correlated, different ones not.

    Against the collapse: a dimension that is the same for all images correlates with nothing. The paper has a smaller
    learning rate for biases and batch normalisation (0.0048); here they share that of the rest.

    Args:
        encoder: As in `simclr`.
        redundancy_weight: Float >= 0, of the correlations of different dimensions.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's two hidden layers; None: as wide as the projections.
        weight: Float > 0 that the loss is multiplied by.
        optimizer: LARS, at 0.2 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.byol`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Zbontar et al., 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction, Eq. 1.
    """
    model = ContrastiveModel(
        encoder,
        ContrastiveLossLayer(losses.BarlowTwinsLoss(redundancy_weight), weight=weight),
        head=heads.mlp(
            projection_dim, hidden_dim=hidden_dim or projection_dim, num_layers=3
        ),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.byol),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="lars",
        paper_rate=0.2,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def vicreg(
    encoder: keras.Model,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    projection_dim: int = 8192,
    hidden_dim: int | None = None,
    optimizer="lars",
    learning_rate: float | None = None,
    weight_decay: float = 1e-6,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """VICReg: two views meet, each dimension keeps its variance, and dimensions are not correlated.

    Against the collapse: the variance.

    Args:
        encoder: As in `simclr`.
        invariance_weight: Float >= 0.
        variance_weight: Float >= 0.
        covariance_weight: Float >= 0.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's two hidden layers; None: as wide as the projections.
        optimizer: LARS, at 0.2 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.byol`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Bardes, Ponce, LeCun, 2022, VICReg: Variance-Invariance-Covariance Regularization, Eq. 6.
    """
    model = ContrastiveModel(
        encoder,
        losses.VICRegLoss(
            invariance_weight=invariance_weight,
            variance_weight=variance_weight,
            covariance_weight=covariance_weight,
        ),
        head=heads.mlp(
            projection_dim, hidden_dim=hidden_dim or projection_dim, num_layers=3
        ),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.byol),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="lars",
        paper_rate=0.2,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def swav(
    encoder: keras.Model,
    *,
    num_prototypes: int = 3000,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    queue_size: int = 3840,
    queue_start: int | None = None,
    freeze_steps: int | None = None,
    projection_dim: int = 128,
    hidden_dim: int = 2048,
    optimizer="lars",
    learning_rate: float | None = None,
    weight_decay: float = 1e-6,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """SwAV: the cluster of a large view is told from every other view; clusters get equal shares of each batch.

    Against the collapse: the equal shares. Small crops have no clusters of their own.

    Args:
        encoder: As in `simclr`; of any size (`(None, None, 3)`) for views of several sizes.
        num_prototypes: Integer >= 1, the clusters.
        temperature: Float > 0.
        epsilon: Float > 0. Smaller: sharper assignments.
        queue_size: Integer >= 0: past projections that share in the assignment, for batches that are small beside the
            number of clusters. One queue holds those of both large views; the paper's code has one for each.
        queue_start: Training step from which on they do; None: after 15 of 200 parts of `steps`.
        freeze_steps: The clusters stay in so many first steps; None: in the first hundredth of `steps`.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's hidden layer, which is normalised.
        optimizer: LARS, at 0.6 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: two views, by `augment.simclr`. The paper's: `augment.multi_crop(224, 96, 6)`, for an encoder of
            any size.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Caron et al., 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, Sec. 3.
    """
    loss = losses.SwAVLoss(
        num_prototypes,
        temperature,
        epsilon,
        both_ways=False,
        queue_size=queue_size,
        queue_start=share_of(steps, 0.075) if queue_start is None else queue_start,
        freeze_steps=share_of(steps, 0.01) if freeze_steps is None else freeze_steps,
    )
    model = ContrastiveModel(
        encoder,
        loss,
        head=heads.mlp(projection_dim, hidden_dim=hidden_dim),
        target=targets.StopGradientTarget(),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="lars",
        paper_rate=0.6,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def dino(
    encoder: keras.Model,
    *,
    momentum: float = 0.996,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.07,
    warmup_temperature: float = 0.04,
    warmup_steps: int | None = None,
    center_momentum: float = 0.9,
    freeze_steps: int | None = None,
    output_dim: int = 65536,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    batch_norm: bool = False,
    clipnorm: float | None = 3.0,
    optimizer="adamw",
    learning_rate: float | None = None,
    weight_decay: float = 0.04,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """DINO: the student's softmax over prototypes follows that of a slowly moving teacher, over other views.

    Against the collapse: the teacher's outputs are centred (no prototype wins) and sharpened (not all are alike). Small
    crops go through the student alone. The paper raises the weight
    decay to 0.4 in the end; here it stays.

    Args:
        encoder: As in `simclr`; of any size (`(None, None, 3)`) for views of several sizes.
        momentum: Float in [0, 1] of the teacher; it rises to 1 along a cosine over `steps`, without them it stays.
        student_temperature: Float > 0.
        teacher_temperature: Float > 0, after the warm-up.
        warmup_temperature: Float > 0, of the teacher at the beginning.
        warmup_steps: Integer >= 0; None: three tenths of `steps`, the paper's 30 epochs of 100.
        center_momentum: Float in [0, 1].
        freeze_steps: The prototypes stay in so many first steps; None: in the first hundredth of `steps`.
        output_dim: Prototypes.
        hidden_dim: Width of the head's two hidden layers.
        bottleneck_dim: Width of what the prototypes are compared with.
        batch_norm: Normalise the head's hidden layers: as the paper does for convolutional encoders.
        clipnorm: Float > 0, the largest norm of each variable's gradient, or None.
        optimizer: AdamW, at 0.0005 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0; biases and normalisations do not decay.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: two views, by `augment.byol`. The paper's: `augment.multi_crop(224, 96, 8, style="dino")`, for an
            encoder of any size.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Caron et al., 2021, Emerging Properties in Self-Supervised Vision Transformers, Algorithm 1 and Sec. 3.
    """
    loss = losses.DINOLoss(
        output_dim,
        student_temperature,
        teacher_temperature,
        center_momentum,
        warmup_temperature=warmup_temperature,
        warmup_steps=share_of(steps, 0.3) if warmup_steps is None else warmup_steps,
    )
    model = ContrastiveModel(
        encoder,
        loss,
        head=heads.dino(
            output_dim,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
            batch_norm=batch_norm,
            freeze_steps=share_of(steps, 0.01)
            if freeze_steps is None
            else freeze_steps,
        ),
        target=targets.MomentumTarget(momentum, steps=steps),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.byol),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="adamw",
        paper_rate=5e-4,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
        clipnorm=clipnorm,
    )
