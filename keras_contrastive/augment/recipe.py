"""A recipe: a short list of operations; and `views`, which draws it."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import tensorflow as tf

from keras_contrastive._checks import check_integer, check_rank, shape_text
from keras_contrastive._random import fold, make_key
from keras_contrastive.augment._images import checked_images, sizes, unit_images
from keras_contrastive.augment._schedule import in_chunks, run
from keras_contrastive.augment.color import Normalize
from keras_contrastive.augment.operation import Operation


@keras.saving.register_keras_serializable("keras_contrastive")
class Recipe:
    """Operations that are applied one after the other, each with draws of its own.

    Besides this package's operations the list takes Keras layers (called with `training=True`) and functions of a
    batch: float32 `[n, height, width, channels]` in 0..1 in and out (give `value_range=(0, 1)` to layers that ask
    for it); what they return is clipped to 0..1. Only draws of this package's operations follow from the key:
    a foreign layer draws as it pleases.

    Args:
        operations: List of `Operation`s, Keras layers and functions.
        num_views: Integer >= 1: how many views a model makes of an image.

    Raises:
        ValueError: An element is not callable, or `num_views` is not an integer >= 1.

    Example:
        >>> recipe = Recipe([RandomResizedCrop(32), RandomFlip(), lambda images: 1 - images])
        >>> views(images, 2, recipe, seed=0, step=0).shape
        TensorShape([256, 2, 32, 32, 3])
    """

    def __init__(self, operations, *, num_views: int = 2):
        check_integer(1, num_views=num_views)
        self.operations = list(operations)
        self.num_views = num_views
        for operation in self.operations:
            if not callable(operation):
                raise ValueError(
                    "`operations` must be augmentations, Keras layers or functions of a batch of images. "
                    f"Received: {operation!r}."
                )
            if isinstance(operation, Recipe):
                raise ValueError(
                    "`operations` must not hold recipes: join their lists, or take `augment.Recipes`, a recipe for "
                    f"each view. Received: {operation!r}."
                )
        if any(isinstance(operation, Normalize) for operation in self.operations[:-1]):
            raise ValueError(
                "`Normalize` must be the last of `operations`: the others take images in 0..1. "
                f"Received: operations={[type(each).__name__ for each in self.operations]}."
            )
        self._parts = _in_parts(self.operations)
        # One function for the life of the recipe: a new one would be traced and compiled again.
        self._draw_views = tf.function(self._views)

    def __call__(self, images, key) -> tf.Tensor:
        """Apply the operations once to each image.

        Args:
            images: uint8 or float in 0..1, `[n, height, width, channels]`.
            key: int64 `[2]`: the same key gives the same result.

        Returns:
            float32 in 0..1 (unless normalised), `[n, height, width, channels]`.

        Raises:
            ValueError: `images` are not rank 4, or neither uint8 nor floating.
        """
        images = checked_images(images)
        check_rank(4, images=images)
        return self._apply(images, tf.range(sizes(images)[0]), key, in_chunks())

    def _apply(self, images, source, key, chunks: bool):
        """`__call__` on the images that `source` names, int32 `[n]`; in chunks on a CPU."""
        for part in self._parts:
            images = part(images, source, key, chunks)
            source = tf.range(sizes(images)[0])
        return images

    def _views(self, images, n: int, seed: tf.Tensor, step: tf.Tensor, chunks: bool):
        batch = sizes(images)[0]
        if images.shape.rank == 5:
            n = sizes(images)[1]
            images = tf.reshape(images, [batch * n, *sizes(images)[2:]])
            source = tf.range(batch * n)
        else:
            # All views in one pass: image i, view j is row i * n + j, with draws of its own.
            source = tf.repeat(tf.range(batch), n)
        drawn = self._apply(images, source, make_key(seed, step), chunks)
        return tf.reshape(drawn, [batch, n, *sizes(drawn)[1:]])

    @property
    def normalizes(self) -> bool:
        """Whether the views are no longer in 0..1."""
        return bool(self.operations) and isinstance(self.operations[-1], Normalize)

    def get_config(self) -> dict:
        """The arguments.

        Raises:
            ValueError: The list holds a function that Keras cannot find again by its name.
        """
        operations = [_serialized(operation) for operation in self.operations]
        return {"operations": operations, "num_views": self.num_views}

    @classmethod
    def from_config(cls, config: dict) -> Recipe:
        """The recipe of a `get_config`."""
        operations = [_deserialized(operation) for operation in config["operations"]]
        return cls(operations, num_views=config["num_views"])


@keras.saving.register_keras_serializable("keras_contrastive")
class Recipes(Recipe):
    """A recipe for each view: for views that differ in strength, or in size.

    Each recipe makes as many views as its `num_views` says, one recipe after the other. Asked for more views than
    all of them make, it begins again; of images that have views, view j is drawn by the recipe of view j.

    Views of one size are one tensor `[batch, views, height, width, channels]`. Those of several sizes are a tuple of
    such tensors, in the order in which the sizes first come: give the large ones first.

    Args:
        recipes: List of `Recipe`s.

    Raises:
        ValueError: An element is not a `Recipe`, or there is none.

    Example:
        >>> strong = Recipe([RandomResizedCrop(32), ColorJitter(0.4, 0.4, 0.4, 0.1)], num_views=1)
        >>> views(images, None, Recipes([strong, Recipe([RandomFlip()], num_views=1)]), 0, 0).shape
        TensorShape([256, 2, 32, 32, 3])
    """

    def __init__(self, recipes):
        self.recipes = list(recipes)
        for recipe in self.recipes:
            if not isinstance(recipe, Recipe) or isinstance(recipe, Recipes):
                raise ValueError(
                    f"`recipes` must be a list of `augment.Recipe`s. Received: {recipe!r}."
                )
        if not self.recipes:
            raise ValueError("`recipes` must hold at least one recipe. Received: [].")
        self.num_views = sum(recipe.num_views for recipe in self.recipes)
        self._draw_views = tf.function(self._views)

    def __call__(self, images, key):
        """All views of each image: `[n, num_views, height, width, channels]`, or a tuple of such.

        Args:
            images: uint8 or float in 0..1, `[n, height, width, channels]`.
            key: int64 `[2]`: the same key gives the same result.

        Raises:
            ValueError: `images` are not rank 4, or neither uint8 nor floating.
        """
        images = checked_images(images)
        check_rank(4, images=images)
        return self._of_all(images, self.num_views, key, in_chunks())

    def _views(self, images, n: int, seed, step, chunks: bool):
        if images.shape.rank == 5:
            n = images.shape[1]
        return self._of_all(images, n, make_key(seed, step), chunks)

    def _of_all(self, images, n: int, key, chunks: bool):
        batch = sizes(images)[0]
        has_views = images.shape.rank == 5
        if has_views:
            images = tf.reshape(images, [batch * n, *sizes(images)[2:]])
        owners = [i for i, one in enumerate(self.recipes) for _ in range(one.num_views)]
        owners = np.resize(owners, n)
        found = {}  # by size, the numbers of the views and the views
        for i, recipe in enumerate(self.recipes):
            own = np.flatnonzero(owners == i)
            if len(own) == 0:
                continue
            if has_views:
                source = tf.reshape(tf.range(batch)[:, None] * n + own, [-1])
            else:
                source = tf.repeat(tf.range(batch), len(own))
            source = tf.cast(source, tf.int32)
            drawn = recipe._apply(images, source, fold(key, i), chunks)
            drawn = tf.reshape(drawn, [batch, len(own), *sizes(drawn)[1:]])
            numbers, tensors = found.setdefault(tuple(drawn.shape[2:]), ([], []))
            numbers.extend(own)
            tensors.append(drawn)
        if len(found) > 1 and any(None in shape for shape in found):
            raise ValueError(
                "`recipes` of several sizes must give views whose sizes are known while tracing. "
                f"Received: views of {sorted(map(str, found))}."
            )
        joined = tuple(_in_order(*views) for views in found.values())
        return joined if len(joined) > 1 else joined[0]

    @property
    def normalizes(self) -> bool:
        """Whether some views are no longer in 0..1."""
        return any(recipe.normalizes for recipe in self.recipes)

    def get_config(self) -> dict:
        """The arguments."""
        recipes = [keras.saving.serialize_keras_object(one) for one in self.recipes]
        return {"recipes": recipes}

    @classmethod
    def from_config(cls, config: dict) -> Recipes:
        """The recipes of a `get_config`."""
        deserialize = keras.saving.deserialize_keras_object
        return cls([deserialize(recipe) for recipe in config["recipes"]])


def _in_order(numbers, tensors):
    """The views of several recipes along one axis, by their numbers."""
    views = tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis=1)
    if numbers == sorted(numbers):
        return views
    return tf.gather(views, np.argsort(numbers), axis=1)


def views(
    images, n: int | None, recipe: Recipe, seed, step
) -> tf.Tensor | tuple[tf.Tensor, ...]:
    """Draw a recipe n times for each image.

    One function, in which this package's operations are compiled by XLA; it can be called in a training step, in
    `Dataset.map` or eagerly, and gives the same for a `seed` and a `step` (pixels to rounding).

    Args:
        images: uint8 or float in 0..1. `[batch, height, width, channels]`, or `[batch, views, height, width,
            channels]` for images that have views already: the recipe is then drawn once for each of them.
        n: Integer >= 1, or None: `recipe.num_views`. For a batch that has views None, or their number.
        recipe: A `Recipe`.
        seed: Integer or integer scalar.
        step: Integer or integer scalar: another step, other draws.

    Returns:
        float32 in 0..1 (unless normalised), `[batch, n, height, width, channels]`; of `Recipes` of several sizes a
        tuple of such. On a CPU it is fastest where the sizes, of the batch too, are known while tracing.

    Raises:
        ValueError: `images` have another rank or dtype, or another number of views than n; `recipe` is not a `Recipe`.
    """
    return draw_views(images, n, recipe, seed, step, chunks=in_chunks())


def draw_views(images, n: int | None, recipe: Recipe, seed, step, *, chunks: bool):
    """`views`; in chunks, as a CPU wants them, or all at once."""
    check_recipe(recipe)
    images = checked_images(images)
    if images.shape.rank not in (4, 5):
        raise ValueError(
            "`images` must be [batch, height, width, channels] or [batch, views, height, width, channels]. "
            f"Received: images.shape={shape_text(images.shape)}."
        )
    if (
        isinstance(recipe, Recipes)
        and images.shape.rank == 5
        and images.shape[1] is None
    ):
        raise ValueError(
            "`images` must have a number of views that is known while tracing, to give each its recipe. "
            f"Received: images.shape={shape_text(images.shape)}."
        )
    if images.shape.rank == 5 and n is not None and images.shape[1] not in (None, n):
        raise ValueError(
            "`n` must be None or the number of views that `images` have already. "
            f"Received: n={n!r}, images.shape={shape_text(images.shape)}."
        )
    n = recipe.num_views if n is None else n
    check_integer(1, n=n)
    seed, step = tf.cast(seed, tf.int64), tf.cast(step, tf.int64)
    return recipe._draw_views(images, n, seed, step, chunks)


class _Ours:
    """Operations of this package, one after the other in the recipe: one program, compiled by XLA."""

    def __init__(self, operations: dict[int, Operation]):
        self.operations = operations  # by their place in the recipe
        self.program = tf.function(self._run, jit_compile=True, autograph=False)

    def __call__(self, images, source, key, chunks: bool):
        n, (height, width, channels) = sizes(source)[0], sizes(images)[1:]
        shape, drawn = [n, channels, height, width], {}
        # Drawn out here: the generator is long to compile, and a plain operation draws the same.
        for place, operation in self.operations.items():
            drawn[place] = operation.draw(fold(key, place), shape)
            shape = [*shape[:2], *operation.size_of(tuple(shape[2:]))]
        # Shaped out here too, where it costs nothing: XLA may copy a result to give it another shape.
        return tf.reshape(
            self.program(images, source, drawn, chunks), [n, *shape[2:], channels]
        )

    def _run(self, images, source, drawn, chunks: bool):
        height, width, channels = sizes(images)[1:]
        shape = [sizes(source)[0], channels, height, width]
        stages = []
        for place, operation in self.operations.items():
            stages = operation.follow(stages, shape, **drawn[place])
            shape = [*shape[:2], *operation.size_of(tuple(shape[2:]))]
        return run(stages, images, source, chunks=chunks)


class _Foreign:
    """A Keras layer, or a function of a batch."""

    def __init__(self, operation):
        self.operation = operation

    def __call__(self, images, source, key, chunks: bool):
        images = unit_images(tf.gather(images, source))
        result = unit_images(_call_foreign(self.operation, images))
        return tf.clip_by_value(result, 0.0, 1.0)


def _in_parts(operations) -> list:
    """Neighbours of this package joined; what others wrote alone."""
    parts, own = [], {}
    for place, operation in enumerate(operations):
        if isinstance(operation, Operation):
            own[place] = operation
            continue
        parts += [_Ours(own)] if own else []
        parts.append(_Foreign(operation))
        own = {}
    return [*parts, _Ours(own)] if own or not parts else parts


def check_recipe(recipe) -> None:
    """Raise unless it is a `Recipe`."""
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"`recipe` must be an `augment.Recipe`. Received: recipe={recipe!r}. "
            "Wrap a list of operations: `augment.Recipe([...])`."
        )


def _call_foreign(operation, images):
    is_layer = isinstance(operation, keras.layers.Layer)
    if is_layer and "training" in inspect.signature(operation.call).parameters:
        return operation(images, training=True)
    return operation(images)


def _serialized(operation) -> dict:
    if isinstance(operation, keras.layers.Layer):
        return keras.saving.serialize_keras_object(operation)
    # Keras writes any function's name down, and finds only registered ones again.
    name = keras.saving.get_registered_name(operation)
    if keras.saving.get_registered_object(name) is not operation:
        shown = getattr(operation, "__qualname__", repr(operation))
        raise ValueError(
            f"The function `{shown}` in the recipe cannot be saved: Keras would not find it again. Decorate it with "
            "`@keras.saving.register_keras_serializable()`, or write it as a Keras layer."
        )
    return {"function": name}


def _deserialized(config):
    if "function" not in config:
        return keras.saving.deserialize_keras_object(config)
    function = keras.saving.get_registered_object(config["function"])
    if function is None:
        raise ValueError(
            f"The function {config['function']!r} of the recipe is not registered. Import the module that defines it "
            "before loading."
        )
    return function
