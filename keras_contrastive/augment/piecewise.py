"""A recipe that changes as training goes on."""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from keras_contrastive.augment.recipe import Recipe, Recipes


@keras.saving.register_keras_serializable("keras_contrastive")
class PiecewiseRecipe(Recipes):
    """A recipe for each part of the training, as `PiecewiseConstantDecay` is a learning rate for each.

    It is for views that get larger or stronger as training goes on. Validation has the last recipe.

    Args:
        boundaries: Ascending list of steps >= 1: where the next recipe takes over.
        recipes: List of `Recipe`s, one more than `boundaries`, all of the same number of views. Where their views
            differ in size, the encoder must be one of any size, and the training step cannot be compiled by XLA.

    Raises:
        ValueError: `boundaries` do not ascend; the numbers do not fit; an element is not a `Recipe` or makes views of
            several sizes.

    Example:
        >>> recipe = PiecewiseRecipe([1000], [simclr_small(16), simclr_small(24)])
        >>> views(images, None, recipe, seed=0, step=1000).shape
        TensorShape([256, 2, 24, 24, 3])
    """

    def __init__(self, boundaries, recipes):
        self.boundaries = [int(boundary) for boundary in boundaries]
        self.recipes = list(recipes)
        for recipe in self.recipes:
            if not isinstance(recipe, Recipe) or isinstance(recipe, PiecewiseRecipe):
                raise ValueError(
                    f"`recipes` must be a list of `augment.Recipe`s. Received: {recipe!r}."
                )
        if len(self.recipes) != len(self.boundaries) + 1:
            raise ValueError(
                "`recipes` must be one more than `boundaries`. Received: "
                f"{len(self.recipes)} recipes, boundaries={self.boundaries}."
            )
        if any(a >= b for a, b in zip([0, *self.boundaries], self.boundaries)):
            raise ValueError(
                f"`boundaries` must be ascending steps >= 1. Received: boundaries={self.boundaries}."
            )
        if len({recipe.num_views for recipe in self.recipes}) > 1:
            raise ValueError(
                "`recipes` must make the same number of views. Received: "
                f"{[recipe.num_views for recipe in self.recipes]}."
            )
        self.num_views = self.recipes[0].num_views
        self._draw_views = tf.function(self._views)

    def __call__(self, images, key):
        """The last recipe's views: a key does not tell the step."""
        return self.recipes[-1](images, key)

    def _views(self, images, n: int, seed, step, chunks: bool):
        def draw(recipe):
            drawn = recipe._views(images, n, seed, step, chunks)
            if isinstance(drawn, tuple):
                raise ValueError(
                    "`recipes` of a `PiecewiseRecipe` must each make views of one size."
                )
            return drawn

        number = tf.reduce_sum(tf.cast(step >= self.boundaries, tf.int32))
        number = tf.where(step < 0, len(self.boundaries), number)  # validation
        branches = [functools.partial(draw, recipe) for recipe in self.recipes]
        return tf.switch_case(number, branches)

    def get_config(self) -> dict:
        """The arguments."""
        return {"boundaries": self.boundaries, **super().get_config()}

    @classmethod
    def from_config(cls, config: dict) -> PiecewiseRecipe:
        """The recipe of a `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(config["boundaries"], [deserialize(r) for r in config["recipes"]])
