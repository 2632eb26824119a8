"""Ready recipes, by name."""

from __future__ import annotations

from keras_contrastive._checks import check_at_least, check_choice, check_integer
from keras_contrastive.augment.blur import GaussianBlur
from keras_contrastive.augment.color import ColorJitter, RandomGrayscale
from keras_contrastive.augment.geometry import (
    RandomAffine,
    RandomFlip,
    RandomResizedCrop,
)
from keras_contrastive.augment.recipe import Recipe


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
    "digits": digits,
    "moco_v2": moco_v2,
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
