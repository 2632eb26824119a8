"""Data by name: `load("digits")`, `load("folder:photos")`, ..."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_contrastive._checks import check_integer
from keras_contrastive.data.folder import read_folder
from keras_contrastive.data.images import resize, resize_array
from keras_contrastive.data.part import Part, hold_out

DIGITS_SIZE, DIGITS_TEST = 16, 500
FOLDER_SIZE = 96  # where images come in many sizes and none was asked for


@dataclasses.dataclass(frozen=True)
class Source:
    """What `load` found: `name` (short, fit for a folder's name), `train`, `test`, and `skipped`.

    `skipped` has a line "path: reason" for every file that could not be read.
    """

    name: str
    train: Part
    test: Part
    skipped: list[str] = dataclasses.field(default_factory=list)


def load(spec: str, *, image_size: int | None = None, seed: int = 0) -> Source:
    """Load images by name, all into memory.

    Where the data bring no test part, a fifth is held out, stratified by label where there are labels.

    Args:
        spec: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "npz:FILE", "folder:DIR" or
            "tfds:NAME"; the table in `keras_contrastive.data` says what each is.
        image_size: Integer > 0: images are made squares of this side by `resize`. None: the source's default.
        seed: Integer >= 0 for the part held out.

    Returns:
        A `Source`. Files that could not be read are in its `skipped`, and a warning gives their number.

    Raises:
        ValueError: the spec is unknown, or what it names is missing, damaged or not what it must be.

    Example:
        >>> source = load("digits")
        >>> len(source.train), len(source.test), source.train.image_shape
        (1297, 500, (16, 16, 1))
    """
    check_integer(0, seed=seed)
    if image_size is not None:
        check_integer(1, image_size=image_size)
    kind, colon, argument = str(spec).partition(":")
    if kind not in SOURCES:
        raise ValueError(_unknown(spec))
    form, read = SOURCES[kind]
    if bool(argument) != (form != kind) or (colon and not argument):
        raise ValueError(
            f"`spec` of this kind must have the form {form!r}. Received: spec={spec!r}."
        )
    source = read(argument or kind, image_size, seed)
    if source.skipped:
        warnings.warn(
            f"{len(source.skipped)} files could not be read and are left out; the first: {source.skipped[0]}",
            stacklevel=2,
        )
    return source


def _digits(name, image_size, seed) -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    names = [str(name) for name in digits.target_names]
    part = _part(images, digits.target, names, image_size or DIGITS_SIZE)
    return Source(name, *hold_out(part, seed, DIGITS_TEST))


def _keras_dataset(name, image_size, seed) -> Source:
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    # Whatever a download can end in; Keras raises a bare `Exception`.
    except Exception as error:
        raise ValueError(
            f"`keras.datasets.{name}` could not be loaded: {_line(error)}"
        ) from error
    names = _CLASS_NAMES.get(name)
    return Source(
        name,
        _part(x_train, y_train, names, image_size),
        _part(x_test, y_test, names, image_size),
    )


def _npz(file, image_size, seed) -> Source:
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    arrays = _npz_arrays(path)
    if "x_train" not in arrays:
        found = ", ".join(sorted(arrays)) or "none"
        raise ValueError(
            f"'{path}' must hold an array `x_train`. Of the arrays known here it has: {found}."
        )

    def part(suffix):
        try:
            images, labels = arrays[f"x_{suffix}"], arrays.get(f"y_{suffix}")
            return _part(images, labels, arrays.get("class_names"), image_size)
        except ValueError as error:
            raise ValueError(
                f"`x_{suffix}`, `y_{suffix}` in '{path}': {error}"
            ) from error

    train = part("train")
    if "x_test" not in arrays:
        return Source(path.stem, *hold_out(train, seed))
    test = part("test")
    if test.image_shape != train.image_shape:
        raise ValueError(
            f"`x_train` and `x_test` in '{path}' must have images of one shape. "
            f"Received: {train.image_shape} and {test.image_shape}. Give `image_size` to make them equal."
        )
    return Source(path.stem, train, test)


def _npz_arrays(path: Path) -> dict[str, np.ndarray]:
    known = ("x_train", "y_train", "x_test", "y_test", "class_names")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"'{path}' is not an .npz file (or is cut short): it is no zip of arrays."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in known if name in file.files}
    except Exception as error:  # a damaged zip ends in any of a dozen exceptions
        raise ValueError(
            f"'{path}' cannot be read as an .npz file: {_line(error)}"
        ) from error
    names = arrays.get("class_names")
    if names is not None and names.dtype.kind == "S":
        arrays["class_names"] = np.char.decode(names, "utf-8")
    return arrays


def _folder(folder, image_size, seed) -> Source:
    path = Path(folder).expanduser()
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ValueError("`folder:DIR` needs Pillow: pip install pillow.") from error
    train, test, skipped = read_folder(path, image_size or FOLDER_SIZE, seed)
    return Source(path.resolve().name or "folder", train, test, skipped)


def _tfds(name, image_size, seed) -> Source:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(
            "`tfds:NAME` needs tensorflow-datasets: pip install tensorflow-datasets."
        ) from error
    try:
        builder = tfds.builder(name)
        builder.download_and_prepare()
    # Unknown name, failed download, a builder's own missing dependency.
    except Exception as error:
        raise ValueError(
            f"tensorflow-datasets could not prepare {name!r}: {_line(error)}"
        ) from error
    splits = builder.info.splits
    if "train" not in splits:
        raise ValueError(
            f"'tfds:{name}' must have a split `train`. Found: {', '.join(splits)}."
        )
    # Without the version; a configuration follows a slash.
    short = name.partition(":")[0].replace("/", "-")
    train = _tfds_part(tfds, builder, "train", image_size)
    if "test" not in splits:
        return Source(short, *hold_out(train, seed))
    return Source(short, train, _tfds_part(tfds, builder, "test", image_size))


def _tfds_part(tfds, builder, split, image_size) -> Part:
    features, supervised = builder.info.features, builder.info.supervised_keys
    if supervised and not all(isinstance(key, str) for key in supervised):
        supervised = None  # nested keys: of a set for another task
    image_key, label_key = supervised or ("image", "label")
    if image_key not in features or len(features[image_key].shape) != 3:
        raise ValueError(
            f"'tfds:{builder.info.name}' has no feature `{image_key}` that is an image."
        )
    if image_size is None and None in features[image_key].shape[:2]:
        image_size = FOLDER_SIZE
    images, labels = [], []
    dataset = builder.as_dataset(split=split, as_supervised=bool(supervised))
    for example in tfds.as_numpy(dataset):
        if not supervised:
            example = example[image_key], example.get(label_key)
        image, label = example
        if image_size is not None:
            image = resize(image, image_size).numpy()
        images.append(image)
        labels.append(label)
    names = (
        getattr(features[label_key], "names", None) if label_key in features else None
    )
    if names is None:  # the label, if any, is not a class
        return Part(np.stack(images))
    return Part(np.stack(images), np.array(labels), names)


def _part(images, labels, class_names, image_size) -> Part:
    part = Part(images, labels, class_names)
    if image_size is None:
        return part
    return Part(resize_array(part.images, image_size), part.labels, part.class_names)


def _unknown(spec) -> str:
    forms = [form for form, _ in SOURCES.values()]
    near = difflib.get_close_matches(
        str(spec).partition(":")[0], list(SOURCES), n=2, cutoff=0.5
    )
    hints = [SOURCES[kind][0] for kind in near]
    if spec and Path(str(spec)).is_dir():
        hints = [f"folder:{spec}"]
    elif spec and Path(str(spec)).is_file():
        hints = [f"npz:{spec}"]
    hint = f" Did you mean {' or '.join(map(repr, hints))}?" if hints else ""
    return f"`spec` must be one of {', '.join(map(repr, forms))}. Received: spec={spec!r}.{hint}"


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


_CLASS_NAMES = {
    "mnist": [str(k) for k in range(10)],
    "fashion_mnist": (
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"]
        + ["Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    ),
    "cifar10": (
        ["airplane", "automobile", "bird", "cat", "deer"]
        + ["dog", "frog", "horse", "ship", "truck"]
    ),
}

# How it is written, and the function `(what follows the colon, or the name; image_size; seed) -> Source`.
SOURCES = {
    "digits": ("digits", _digits),
    "mnist": ("mnist", _keras_dataset),
    "fashion_mnist": ("fashion_mnist", _keras_dataset),
    "cifar10": ("cifar10", _keras_dataset),
    "cifar100": ("cifar100", _keras_dataset),
    "npz": ("npz:FILE", _npz),
    "folder": ("folder:DIR", _folder),
    "tfds": ("tfds:NAME", _tfds),
}
