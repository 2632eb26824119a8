"""Methods, each a short function that puts parts together and returns a compiled `ContrastiveModel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_contrastive import augment as augmentation
from keras_contrastive import data, heads, losses
from keras_contrastive._checks import check_choice, check_positive
from keras_contrastive.model import ContrastiveModel


def simclr(
    encoder: keras.Model,
    *,
    temperature: float = 0.5,
    learning_rate: float = 1e-3,
    projection_dim: int = 128,
    projection_layers: int = 2,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """SimCLR: two views of an image attract each other, all other views of the batch repel.

    Args:
        encoder: Functional `keras.Model` from float images in 0..1 to features.
        temperature: Float > 0 of the NT-Xent loss; smaller weighs hard negatives more.
        learning_rate: Float > 0 of Adam; the largest of the schedule where `steps` is given.
        projection_dim: Width of the projections.
        projection_layers: Dense layers of the head: 1 is a linear head, 2 the paper's.
        augment: `augment.Recipe`; None: `augment.simclr` at the encoder's image size.
        augment_on: `"step"` (in the training step; `"auto"` is the same) or `"pipeline"`: the model is built
            without the recipe, which belongs into the dataset: `augment.map_dataset(dataset, recipe)`.
        steps: How many training steps there will be: the learning rate warms up over the first twentieth and
            falls to zero along a cosine. None: it stays.
        seed: Integer, for the draws.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.batches(...)`.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations. The paper
        trains by LARS with large batches; Adam does better with the small ones of one machine.
    """
    check_positive(learning_rate=learning_rate)
    model = ContrastiveModel(
        encoder,
        losses.NTXentLoss(temperature),
        head=heads.mlp(
            projection_dim,
            hidden_dim=encoder.output_shape[-1],
            num_layers=projection_layers,
        ),
        augment=_recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return _compiled(model, learning_rate, steps)


def siamese(
    encoder: keras.Model,
    margin: float = 1.0,
    *,
    distance: str = "euclidean",
    learning_rate: float = 1e-3,
    augment=None,
    augment_on: str = "auto",
    steps: int | None = None,
    seed: int = 0,
) -> ContrastiveModel:
    """The margin loss on triplets: the features of anchor and positive meet, those of the negative part.

    Args:
        encoder: Functional `keras.Model` from float images in 0..1 to features, which are compared directly.
        margin: Float > 0, in units of the distance between features.
        distance: A distance of `losses.contrastive_loss`.
        learning_rate: Float > 0 of Adam.
        augment: `augment.Recipe`; None: `augment.simclr` at the encoder's image size. By instance, anchor and
            positive are the same image, told apart by it alone.
        augment_on: As in `simclr`.
        steps: As in `simclr`.
        seed: Integer, for the draws.

    Returns:
        A compiled `ContrastiveModel`, to be fitted on `data.triplets(...)`, for 100 epochs by the example.

    Raises:
        ValueError: An option is out of its range.

    Reference:
        Hadsell, Chopra, LeCun, 2006, Dimensionality Reduction by Learning an Invariant Mapping, Eq. 4.
    """
    check_positive(learning_rate=learning_rate)
    model = ContrastiveModel(
        encoder,
        losses.ContrastiveLoss(margin, distance=distance),
        augment=_recipe_in_step(augment, augment_on, encoder, augmentation.simclr),
        seed=seed,
    )
    return _compiled(model, learning_rate, steps)


class RecipeEntry(NamedTuple):
    """A method with what a script needs beside it."""

    make: Callable[..., ContrastiveModel]
    """The recipe: `make(encoder, **options)`."""
    dataset: Callable
    """The dataset that it is fitted on: `dataset(part, batch_size, seed=, epoch=, step=)`."""
    epochs: int
    batch_size: int
    options: tuple[str, ...]
    """Names of the method's own options."""


RECIPES: dict[str, RecipeEntry] = {
    "simclr": RecipeEntry(
        simclr, data.batches, 100, 128, ("temperature", "projection_layers")
    ),
    "siamese": RecipeEntry(siamese, data.triplets, 100, 128, ("margin",)),
}


def get(name: str) -> RecipeEntry:
    """The method of this name.

    Raises:
        ValueError: No method has this name; the message lists them.
    """
    check_choice("method", name, RECIPES)
    return RECIPES[name]


def _recipe_in_step(augment, augment_on: str, encoder, default):
    """The recipe that the model is built with: none where it is drawn in the pipeline."""
    check_choice("augment_on", augment_on, ("auto", "step", "pipeline"))
    if augment_on == "pipeline":
        return None
    if augment is not None:
        return augment
    _, height, width, _ = encoder.input_shape
    if height is None or height != width:
        raise ValueError(
            "`augment` must be given for an encoder of images that are not square of a known size. "
            f"Received: encoder.input_shape={encoder.input_shape}."
        )
    return default(height)


def _compiled(
    model: ContrastiveModel, learning_rate: float, steps: int | None
) -> ContrastiveModel:
    rate = learning_rate
    if steps is not None:
        warmup = max(1, steps // 20)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,  # a float: an integer breaks the warm-up
            decay_steps=max(1, steps - warmup),
            warmup_target=learning_rate,
            warmup_steps=warmup,
        )
    # XLA pays on a GPU; on a CPU it makes convolutions slower. The augmentation is compiled in any case.
    model.compile(optimizer=keras.optimizers.Adam(rate), jit_compile=False)
    return model
