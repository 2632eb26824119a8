"""How a list of stages runs over a batch: at once, or in chunks that stay in the processor's cache.

A *stage* is a part of a transform. On a GPU all images pass all stages at once, with neutral parameters where an
image does not take part: one stream of kernels, nothing asked of the host. On a CPU that would read and write the
whole batch from memory for every stage, and do for all images what some do not need. There

- the images are put in an order in which those that need the same stages stand together,
- they pass in chunks of a megabyte (of small images, four), every stage of a chunk before the next chunk,
- a stage that no image of the chunk needs is skipped,
- and each image is written to its own place of the result.

Both give the same pixels, to rounding. XLA would also fuse a stage into every reader of its result and compute it
again for each; a loop of none or one passes, which it cannot look into, both skips a stage and keeps it apart. (A
conditional does where the size changes. Where it does not, XLA makes both branches and selects.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_contrastive._compat import has_gpu
from keras_contrastive.augment._images import from_planar, sizes, to_planar, unit_images

# float32 values of a chunk: 1 MiB, of which a few copies fit in a cache.
CHUNK = 2**18
# Of images of so few values the starts of kernels weigh more than the cache: they pass in larger chunks.
SMALL_IMAGE, SMALL_IMAGES_CHUNK = 2**13, 2**20


class Stage(NamedTuple):
    """A part of a transform: `function(planar, *tensors)`, for each image with its row of the tensors."""

    function: Callable[..., tf.Tensor]
    tensors: tuple[tf.Tensor, ...] = ()
    """Each `[n, ...]`."""
    needed: tf.Tensor | None = None
    """bool `[n]`: False where the function would change nothing. None: not worth asking."""
    cost: int = 1
    """About how many passes over the image's pixels it is worth: the dearest are skipped most often."""
    size: tuple | None = None
    """Height and width of the result, where they may be others. Every image must need it then."""
    of_images: Callable[..., tf.Tensor] | None = None
    """The same function of `[n, height, width, channels]`, uint8 or unit floats, for where it comes first."""


class Repeated(NamedTuple):
    """Stages that are taken in turns: their tensors and `needed`, which all have, are `[n, times, ...]`."""

    stages: list[Stage]
    times: int

    def turn(self, number) -> list[Stage]:
        """The stages with what belongs to one turn."""

        def own(stage):
            tensors = tuple(tensor[:, number] for tensor in stage.tensors)
            return stage._replace(tensors=tensors, needed=stage.needed[..., number])

        return [own(stage) for stage in self.stages]


def run_at_once(stages: list[Stage | Repeated], planar: tf.Tensor) -> tf.Tensor:
    """Every stage on all images."""
    for stage in stages:
        if isinstance(stage, Repeated):
            for number in range(stage.times):
                planar = run_at_once(stage.turn(number), planar)
        else:
            planar = stage.function(planar, *stage.tensors)
    return planar


def in_chunks() -> bool:
    """Whether the training step, wherever it runs here, wants chunks: on a machine without a GPU."""
    return not has_gpu()


def run(
    stages: list[Stage | Repeated],
    images: tf.Tensor,
    source: tf.Tensor,
    *,
    chunks: bool,
) -> tf.Tensor:
    """Every stage on the images that `source` names.

    Args:
        stages: In order; n rows in each of their tensors.
        images: uint8 or float in 0..1, `[m, height, width, channels]`.
        source: int32 `[n]`, in 0..m - 1.
        chunks: Whether in chunks, for a CPU. Where a size is not known, all images pass at once in any case.

    Returns:
        float32 `[n, height, width, channels]`, in this or another shape.
    """
    n, (height, width, channels) = sizes(source)[0], sizes(images)[1:]
    singles = _flattened(stages)
    resized = [stage.size for stage in singles if stage.size is not None]
    # Of the source no planar floats are made where the first stage takes images as they are.
    from_source = bool(singles) and singles[0].of_images is not None
    resolutions = resized if from_source else [(height, width), *resized]
    chunk = _chunk_size(n, channels, resolutions) if chunks else None
    if chunk is None:
        planar = to_planar(unit_images(tf.gather(images, source)))
        return from_planar(run_at_once(stages, planar))

    # Row i holds the images of chunk i. The last begins early enough to be full: what it does again comes out the same.
    count = -(-n // chunk)
    starts = tf.minimum(tf.range(count) * chunk, n - chunk)
    rows = tf.gather(_grouped(stages, n), starts[:, None] + tf.range(chunk))
    stages = _sorted_into(stages, rows)

    def one_chunk(i, result):
        own = [_of_chunk(stage, i) for stage in stages]
        taken = tf.gather(images, tf.gather(source, rows[i]))
        if from_source:
            first = own.pop(0)
            planar = _resized(first, taken, first.of_images, channels)
        else:
            planar = to_planar(unit_images(taken))
        for stage in own:
            planar = _run_apart(stage, planar)
        # Pixels in one row: of rank 4 XLA would keep the result planar, and turn all of it at the end.
        done = tf.reshape(planar, [chunk, channels, -1])
        done = tf.transpose(done, [0, 2, 1])
        return i + 1, tf.tensor_scatter_nd_update(result, rows[i][:, None], done)

    new_height, new_width = resolutions[-1]
    result = tf.zeros([n, new_height * new_width, channels])
    return tf.while_loop(lambda i, _: i < count, one_chunk, (0, result))[1]


def _flattened(stages) -> list[Stage]:
    return [
        one
        for stage in stages
        for one in (stage.stages if isinstance(stage, Repeated) else [stage])
    ]


def _chunk_size(n, channels, resolutions) -> int | None:
    """How many images pass together; None: all."""
    pixels = [height * width for height, width in resolutions]
    if not all(isinstance(number, int) for number in (n, channels, *pixels)) or n == 0:
        return None
    values = max(1, channels * max(pixels))
    limit = SMALL_IMAGES_CHUNK if values <= SMALL_IMAGE else CHUNK
    return min(n, max(1, limit // values))


def _grouped(stages, n) -> tf.Tensor:
    """An order of 0..n - 1 in which images that need the same stages follow each other, dear stages first."""
    key = tf.zeros([n], tf.int64)
    known = [stage for stage in _flattened(stages) if stage.needed is not None]
    for stage in sorted(known, key=lambda stage: -stage.cost):
        for needed in tf.unstack(tf.reshape(stage.needed, [n, -1]), axis=1):
            key = 2 * key + tf.cast(needed, tf.int64)
    return tf.argsort(key, stable=True)


def _sorted_into(stages, rows) -> list:
    """Tensors `[chunks, images of a chunk, ...]`, and `needed` as `[chunks, ...]`: how many passes, 0 or 1."""

    def sorted_into(stage):
        if isinstance(stage, Repeated):
            return stage._replace(stages=[sorted_into(one) for one in stage.stages])
        tensors = tuple(tf.gather(tensor, rows) for tensor in stage.tensors)
        needed = stage.needed
        if needed is not None:
            some = tf.reduce_any(tf.gather(needed, rows), axis=1)
            needed = tf.cast(some, tf.int32)
        return stage._replace(tensors=tensors, needed=needed)

    return [sorted_into(stage) for stage in stages]


def _of_chunk(stage, i):
    if isinstance(stage, Repeated):
        return stage._replace(stages=[_of_chunk(one, i) for one in stage.stages])
    needed = None if stage.needed is None else stage.needed[i]
    tensors = tuple(tensor[i] for tensor in stage.tensors)
    return stage._replace(tensors=tensors, needed=needed)


def _run_apart(stage, planar):
    """A stage of a chunk, apart from the others, or not at all."""
    if isinstance(stage, Repeated):
        return _in_turns(stage, planar)
    if stage.needed is None:
        return stage.function(planar, *stage.tensors)
    if stage.size is not None:
        return _resized(stage, planar, stage.function, sizes(planar)[1])
    return tf.while_loop(
        lambda done, _: done < stage.needed,
        lambda done, planar: (done + 1, stage.function(planar, *stage.tensors)),
        (0, planar),
    )[1]


def _in_turns(repeated, planar):
    def one_turn(number, planar):
        for stage in repeated.turn(number):
            planar = _run_apart(stage, planar)
        return number + 1, planar

    return tf.while_loop(
        lambda number, _: number < repeated.times, one_turn, (0, planar)
    )[1]


def _resized(stage, images, function, channels: int):
    n = sizes(images)[0]
    return tf.cond(
        stage.needed > 0,
        lambda: function(images, *stage.tensors),
        lambda: tf.zeros([n, channels, *stage.size]),
    )
