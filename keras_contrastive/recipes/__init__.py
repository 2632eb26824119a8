"""Methods, each a short function that puts parts together and returns a compiled `ContrastiveModel`.

    model = recipes.byol(encoder, steps=100 * len(dataset), batch_size=256)
    model.fit(dataset, epochs=100, shuffle=False)

The defaults are the papers', the optimizer and its decay included. (`simclr` and `siamese` have Adam instead, which
does better in small batches; so have `triplet` and `siglip_views`, whose papers train something else.) What all take:

| argument | |
|---|---|
| `optimizer` | `"adam"`, `"adamw"`, `"sgd"` (momentum 0.9), `"lars"`, `"larc"` (LARS that never exceeds the rate, trust coefficient 0.02); or an optimizer that is ready, of Keras (Lamb, Muon, ...) or any other |
| `learning_rate` | None: the paper's, scaled linearly by `batch_size` / 256; of Adam 0.001, of the others 0.05 for `"sgd"`, 0.3 for `"lars"` where the paper has another optimizer. A number is taken as it is |
| `weight_decay` | added to the gradient by `"sgd"`, `"lars"` and `"larc"`, apart from it by `"adam"` and `"adamw"`; biases and normalisations do not decay, but with `"sgd"`, as in the papers |
| `batch_size` | of the dataset, for the learning rate alone |
| `steps` | how many training steps there will be: the learning rate rises over the first part (`warmup`) and falls to zero along a cosine; momenta and temperatures have their schedules. None: all stay |
| `augment`, `augment_on` | the views' recipe (None: the paper's, at the encoder's image size), drawn `"step"` (in the training step; `"auto"` is the same) or `"pipeline"`: the model is built without it, and it belongs into the dataset, `augment.map_dataset(dataset, recipe)` |
| `seed` | of the draws |

All views of a batch pass through the networks at once: batch normalisation sees both views together, where some papers'
code passes one after the other.

A method of your own is such a function and a row in `RECIPES`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from keras_contrastive import data
from keras_contrastive._checks import check_choice
from keras_contrastive.model import ContrastiveModel
from keras_contrastive.recipes._assemble import OPTIMIZERS
from keras_contrastive.recipes.metric import siamese, triplet
from keras_contrastive.recipes.minutes import fast
from keras_contrastive.recipes.positives import (
    barlow_twins,
    byol,
    dino,
    simsiam,
    swav,
    vicreg,
)
from keras_contrastive.recipes.softmax import (
    dcl,
    moco,
    nnclr,
    siglip_views,
    simclr,
    supcon,
)

__all__ = [
    "OPTIMIZERS",
    "RECIPES",
    "RecipeEntry",
    "barlow_twins",
    "byol",
    "dcl",
    "dino",
    "fast",
    "get",
    "moco",
    "nnclr",
    "siamese",
    "siglip_views",
    "simclr",
    "simsiam",
    "supcon",
    "swav",
    "triplet",
    "vicreg",
]


class RecipeEntry(NamedTuple):
    """A method with what a script needs beside it."""

    make: Callable[..., ContrastiveModel]
    """The recipe: `make(encoder, **options)`."""
    options: dict
    """The method's own options, with values for small machines: minutes, an encoder of a hundred features."""
    cifar10: dict | None = None
    """Published settings for ResNet-18 on CIFAR-10, 1,000 epochs of batches of 256, or None."""
    dataset: Callable = data.batches
    """The dataset that it is fitted on: `dataset(part, batch_size, seed=, epoch=, step=)`."""
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 1e-3
    """Of Adam, on small machines."""
    encoder: str = "small_resnet"
    """The encoder of small machines."""
    augment: str = "auto"
    """The views of small machines, by name; auto: by the images' kind and size."""


def _cifar10(optimizer, learning_rate, weight_decay, augment="byol", **options) -> dict:
    """As solo-learn has it (da Costa et al., 2022): warmed up over 10 of 1,000 epochs."""
    return {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "warmup": 0.01,
        "augment": augment,
        **options,
    }


_WIDE = {"hidden_dim": 2048, "projection_dim": 256}

RECIPES: dict[str, RecipeEntry] = {
    "simclr": RecipeEntry(
        simclr,
        {"temperature": 0.2, "projection_layers": 2},
        _cifar10("larc", 0.4, 1e-4, "simclr", temperature=0.2, **_WIDE),
    ),
    "fast": RecipeEntry(
        fast,
        {"temperature": 0.2},
        learning_rate=3e-3,
        encoder="fast_conv_net",
        augment="fast",
        batch_size=256,
    ),
    "supcon": RecipeEntry(
        supcon,
        {"temperature": 0.1, "batch_norm": True},
        _cifar10("sgd", 0.4, 1e-5, "simclr", temperature=0.2, **_WIDE),
        functools.partial(data.batches, by="label"),
    ),
    "dcl": RecipeEntry(dcl, {"temperature": 0.2}),
    "siglip_views": RecipeEntry(siglip_views, {"projection_dim": 128}),
    "moco": RecipeEntry(
        moco,
        {"temperature": 0.2, "momentum": 0.99, "queue_size": 4096},
        _cifar10(
            "sgd",
            0.3,
            1e-4,
            "moco_v2",
            temperature=0.2,
            momentum=0.99,
            final_momentum=0.999,
            queue_size=32768,
            **_WIDE,
        ),
    ),
    "moco_v3": RecipeEntry(
        functools.partial(moco, version=3),
        {"temperature": 0.2, "momentum": 0.99, "hidden_dim": 512},
        _cifar10(
            "larc",
            0.3,
            1e-6,
            temperature=0.2,
            momentum=0.99,
            hidden_dim=4096,
            projection_dim=256,
        ),
    ),
    "nnclr": RecipeEntry(
        nnclr,
        {
            "temperature": 0.2,
            "queue_size": 4096,
            "hidden_dim": 512,
            "predictor_dim": 512,
        },
        _cifar10(
            "larc",
            0.4,
            1e-5,
            temperature=0.2,
            queue_size=65536,
            predictor_dim=4096,
            **_WIDE,
        ),
    ),
    "byol": RecipeEntry(
        byol,
        {"momentum": 0.99, "hidden_dim": 512},
        _cifar10("larc", 1.0, 1e-5, momentum=0.99, hidden_dim=4096, projection_dim=256),
    ),
    "simsiam": RecipeEntry(
        simsiam,
        {"projection_dim": 512, "projection_layers": 2, "predictor_dim": 128},
        _cifar10("sgd", 0.5, 1e-5, "moco_v2", projection_dim=2048, predictor_dim=512),
    ),
    "barlow_twins": RecipeEntry(
        barlow_twins,
        {"projection_dim": 512, "redundancy_weight": 0.005},
        _cifar10("larc", 0.3, 1e-4, projection_dim=2048, weight=0.1),
    ),
    "vicreg": RecipeEntry(
        vicreg,
        {"projection_dim": 512},
        _cifar10("larc", 0.3, 1e-4, projection_dim=2048),
    ),
    "swav": RecipeEntry(
        swav,
        {"num_prototypes": 256, "queue_size": 0, "hidden_dim": 512},
        _cifar10(
            "larc",
            0.6,
            1e-6,
            "simclr",
            num_prototypes=3000,
            queue_size=3840,
            hidden_dim=2048,
            projection_dim=128,
        ),
    ),
    "dino": RecipeEntry(
        dino,
        {
            "momentum": 0.99,
            "output_dim": 1024,
            "hidden_dim": 512,
            "bottleneck_dim": 128,
            "batch_norm": True,
        },
        _cifar10(
            "larc",
            0.3,
            1e-6,
            momentum=0.9995,
            output_dim=4096,
            hidden_dim=2048,
            bottleneck_dim=256,
            teacher_temperature=0.07,
            warmup_steps=0,
            clipnorm=None,
        ),
    ),
    "siamese": RecipeEntry(siamese, {"margin": 1.0}, dataset=data.triplets),
    "triplet": RecipeEntry(triplet, {"margin": 0.2}),
}


def get(name: str) -> RecipeEntry:
    """The method of this name.

    Raises:
        ValueError: No method has this name; the message lists them.
    """
    check_choice("method", name, RECIPES)
    return RECIPES[name]
