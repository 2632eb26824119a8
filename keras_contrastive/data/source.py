"""Data by name: `load("digits")`, `load("folder:photos")`, ..."""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_contrastive._checks import check_choice, check_integer
from keras_contrastive.data.cache import read_through_disk
from keras_contrastive.data.files import DecodedExamples, FilePart, read_into_memory
from keras_contrastive.data.folder import list_folder
from keras_contrastive.data.given import Given
from keras_contrastive.data.images import resize, resize_array
from keras_contrastive.data.part import Examples, Part, hold_out
from keras_contrastive.data.records import RecordPart, shards_of
from keras_contrastive.data.split import split_by_class
from keras_contrastive.data.stream import Stream
from keras_contrastive.data.table import read_table

DIGITS_SIZE, DIGITS_TEST = 16, 500
FOLDER_SIZE = 96  # where images come in many sizes and none was asked for
# What `cache="auto"` reads into memory: at most so many images, and so large a part of what the machine has.
AUTO_IMAGES, AUTO_SHARE = 100_000, 0.25


@dataclasses.dataclass(frozen=True)
class Source:
    """What `load` found: `name` (short, fit for a folder's name), `train`, `test`, and `skipped`.

    `skipped` has a line "path: reason" for every file or record that could not be read. Where images are decoded
    when they are asked for, lines are added as damage is found.
    """

    name: str
    train: Examples | Stream
    test: Examples | Stream
    skipped: list[str] = dataclasses.field(default_factory=list)
    pair_ids: bool = False
    """The labels are ids of pairs, not classes: for `pairs(..., by="label")`, nothing to judge by."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `load` but for the spec."""

    split: str
    image_size: int | None
    seed: int
    cache: str
    cache_dir: Path
    on_damage: str
    max_pixels: int | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What a reader found, not decoded and not split yet: `parts` is `[whole]`, or `[train, test]` as the data have them."""

    name: str
    parts: list[Examples | Stream]
    skipped: list[str] = dataclasses.field(default_factory=list)
    pair_ids: bool = False
    test_size: int | None = None
    """How many are held out of the whole. None: a fifth."""


def load(
    spec: str,
    *,
    split: str = "examples",
    image_size: int | None = None,
    seed: int = 0,
    cache: str = "auto",
    cache_dir=None,
    on_damage: str = "skip",
    max_pixels: int | None = None,
) -> Source:
    """Load images by name.

    Args:
        spec: "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "npz:FILE", "folder:DIR", "csv:FILE",
            "tfrecords:DIR" or "tfds:NAME"; the table in `keras_contrastive.data` says what each is.
        split: "examples": the data's own test part tests; where they bring none, a fifth is held out, stratified by
            label where there are labels, and examples of one `pair_id` stay together. "classes": train and test share
            no class, as in metric learning: the first half of the classes, rounded up, in the order of their labels,
            trains, and the other half tests. Of data with a test part of their own, train keeps the train part's
            images of its classes, and test the test part's images of the others. Images of unknown class (-1) are in
            neither; labels keep their numbers, and `class_names` stay. The classes are the same with every `cache`.
        image_size: Integer > 0: images are made squares of this side by `resize`. None: the source's default.
        seed: Integer >= 0 for the part held out. The split by classes draws nothing.
        cache: What happens to images that have to be decoded (of folders, CSV files and TFRecord shards): "memory":
            all are decoded now and held in memory; "disk": all are decoded now into a file, which later calls find
            again (one for each part of a split by classes); "none": each is decoded whenever it is asked for.
            "auto": "memory" up to 100,000 images and a quarter of the machine's memory, beyond that "none". With
            "memory" and "disk" damaged images are known before a part is held out; with "none" they turn up later,
            and another takes their place. `tfds:` becomes a `Stream` with "none".
        cache_dir: Folder of the disk cache. None: `keras_contrastive` in `$XDG_CACHE_HOME` or `~/.cache`.
        on_damage: "skip": files and records that cannot be read are left out, counted and listed; "stop": the first
            one raises an error that names it.
        max_pixels: Integer > 0: an image whose header says more is not decoded. None: 100,000,000. (GIF,
            BMP and WebP: at most 178,956,970, where Pillow refuses.)

    Returns:
        A `Source`. Files that could not be read are in its `skipped`, and a warning gives their number.

    Raises:
        ValueError: the spec is unknown, or what it names is missing, damaged or not what it must be; or
            `split="classes"` finds no classes to split (streams, pairs, triplets, no labels), or fewer than 2.

    Example:
        >>> source = load("digits")
        >>> len(source.train), len(source.test), source.train.image_shape
        (1297, 500, (16, 16, 1))
    """
    check_choice("split", split, ["examples", "classes"])
    check_integer(0, seed=seed)
    for name, value in {"image_size": image_size, "max_pixels": max_pixels}.items():
        if value is not None:
            check_integer(1, **{name: value})
    check_choice("cache", cache, ["auto", "memory", "disk", "none"])
    check_choice("on_damage", on_damage, ["skip", "stop"])
    kind, colon, argument = str(spec).partition(":")
    if kind not in SOURCES:
        raise ValueError(_unknown(spec))
    form, read = SOURCES[kind]
    if bool(argument) != (form != kind) or (colon and not argument):
        raise ValueError(
            f"`spec` of this kind must have the form {form!r}. Received: spec={spec!r}."
        )
    if cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        cache_dir = Path(home).expanduser() / "keras_contrastive"
    cache_dir = Path(cache_dir)
    options = Options(split, image_size, seed, cache, cache_dir, on_damage, max_pixels)
    found = read(argument or kind, options)
    train, test = _split(found, options)
    source = Source(found.name, train, test, found.skipped, found.pair_ids)
    if source.skipped:
        warnings.warn(
            f"{len(source.skipped)} files could not be read and are left out; the first: {source.skipped[0]}",
            stacklevel=2,
        )
    return source


def _digits(name, options) -> Found:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    names = [str(name) for name in digits.target_names]
    part = _part(images, digits.target, names, options.image_size or DIGITS_SIZE)
    return Found(name, [part], test_size=DIGITS_TEST)


def _keras_dataset(name, options) -> Found:
    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    # Whatever a download can end in; Keras raises a bare `Exception`.
    except Exception as error:
        raise ValueError(
            f"`keras.datasets.{name}` could not be loaded: {_line(error)}"
        ) from error
    names = _CLASS_NAMES.get(name)
    parts = [
        _part(images, labels, names, options.image_size)
        for images, labels in ((x_train, y_train), (x_test, y_test))
    ]
    return Found(name, parts)


def _npz(file, options) -> Found:
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
            names = arrays.get("class_names")
            return _part(images, labels, names, options.image_size)
        except ValueError as error:
            raise ValueError(
                f"`x_{suffix}`, `y_{suffix}` in '{path}': {error}"
            ) from error

    train = part("train")
    if "x_test" not in arrays:
        return Found(path.stem, [train])
    test = part("test")
    if test.image_shape != train.image_shape:
        raise ValueError(
            f"`x_train` and `x_test` in '{path}' must have images of one shape. "
            f"Received: {train.image_shape} and {test.image_shape}. Give `image_size` to make them equal."
        )
    return Found(path.stem, [train, test])


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


def _folder(folder, options) -> Found:
    _need_pillow("folder:DIR")
    path = Path(folder).expanduser()
    skipped: list[str] = []
    found, class_names = list_folder(path, skipped)
    parts = [
        _files(paths, labels, class_names, options, skipped)
        for _, paths, labels in found
    ]
    return Found(path.resolve().name or "folder", parts, skipped)


def _csv(file, options) -> Found:
    _need_pillow("csv:FILE")
    path = Path(file).expanduser()
    skipped: list[str] = []
    table = read_table(path, skipped)
    part = _files(table.paths, table.labels, table.class_names, options, skipped)
    if table.rows is not None:
        part = Given(part, table.rows)
    parts = [part]
    if table.in_test is not None:
        parts = [part.take(np.flatnonzero(w)) for w in (~table.in_test, table.in_test)]
    return Found(path.stem, parts, skipped, pair_ids=table.grouped)


def _files(paths, labels, class_names, options, skipped) -> FilePart:
    return FilePart(
        paths,
        labels,
        class_names,
        image_size=options.image_size or FOLDER_SIZE,
        on_damage=options.on_damage,
        max_pixels=options.max_pixels,
        skipped=skipped,
    )


def _tfrecords(folder, options) -> Found:
    _need_pillow("tfrecords:DIR")
    path = Path(folder).expanduser()
    if not path.exists():
        raise ValueError(f"There is no folder or file '{path}'.")
    skipped: list[str] = []
    names = [""]
    if path.is_dir() and shards_of(path, "train"):
        names = ["train", "test"] if shards_of(path, "test") else ["train"]
    parts = [
        RecordPart(
            path,
            name,
            image_size=options.image_size,
            on_damage=options.on_damage,
            max_pixels=options.max_pixels,
            skipped=skipped,
        )
        for name in names
    ]
    path = path.resolve()
    name = path.stem if path.is_file() else path.name
    return Found(name, parts, skipped)


def _need_pillow(form: str) -> None:
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise ValueError(f"`{form}` needs Pillow: pip install pillow.") from error


def _split(found: Found, options: Options) -> tuple | list:
    """The train and the test part, decoded as `cache` says: here alone it is decided what is in which."""
    parts = found.parts
    if options.split == "classes":  # refused, if it must be, before all is decoded
        parts = split_by_class(parts, pair_ids=found.pair_ids)
    with warnings.catch_warnings():
        # About single files; here they count or they do not.
        warnings.filterwarnings("ignore", module="PIL")
        parts = [_cached(part, options) for part in parts]
    if len(parts) == 1:
        (whole,) = parts
        groups = _groups(whole, found.pair_ids)
        parts = hold_out(whole, options.seed, found.test_size, groups=groups)
    return parts


def _groups(part, pair_ids: bool):
    """Which examples must not be parted by the split: those of a pair id, pairs that share an image."""
    if isinstance(part, Given):
        return part.groups if len(np.unique(part.groups)) > 1 else None
    return part.labels if pair_ids else None


def _cached(part: Examples | Stream, options: Options) -> Examples | Stream:
    if not isinstance(part, DecodedExamples):  # in memory already, or a stream
        return part
    mode = options.cache
    images = part.examples if isinstance(part, Given) else part
    size = len(images) * int(np.prod(images.image_shape))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mode == "auto":
        small = len(images) <= AUTO_IMAGES and size <= AUTO_SHARE * memory
        mode = "memory" if small else "none"
    if mode == "none":
        return part
    if mode == "memory" and size > 0.9 * memory:
        raise ValueError(
            f'{len(images)} images of {images.image_shape} are {size / 1e9:.0f} GB, too much for `cache="memory"` on '
            'this machine. Use "disk" or "none", or a smaller `image_size`.'
        )
    if mode == "memory":
        decoded, kept = read_into_memory(images)
    else:
        decoded, kept = read_through_disk(images, options.cache_dir)
    return part.over(decoded, kept) if isinstance(part, Given) else decoded


def _tfds(name, options) -> Found:
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
    size = options.image_size
    if options.cache == "none":
        return _tfds_streams(tfds, builder, short, options)
    names = [name for name in ("train", "test") if name in splits]
    return Found(short, [_tfds_part(tfds, builder, name, size) for name in names])


def _tfds_streams(tfds, builder, name, options) -> Found:
    """Streams of undecoded images; without a split `test`, the last fifth of `train` is held out."""
    image_key, label_key, _ = _tfds_keys(builder)
    features, splits = builder.info.features, builder.info.splits
    shape = features[image_key].shape
    size = options.image_size or (shape[0] if shape[0] == shape[1] else None)
    names = ["train", "test"]
    if "test" not in splits:
        names = ["train[:80%]", "train[80%:]"]

    label = features[label_key] if label_key in features else None
    has_classes = getattr(label, "names", None) is not None

    def example(example):
        found = {"image": example[image_key]}
        return {**found, "label": example[label_key]} if has_classes else found

    def stream(split):
        dataset = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders={image_key: tfds.decode.SkipDecoding()},
        )
        return Stream(
            dataset.map(example),
            image_size=size or FOLDER_SIZE,
            channels=shape[2] or 3,
            on_damage=options.on_damage,
            max_pixels=options.max_pixels,
        )

    return Found(name, [stream(split) for split in names])


def _tfds_keys(builder) -> tuple:
    """The names of the image and the label, and whether the set is made of such pairs."""
    features, supervised = builder.info.features, builder.info.supervised_keys
    if supervised and not all(isinstance(key, str) for key in supervised):
        supervised = None  # nested keys: of a set for another task
    image_key, label_key = supervised or ("image", "label")
    if image_key not in features or len(features[image_key].shape) != 3:
        raise ValueError(
            f"'tfds:{builder.info.name}' has no feature `{image_key}` that is an image."
        )
    return image_key, label_key, supervised


def _tfds_part(tfds, builder, split, image_size) -> Part:
    features = builder.info.features
    image_key, label_key, supervised = _tfds_keys(builder)
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
        kind = {".csv": "csv", ".tsv": "csv", ".tfrecord": "tfrecords"}
        hints = [f"{kind.get(Path(str(spec)).suffix, 'npz')}:{spec}"]
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

# How it is written, and the function `(what follows the colon, or the name; Options) -> Found`.
SOURCES = {
    "digits": ("digits", _digits),
    "mnist": ("mnist", _keras_dataset),
    "fashion_mnist": ("fashion_mnist", _keras_dataset),
    "cifar10": ("cifar10", _keras_dataset),
    "cifar100": ("cifar100", _keras_dataset),
    "npz": ("npz:FILE", _npz),
    "folder": ("folder:DIR", _folder),
    "csv": ("csv:FILE", _csv),
    "tfrecords": ("tfrecords:DIR", _tfrecords),
    "tfds": ("tfds:NAME", _tfds),
}
