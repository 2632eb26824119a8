"""Recipes whose loss is a softmax (or sigmoid) over images: what is alike attracts, all else repels."""

from __future__ import annotations

import keras

from keras_contrastive import augment as augmentation
from keras_contrastive import heads, losses, negatives, targets
from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive.layers import ContrastiveLossLayer
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.recipes._assemble import compiled, recipe_in_step


def simclr(
    encoder: keras.Model,
    *,
    temperature: float = 0.5,
    projection_dim: int = 128,
    projection_layers: int = 2,
    hidden_dim: int | None = None,
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
    """SimCLR: two views of an image attract each other, all other views of the batch repel.

    Here with Adam at 0.001, which does better with the small batches of one machine. The paper's: `optimizer="lars"`,
    at 0.3 for a batch of 256, `weight_decay=1e-6`; on ImageNet a temperature of 0.1, on CIFAR-10 of 0.5.

    Args:
        encoder: Functional `keras.Model` from float images in 0..1 to features.
        temperature: Float > 0 of the NT-Xent loss; smaller weighs hard negatives more.
        projection_dim: Width of the projections.
        projection_layers: Dense layers of the head: 1 is a linear head, 2 the paper's, 3 that of SimCLR v2.
        hidden_dim: Width of the head's hidden layers; None: as wide as the features.
        optimizer: This and the arguments after it are the same in all recipes: see `recipes`.
        learning_rate: Float > 0, or None.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: `augment.Recipe`; None: `augment.simclr` at the encoder's image size.
        augment_on: `"auto"`, `"step"` or `"pipeline"`.
        steps: How many training steps there will be, or None.
        seed: Integer, for the draws.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations.
        Chen et al., 2020, Big Self-Supervised Models are Strong Semi-Supervised Learners (v2), Sec. 3.
    """
    model = ContrastiveModel(
        encoder,
        losses.NTXentLoss(temperature),
        head=heads.mlp(
            projection_dim,
            hidden_dim=hidden_dim or encoder.output_shape[-1],
            num_layers=projection_layers,
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


def supcon(
    encoder: keras.Model,
    *,
    temperature: float = 0.1,
    position: str = "out",
    projection_dim: int = 128,
    hidden_dim: int | None = None,
    batch_norm: bool = False,
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
    """Supervised contrastive learning: all views of all images of a class attract each other.

    Images of unknown class (-1) attract their own views alone: `data.partly_labelled` gives batches in which some are
    labelled and most are not.

    Args:
        encoder: As in `simclr`.
        temperature: Float > 0.
        position: `"out"` or `"in"`: where the mean over positives stands.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's hidden layer; None: as wide as the features.
        batch_norm: Normalise the hidden layer. The paper does not; in short runs it helps.
        optimizer: SGD with momentum, at 0.125 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(..., by="label")` or `data.class_balanced`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Khosla et al., 2020, Supervised Contrastive Learning, Eq. 2 and 3; the rate is that of its code for CIFAR-10.
    """
    model = ContrastiveModel(
        encoder,
        losses.SupConLoss(temperature, position=position),
        head=heads.mlp(
            projection_dim,
            hidden_dim=hidden_dim or encoder.output_shape[-1],
            batch_norm=batch_norm,
        ),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="sgd",
        paper_rate=0.125,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def dcl(
    encoder: keras.Model,
    *,
    temperature: float = 0.1,
    weighted: bool = False,
    projection_dim: int = 128,
    hidden_dim: int | None = None,
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
    """Decoupled contrastive learning: SimCLR with the positive out of the softmax's denominator, for small batches.

    Args:
        encoder: As in `simclr`.
        temperature: Float > 0.
        weighted: DCLW: positives that are far from each other weigh more.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's hidden layer; None: as wide as the features.
        optimizer: SGD with momentum, at 0.03 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Yeh et al., 2022, Decoupled Contrastive Learning, Eq. 6 and 7.
    """
    model = ContrastiveModel(
        encoder,
        losses.DecoupledLoss(temperature, weighted=weighted),
        head=heads.mlp(
            projection_dim, hidden_dim=hidden_dim or encoder.output_shape[-1]
        ),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="sgd",
        paper_rate=0.03,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def siglip_views(
    encoder: keras.Model,
    *,
    scale: float = 10.0,
    bias: float = -10.0,
    projection_dim: int = 128,
    hidden_dim: int | None = None,
    optimizer="adam",
    learning_rate: float | None = None,
    weight_decay: float = 1e-4,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """SigLIP's loss on two views: for every pair of images the question whether they are one, no softmax.

    The paper compares images with texts. What is taken from it is the loss, its start and the optimizer's kind.

    Args:
        encoder: As in `simclr`.
        scale: Float > 0, learned from here on.
        bias: Float, learned from here on.
        projection_dim: Width of the projections.
        hidden_dim: Width of the head's hidden layer; None: as wide as the features.
        optimizer: Adam, with decoupled decay, at 0.001 if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Zhai et al., 2023, Sigmoid Loss for Language Image Pre-Training, Algorithm 1.
    """
    model = ContrastiveModel(
        encoder,
        losses.SigmoidLoss(scale, bias),
        head=heads.mlp(
            projection_dim, hidden_dim=hidden_dim or encoder.output_shape[-1]
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


def moco(
    encoder: keras.Model,
    *,
    version: int = 2,
    temperature: float | None = None,
    momentum: float | None = None,
    final_momentum: float | None = None,
    queue_size: int = 65536,
    projection_dim: int | None = None,
    hidden_dim: int | None = None,
    optimizer=None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    batch_size: int = 256,
    warmup: float = 0.05,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """Momentum contrast: embeddings are compared with those of a slowly moving copy of the encoder.

    Version 2: the negatives are a queue of past embeddings of the copy. Both directions are taken, each view once as
    the query; the paper takes one. Version 3: no queue, a predictor, and the batch's other images as negatives.

    Args:
        encoder: As in `simclr`.
        version: 2 or 3.
        temperature: Float > 0; None: 0.2, in version 3 1.0.
        momentum: Float in [0, 1] of the copy; None: 0.999, in version 3 0.996.
        final_momentum: What it rises to over `steps`, along a cosine; None: it stays, in version 3 1.
        queue_size: Integer >= 1, embeddings in the queue of version 2.
        projection_dim: Width of the projections; None: 128, in version 3 256.
        hidden_dim: Width of hidden layers; None: that of the features, in version 3 4096.
        optimizer: None: SGD with momentum, at 0.03 for a batch of 256; in version 3 LARS, at 0.3.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0; None: 1e-4, in version 3 1.5e-6.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.moco_v2`, in version 3 `augment.byol`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        He et al., 2020, Momentum Contrast for Unsupervised Visual Representation Learning, Algorithm 1.
        Chen, Fan, et al., 2020, Improved Baselines with Momentum Contrastive Learning (v2).
        Chen, Xie, He, 2021, An Empirical Study of Training Self-Supervised Vision Transformers (v3), Algorithm 1;
        the defaults are its ResNet-50's.
    """
    check_choice("version", version, (2, 3))
    check_integer(1, queue_size=queue_size)
    parts = _moco_v2 if version == 2 else _moco_v3
    loss, options, paper = parts(
        encoder, temperature, queue_size, projection_dim, hidden_dim
    )
    first, last = (0.999, None) if version == 2 else (0.996, 1.0)
    first = first if momentum is None else momentum
    last = last if final_momentum is None else final_momentum
    rising = {} if last is None else {"steps": steps, "final_momentum": last}
    views = augmentation.moco_v2 if version == 2 else augmentation.byol
    model = ContrastiveModel(
        encoder,
        loss,
        target=targets.MomentumTarget(first, **rising),
        augment=recipe_in_step(augment, augment_on, encoder, views),
        seed=seed,
        **options,
    )
    name, rate, decay = paper
    return compiled(
        model,
        optimizer or name,
        learning_rate,
        paper=name,
        paper_rate=rate,
        weight_decay=decay if weight_decay is None else weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )


def _moco_v2(encoder, temperature, queue_size, projection_dim, hidden_dim):
    loss = ContrastiveLossLayer(
        losses.InfoNCELoss(0.2 if temperature is None else temperature),
        negatives=negatives.EmbeddingQueue(queue_size, in_batch=False),
    )
    head = heads.mlp(
        projection_dim or 128,
        hidden_dim=hidden_dim or encoder.output_shape[-1],
        batch_norm=False,
    )
    return loss, {"head": head}, ("sgd", 0.03, 1e-4)


def _moco_v3(encoder, temperature, queue_size, projection_dim, hidden_dim):
    temperature = 1.0 if temperature is None else temperature
    hidden_dim, projection_dim = hidden_dim or 4096, projection_dim or 256
    options = {
        "head": heads.mlp(
            projection_dim, hidden_dim=hidden_dim, output_batch_norm=True
        ),
        "predictor": heads.mlp(projection_dim, hidden_dim=hidden_dim, name="predictor"),
    }
    # The paper's: the sum over both directions of 2 t times the loss; the layer takes the mean.
    loss = ContrastiveLossLayer(losses.InfoNCELoss(temperature), weight=4 * temperature)
    return loss, options, ("lars", 0.3, 1.5e-6)


def nnclr(
    encoder: keras.Model,
    *,
    temperature: float = 0.1,
    queue_size: int = 98304,
    projection_dim: int = 256,
    hidden_dim: int = 2048,
    predictor_dim: int = 4096,
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
    """NNCLR: the positive of a view is the nearest past embedding to the other view, most likely another image.

    Args:
        encoder: As in `simclr`.
        temperature: Float > 0.
        queue_size: Integer >= 1, past embeddings among which the nearest is looked for.
        projection_dim: Width of projections and predictions.
        hidden_dim: Width of the head's two hidden layers; the head is normalised behind every layer, the last too.
        predictor_dim: Width of the predictor's hidden layer.
        optimizer: LARS, at 0.3 for a batch of 256, if `learning_rate` is None.
        learning_rate: As in `simclr`, and so are all after it.
        weight_decay: Float >= 0.
        batch_size: Images in a batch.
        warmup: Share of `steps` in which the learning rate rises.
        augment: None: `augment.simclr`.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Dwibedi et al., 2021, With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
        Representations, Eq. 2 and 3, symmetrised.
    """
    check_integer(1, queue_size=queue_size)
    model = ContrastiveModel(
        encoder,
        ContrastiveLossLayer(losses.InfoNCELoss(temperature), anchor="targets"),
        head=heads.mlp(
            projection_dim, hidden_dim=hidden_dim, num_layers=3, output_batch_norm=True
        ),
        predictor=heads.mlp(projection_dim, hidden_dim=predictor_dim, name="predictor"),
        target=targets.NearestNeighborTarget(queue_size),
        augment=recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return compiled(
        model,
        optimizer,
        learning_rate,
        paper="lars",
        paper_rate=0.3,
        weight_decay=weight_decay,
        batch_size=batch_size,
        warmup=warmup,
        steps=steps,
    )
