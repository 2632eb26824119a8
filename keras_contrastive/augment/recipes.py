"""Ready recipes, by name."""

from __future__ import annotations

from keras_contrastive._checks import check_at_least, check_choice, check_integer
from keras_contrastive.augment.blur import GaussianBlur
from keras_contrastive.augment.color import ColorJitter, RandomGrayscale, RandomSolarize
from keras_contrastive.augment.geometry import (
    RandomAffine,
    RandomFlip,
    RandomResizedCrop,
)
from keras_contrastive.augment.operation import check_probability
from keras_contrastive.augment.piecewise import PiecewiseRecipe
from keras_contrastive.augment.recipe import Recipe, Recipes


def simclr(
    image_size: int, strength: float = 1.0, *, area: tuple[float, float] = (0.08, 1.0)
) -> Recipe:
    """SimCLR's views: crop, mirror, colour, grayscale; blur for images of more than 32 pixels.

    Args:
        image_size: Height and width of the views.
        strength: Float >= 0, of the colour jitter. The paper has 1 on ImageNet and 0.5 on CIFAR-10.
        area: Range of the crop's share of the image. The paper's, on CIFAR-10 too; later work often has (0.2, 1.0).

    Returns:
        A `Recipe` of two views.

    Raises:
        ValueError: `image_size` is not an integer >= 1, `strength` < 0 or > 2.5, or `area` not in (0, 1].

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, Appendix A; B.9 for
        CIFAR-10, where there is no blur. The blur's kernel is a tenth of the image, as in the paper, made odd.
    """
    check_integer(1, image_size=image_size)
    check_at_least(0, strength=strength)
    operations = [
        RandomResizedCrop(image_size, area=area),
        RandomFlip(),
        ColorJitter(
            0.8 * strength,
            0.8 * strength,
            0.8 * strength,
            0.2 * strength,
            probability=0.8,
        ),
        RandomGrayscale(0.2),
    ]
    if image_size > 32:
        operations.append(GaussianBlur(_blur_kernel(image_size), sigma=(0.1, 2.0)))
    return Recipe(operations)


def simclr_small(image_size: int) -> Recipe:
    """SimCLR's views for small images and short runs: half the colour, and crops of 30 to 100 % of the image.

    The paper halves the colour on CIFAR-10. Its smallest crops, 8 % of the image, are 9 pixels of 32 on a side,
    and take more epochs than a run of minutes has.

    Args:
        image_size: Height and width of the views.

    Returns:
        A `Recipe` of two views: `simclr(image_size, 0.5, area=(0.3, 1.0))`.

    Raises:
        ValueError: `image_size` is not an integer >= 1.

    Reference:
        Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations, B.9.
    """
    return simclr(image_size, 0.5, area=(0.3, 1.0))


# The views' height and width as shares of the image's, before and after they grow.
_FAST_SIZES = (0.5, 0.75)


def fast(
    image_size: int, *, steps: int | None = None, grow: float = 0.5
) -> Recipe | PiecewiseRecipe:
    """The views of `recipes.fast`: crops of 20 to 100 % of the image, made small at first, and half of SimCLR's colour.

    A view of three quarters of the image's height and width costs half as much as one of all; and its objects are as
    large as in the whole image, which is what the encoder is served: an average crop has three quarters of it too.
    With views of half the size, four times as many are seen in a minute, so training begins with them.

    Args:
        image_size: Height and width of the images, not of the views. The encoder must be one of any size.
        steps: How many training steps there will be; None: the views have three quarters of the size throughout.
        grow: Share of `steps`, in 0..1, after which the views grow from half to three quarters.

    Returns:
        A `Recipe` of two views, or a `PiecewiseRecipe`.

    Raises:
        ValueError: `image_size` or `steps` is not an integer >= 1, or `grow` not in 0..1.

    Reference:
        Howard, 2018, Training Imagenet in 3 hours for USD 25 (progressive resizing); Touvron et al., 2019, Fixing the
        train-test resolution discrepancy (why views may be smaller than what is served).
    """
    check_integer(1, image_size=image_size)
    check_probability(grow=grow)
    small, large = (
        simclr(max(1, round(share * image_size)), 0.5, area=(0.2, 1.0))
        for share in _FAST_SIZES
    )
    if steps is None:
        return large
    check_integer(1, steps=steps)
    boundary = round(grow * steps)
    if boundary == 0:
        return large
    return PiecewiseRecipe([boundary], [small, large])


def moco_v2(image_size: int) -> Recipe:
    """MoCo v2's views: crops of at least 20 % of the image, half of SimCLR's colour, grayscale, blur, mirror.

    The kernel of the blur is a tenth of the image, as SimCLR's; the authors blur by Pillow, which has no fixed kernel.

    Args:
        image_size: Height and width of the views.

    Returns:
        A `Recipe` of two views.

    Raises:
        ValueError: `image_size` is not an integer >= 1.

    Reference:
        Chen et al., 2020, Improved Baselines with Momentum Contrastive Learning, section 3, and its public code.
    """
    check_integer(1, image_size=image_size)
    operations = [
        RandomResizedCrop(image_size, area=(0.2, 1.0)),
        ColorJitter(0.4, 0.4, 0.4, 0.1, probability=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(_blur_kernel(image_size), sigma=(0.1, 2.0), probability=0.5),
        RandomFlip(),
    ]
    return Recipe(operations)


def byol(image_size: int) -> Recipes:
    """BYOL's two views: crop, mirror, colour, grayscale.

    The first is always blurred; the second in one case of ten, and solarised in one of five.

    Args:
        image_size: Height and width of the views.

    Returns:
        `Recipes` of one view each.

    Raises:
        ValueError: `image_size` is not an integer >= 1.

    Reference:
        Grill et al., 2020, Bootstrap Your Own Latent, Appendix B, Table 6. The blur's kernel is a tenth of the image,
        made odd: the paper's 23 of 224 pixels, and no blur below 20.
    """
    check_integer(1, image_size=image_size)
    return Recipes(
        [
            _byol_view(image_size, (0.08, 1.0), blur=1.0, solarize=0.0),
            _byol_view(image_size, (0.08, 1.0), blur=0.1, solarize=0.2),
        ]
    )


def multi_crop(
    global_size: int,
    local_size: int | None = None,
    n_local: int = 6,
    *,
    style: str = "swav",
) -> Recipes:
    """Two views of most of the image and several small ones of small parts of it.

    Args:
        global_size: Height and width of the two global views.
        local_size: Height and width of the local views; None: 3 / 7 of the global ones, the papers' 96 of 224.
        n_local: Integer >= 1: how many local views. SwAV has 6, DINO 8.
        style: `"swav"`: global crops of 14 to 100 % of the image, local ones of 5 to 14 %, SimCLR's colour and blur;
            `"dino"`: of 40 to 100 % and 5 to 40 %, BYOL's colour, blur and solarising, bicubic.

    Returns:
        `Recipes` that give a tuple of global views `[batch, 2, global_size, global_size, channels]` and local ones
        `[batch, n_local, local_size, local_size, channels]`.

    Raises:
        ValueError: A size or `n_local` is not an integer >= 1, or `style` is unknown.

    Reference:
        Caron et al., 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, section 3.2
        and the public code; Caron et al., 2021, Emerging Properties in Self-Supervised Vision Transformers, the same.
    """
    check_integer(1, global_size=global_size)
    local_size = (
        max(1, round(global_size * 3 / 7)) if local_size is None else local_size
    )
    check_integer(1, local_size=local_size, n_local=n_local)
    check_choice("style", style, ("swav", "dino"))
    if style == "swav":
        return Recipes(
            [
                _swav_views(global_size, (0.14, 1.0), 2),
                _swav_views(local_size, (0.05, 0.14), n_local),
            ]
        )
    large, small = (0.4, 1.0), (0.05, 0.4)
    return Recipes(
        [
            _byol_view(global_size, large, blur=1.0, solarize=0.0),
            _byol_view(global_size, large, blur=0.1, solarize=0.2),
            _byol_view(local_size, small, blur=0.5, solarize=0.0, num_views=n_local),
        ]
    )


def _byol_view(size, area, *, blur, solarize, num_views=1) -> Recipe:
    operations = [
        RandomResizedCrop(size, area=area, method="bicubic"),
        RandomFlip(),
        ColorJitter(0.4, 0.4, 0.2, 0.1, probability=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(_blur_kernel(size), sigma=(0.1, 2.0), probability=blur),
    ]
    if solarize > 0:
        operations.append(RandomSolarize(solarize))
    return Recipe(operations, num_views=num_views)


def _swav_views(size, area, num_views) -> Recipe:
    operations = [
        RandomResizedCrop(size, area=area),
        RandomFlip(),
        ColorJitter(0.8, 0.8, 0.8, 0.2, probability=0.8),
        RandomGrayscale(0.2),
        GaussianBlur(_blur_kernel(size), sigma=(0.1, 2.0), probability=0.5),
    ]
    return Recipe(operations, num_views=num_views)


def weak(image_size: int) -> Recipe:
    """Crops of at least half the image, mirrored or not: for supervised training, and for what must stay readable.

    Args:
        image_size: Height and width of the views.

    Returns:
        A `Recipe` of two views.

    Raises:
        ValueError: `image_size` is not an integer >= 1.
    """
    check_integer(1, image_size=image_size)
    return Recipe([RandomResizedCrop(image_size, area=(0.5, 1.0)), RandomFlip()])


def _blur_kernel(image_size: int) -> int:
    """A tenth of the image, made odd."""
    return 2 * (image_size // 20) + 1


def digits(
    image_size: int,
    *,
    rotation: float = 15.0,
    shift: float = 0.1,
    scale: tuple[float, float] = (0.85, 1.15),
    shear: float = 15.0,
) -> Recipe:
    """Views of handwritten digits: as another hand would write them, slanted, turned, larger, out of place.

    No mirror (a mirrored digit is no digit), no colour. Light on a dark ground: what comes in from outside is 0.

    Args:
        image_size: Height and width of the images, which stay. Every recipe takes it.
        rotation: Degrees, as in `RandomAffine`; so for the others.
        shift: Share of width and height.
        scale: Pair of factors.
        shear: Degrees.

    Returns:
        A `Recipe` of two views.

    Raises:
        ValueError: `image_size` is not an integer >= 1, or a strength is out of the range of `RandomAffine`.
    """
    check_integer(1, image_size=image_size)
    return Recipe(
        [RandomAffine(rotation=rotation, shift=shift, scale=scale, shear=shear)]
    )


RECIPES = {
    "byol": byol,
    "digits": digits,
    "fast": fast,
    "moco_v2": moco_v2,
    "multi_crop": multi_crop,
    "simclr": simclr,
    "simclr_small": simclr_small,
    "weak": weak,
}


def get(name: str):
    """The function that builds the recipe of this name: `get("simclr")(32)`.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    check_choice("name", name, sorted(RECIPES))
    return RECIPES[name]
