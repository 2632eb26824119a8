"""One training from its options to the files of its run folder. Imported after TensorFlow has come quietly."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import sys
from pathlib import Path

import keras
import numpy as np
from _console import Failure, note, show_measures, write_lines
from _progress import RunHistory, TrainingProgress
from _run_folder import COLLAPSED, RunFolder

import keras_contrastive as kc

# At most so many images to judge by, of train and test, where they are not all in memory.
JUDGED_TRAIN, JUDGED_TEST = 20_000, 5_000
DRAWN = (
    "digits",
    "mnist",
)  # sets of handwritten digits, which are never mirrored or recoloured
SMALL_IMAGE = 32  # pixels: up to here, auto takes the weaker crops and colours
PROBE_IMAGES = 1000  # how many training images the kNN during training looks at
SHOWN_IMAGES = 500  # how many of them TensorBoard's pictures are made of
WATCHED_IMAGES = 256  # how many a collapse is looked for in, after every epoch


class Job:
    """One training: the model and its data, from the first step to the files of the run folder."""

    def __init__(self, options: dict, asked: dict):
        """`options` are those of all methods; of `asked` are some methods only, and only what was given is there."""
        self.method = kc.recipes.get(options["method"])
        options, self.own = settled(options, asked, self.method)
        make_encoder = kc.encoders.get(options["encoder"])
        if options["augment"] != "auto":
            kc.augment.get(options["augment"])
        keras.mixed_precision.set_global_policy(options["precision"])
        self.source = source = load_as(options)
        self.train_images = images_of(source.train, options["data"])
        self.judged = judged_by(source, options["data"])
        self.options = options = {
            **options,
            "batch_size": options["batch_size"]
            or min(self.method.batch_size, len(source.train)),
            "augment": augment_name(options, source.train.image_shape[0]),
        }
        _check_images(self.judged)
        if not 2 <= options["batch_size"] <= len(source.train):
            raise Failure(
                f"--batch-size must be from 2 to the number of training images, {len(source.train)}. "
                f"Received: {options['batch_size']}."
            )
        self.train_part = known_labels(source.train, options)
        self.steps = int(self._batches(0, 0).cardinality())
        keras.utils.set_random_seed(options["seed"])
        size, _, channels = source.train.image_shape
        self.recipe = make_recipe(options, size, self.steps * options["epochs"])
        self.encoder = make_encoder(encoder_shape(options, size, channels))
        if options["init"] is not None:
            kc.encoders.load_weights(self.encoder, weights_file(options["init"]))
        self.model = self.method.make(
            self.encoder,
            **{
                name: options[name]
                for name in OPTIMIZATION
                if options[name] is not None
            },
            batch_size=options["batch_size"],
            augment=self.recipe,
            augment_on=options["augment_on"],
            steps=self.steps * options["epochs"],
            seed=options["seed"],
            **self.own,
        )
        self.checkpoint = self.watch = None
        self._listed = 0  # files in skipped.txt

    @property
    def config(self) -> dict:
        """What makes this run what it is: one that differs in any of it is another."""
        train = self.source.train
        facts = {
            "train_images": len(train),
            "image_shape": list(train.image_shape),
            "images_crc32": train.fingerprint,
        }
        return {"version": kc.__version__, **self.options, **self.own, **facts}

    def claim(self, folder):
        """Write the configuration of a new run; refuse to go on with one of another configuration."""
        if not folder.started:
            folder.write("config.json", self.config)
            return
        made = folder.read("config.json")
        for name, value in self.config.items():
            if made.get(name) != value:
                raise Failure(
                    f"'{folder}' was made with {name}={made.get(name)!r}, this is {name}={value!r}. "
                    "Resume it as it was made, or start anew with --overwrite."
                )

    def run(self, folder):
        """Announce, train, judge, draw, export."""
        self._list_skipped(folder)
        self._announce(folder)
        untrained = self._features()  # before the weights of a checkpoint come in
        history = self._fit(folder)
        self._list_skipped(folder)  # with what was found on the way
        self._finish(folder, history, untrained)

    def _list_skipped(self, folder):
        """Write down what could not be read, if that is more than before."""
        skipped = self.source.skipped
        if len(skipped) > self._listed:
            self._listed = len(skipped)
            write_lines(folder / "skipped.txt", skipped)
            note(
                f"skipped   {len(skipped)} files or records, listed in {folder}/skipped.txt"
            )

    def save_now(self):
        """Save a checkpoint, if training has begun."""
        if self.checkpoint is not None:
            self.checkpoint.save()

    def _announce(self, folder):
        options, train, encoder = self.options, self.source.train, self.model.encoder
        size = " x ".join(str(side) for side in train.image_shape)
        labelled = [
            len(kc.report.labelled_rows(part))
            for part in (self.judged.train, self.judged.test)
        ]
        labels = (
            "labelled"
            if all(labelled)
            else "not both labelled, so nothing to measure by"
        )
        own = ", ".join(f"{name} {value}" for name, value in self.own.items())
        optimizer = self.model.optimizer
        optimizer = type(getattr(optimizer, "inner_optimizer", optimizer)).__name__
        start = "" if options["init"] is None else f", going on from {options['init']}"
        note(
            f"data      {options['data']}: {len(train)} images to train on, {len(self.source.test)} to "
            f"judge by, {size}, {labels}\n"
            f"method    {options['method']} ({own or 'settings of the paper'}), views by {options['augment']}\n"
            f"encoder   {options['encoder']}: {encoder.count_params():,} weights, "
            f"{encoder.output_shape[-1]} features, {options['precision']}{start}\n"
            f"training  {options['epochs']} epochs of {self.steps} steps, batch size "
            f"{options['batch_size']}, {optimizer} at {self._peak_rate():.4g}, seed {options['seed']}\n"
            f"folder    {folder}"
        )

    def _peak_rate(self) -> float:
        """The largest learning rate of the schedule."""
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return inner.get_config()["learning_rate"]["config"]["learning_rate"]

    def _fit(self, folder) -> RunHistory:
        epochs = self.options["epochs"]
        watches = self._watches(folder)  # what they compare with is of before a restore
        self.checkpoint = kc.callbacks.RunCheckpoint(folder / "checkpoints", every=50)
        done = self.checkpoint.restore(self.model)
        epoch, step = divmod(done, self.steps)
        if done:
            note(f"resuming after step {done} of {self.steps * epochs}")
        history = RunHistory(folder, first_epoch=epoch)
        progress = TrainingProgress(self.steps, epochs, done)
        watching = [
            *self._probes(),
            *watches,
            kc.callbacks.Throughput(self.options["batch_size"]),
            kc.callbacks.LearningRate(),
            history,
            self.checkpoint,
            *self._tensorboard(folder),
        ]
        options = {
            "callbacks": [kc.callbacks.StopOnNaN(), *watching, progress],
            "verbose": 0,
            "shuffle": False,  # the dataset shuffles
        }
        try:
            if step:  # the rest of the epoch that was cut
                self.model.fit(
                    self._dataset(epoch, step),
                    initial_epoch=epoch,
                    epochs=epoch + 1,
                    steps_per_epoch=self.steps - step,
                    **options,
                )
                epoch += 1
            if epoch < epochs:
                self.model.fit(
                    self._dataset(epoch, 0),
                    initial_epoch=epoch,
                    epochs=epochs,
                    **options,
                )
        finally:
            progress.close()
        return history

    def _dataset(self, epoch, step):
        seed = self.options["seed"]
        dataset = self._batches(epoch, step)
        if self.options["augment_on"] == "pipeline":
            done = epoch * self.steps + step
            return kc.augment.map_dataset(dataset, self.recipe, seed=seed, step=done)
        return kc.augment.copy_ahead(dataset)

    def _batches(self, epoch, step):
        make, options = self.method.dataset, {}
        if self.source.pair_ids:  # what belongs together is given, if not by pairs
            make = kc.data.pairs if make is kc.data.batches else make
            options = {"by": "label"}
        if self.options["labels_per_class"] is not None:
            make = kc.data.partly_labelled
        return make(
            self.train_part,
            self.options["batch_size"],
            seed=self.options["seed"],
            epoch=epoch,
            step=step,
            **options,
        )

    def _probes(self) -> list:
        """kNN on some training images during training: the test part is for the end alone."""
        train = self.judged.train
        labelled = kc.report.labelled_rows(train)
        some = np.random.default_rng(0).permutation(labelled)[:PROBE_IMAGES]
        queries, known = np.split(some, [len(some) // 5])
        if len(queries) == 0:
            return []
        probe = kc.callbacks.KNNProbe(
            train.images[known],
            train.labels[known],
            train.images[queries],
            train.labels[queries],
            k=min(kc.report.NEIGHBOURS, len(known)),
            every=self._now_and_then,
        )
        return [probe]

    def _watches(self, folder) -> list:
        """Geometry now and then, a collapse at once, on training images; both need some."""
        images, _ = self._some_training_images(WATCHED_IMAGES)
        if len(images) < WATCHED_IMAGES // 4:
            return []
        self.watch = kc.callbacks.CollapseWatch(images)
        self.watch.set_model(self.model)
        self.watch.on_train_begin()
        keep = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self._keep_warning(folder)
        )
        geometry = kc.callbacks.Geometry(images, every=self._now_and_then)
        return [geometry, self.watch, keep]

    def _keep_warning(self, folder) -> None:
        """Write down a collapse as soon as it is found, and at last whether it has passed."""
        watch = self.watch
        if watch is None or watch.reason is None:
            return
        line = f"{COLLAPSED} {watch.reason}."
        if watch.current is None:
            line = f"There was an alarm of a collapse in {watch.reason}; it has passed."
        write_lines(folder / "warnings.txt", [line])

    def _tensorboard(self, folder) -> list:
        directory = str(folder / "tensorboard")
        batch = next(iter(self._dataset(0, 0)))[0].numpy()
        images, known = batch, {}
        if batch.ndim == 4:  # else it has views already, which are shown as they are
            images, known = self._some_training_images(SHOWN_IMAGES)
        pictures = kc.callbacks.TensorBoardPictures(
            directory, images, every=self._now_and_then, **known
        )
        test = self.judged.test
        projector = kc.callbacks.EmbeddingProjector(
            directory,
            test.images,
            test.labels,
            class_names=test.class_names,
            every=max(10, self.options["epochs"] // 4),
        )
        board = keras.callbacks.TensorBoard(directory, write_graph=False)
        return [board, pictures, projector]

    def _some_training_images(self, most: int) -> tuple[np.ndarray, dict]:
        """Images that are trained on, the same in every run, and what is known of their classes."""
        train = self.judged.train
        some = np.random.default_rng(1).permutation(len(train))[:most]
        if train.labels is None:
            return train.images[some], {}
        known = {"labels": train.labels[some], "class_names": train.class_names}
        return train.images[some], known

    @property
    def _now_and_then(self) -> int:
        return max(1, self.options["epochs"] // 10)

    def _features(self) -> tuple:
        return features_of(self.model, self.judged)

    def _finish(self, folder, history, untrained):
        trained = self._features()
        self.model.save(folder / "model.keras")
        before = "untrained" if self.options["init"] is None else "before"
        self._draw(folder, {before: untrained[1], "trained": trained[1]})
        measures = _measure(self.judged, {before: untrained, "trained": trained})
        images = sum(row["steps"] for row in history.rows) * self.options["batch_size"]
        seconds = sum(row["seconds"] for row in history.rows)
        speed = {"seconds": seconds, "images_per_second": images / seconds}
        kc.export.save(
            self.model,
            folder / "saved_model" / "1",
            image_size=self.source.train.image_shape[0],
            card={**folder.card(), "figures": {**measures, **speed}},
        )
        folder.write(
            "metrics.json", {"history": history.columns(), **measures, **speed}
        )
        show_measures(measures)
        note(
            f"trained in {seconds:.0f} s, {speed['images_per_second']:.0f} images a second"
        )
        _show_next(folder)

    def _draw(self, folder, maps):
        pictures, test = kc.pictures, self.judged.test
        known = {"labels": test.labels, "class_names": test.class_names}
        pictures.save(pictures.embedding_map(maps, **known), folder / "embeddings.png")
        pictures.save(
            pictures.neighbours(test.images, maps["trained"], **known),
            folder / "neighbours.png",
        )
        shown = some_views(self.judged.train, self.recipe, self.options["seed"])
        pictures.save(pictures.views(*shown), folder / "views.png")


# Arguments of every recipe that the script has too, where they are not the recipe's own.
OPTIMIZATION = ("optimizer", "learning_rate", "weight_decay")
# Where a set is best served by others: chosen on a part of the training images.
DEFAULTS_OF = {
    ("digits", "simclr"): {"temperature": 1.0, "projection_layers": 1},
}


def settled(options: dict, asked: dict, method) -> tuple[dict, dict]:
    """All options with their values, and the method's own: what was asked for, else as --settings has it."""
    name, settings, data = (options[key] for key in ("method", "settings", "data"))
    if settings == "cifar10" and method.cifar10 is None:
        having = [name for name, entry in kc.recipes.RECIPES.items() if entry.cifar10]
        raise Failure(
            f"There are no published settings of {name} for CIFAR-10. Choose --settings small or paper, or one of the "
            f"methods that have some: {', '.join(having)}."
        )
    known = inspect.signature(method.make).parameters
    for option in asked:
        if option not in known:
            flag = option.replace("_", "-")
            raise Failure(f"--{flag} is not an option of {name}.")
    own, usual = {}, {"epochs": method.epochs, "encoder": method.encoder}
    if settings == "small":
        own = {**method.options, **DEFAULTS_OF.get((data, name), {})}
        if data == "digits":
            usual["encoder"] = "small_conv_net"
        if options["optimizer"] in (None, "adam"):
            usual |= {"optimizer": "adam", "learning_rate": method.learning_rate}
        usual["weight_decay"] = 0.0
    elif settings == "cifar10":
        own = dict(method.cifar10)
        usual |= {"encoder": "resnet18", "epochs": 1000, "batch_size": 256}
        usual |= {name: own.pop(name) for name in (*OPTIMIZATION, "augment")}
    chosen = {
        option: usual.get(option) if value is None else value
        for option, value in options.items()
    }
    chosen["augment"] = chosen["augment"] or "auto"
    return chosen, {**own, **asked}


def known_labels(part, options):
    """The training part with so many labels as the run may know."""
    if options["labels_per_class"] is None:
        return part
    if options["method"] != "supcon":
        raise Failure(
            f"--labels-per-class is for a method that uses labels: supcon. Received: --method {options['method']}."
        )
    return kc.data.keep_labels(part, options["labels_per_class"], seed=options["seed"])


def make_recipe(options, image_size: int, steps: int | None = None):
    """The recipe of the views; DINO's crops are not SwAV's, and those of `fast` grow."""
    own = {}
    if options["augment"] == "multi_crop" and options["method"] == "dino":
        own = {"style": "dino"}
    if options["augment"] == "fast":
        own = {"steps": steps}
    return kc.augment.get(options["augment"])(image_size, **own)


def encoder_shape(options, image_size: int, channels: int) -> tuple:
    """Images of one size; of any, where the views have another or several."""
    if options["augment"] in ("fast", "multi_crop"):
        return (None, None, channels)
    return (image_size, image_size, channels)


def weights_file(init: str):
    """The file that --init names: a run's model, or itself."""
    path = Path(init)
    if path.is_dir():
        return RunFolder(path).model_file()
    if not path.is_file():
        raise Failure(f"--init: there is no run folder or file '{init}'.")
    return path


def load_as(options) -> kc.data.Source:
    """The source that the options of a run name."""
    return kc.data.load(
        options["data"],
        image_size=options["image_size"],
        seed=options["seed"],
        # Runs of earlier versions had no choice.
        split=options.get("split", "examples"),
        cache=options.get("cache", "auto"),
        on_damage=options.get("on_damage", "skip"),
        max_pixels=options.get("max_pixels"),
    )


def images_of(part, spec: str) -> kc.data.Examples:
    """The single images of a part: of given pairs and triplets, those that they are made of."""
    if isinstance(part, kc.data.Stream):
        raise Failure(
            f"'{spec}' is a stream here, which scripts do not read. Write it as shards first (scripts/make_tfrecords.py), "
            "or, where it was given, leave out --cache none."
        )
    return part.examples if isinstance(part, kc.data.Given) else part


def judged_by(source, spec: str) -> kc.data.Source:
    """What a run is judged by, in memory: all images that are there already, or some of those on disk."""
    parts = []
    for part, most in ((source.train, JUDGED_TRAIN), (source.test, JUDGED_TEST)):
        part = images_of(part, spec)
        if not isinstance(part, kc.data.Part):
            some = np.random.default_rng(0).permutation(len(part))[:most]
            part = part.take(np.sort(some)).in_memory()
        if source.pair_ids:  # no classes to judge by
            part = kc.data.Part(part.images)
        parts.append(part)
    return kc.data.Source(source.name, *parts)


def some_views(part, recipe, seed: int) -> tuple:
    """Six images of a part, and six views of each, or as many as the recipe makes."""
    images = part.images
    images = images[:: max(1, len(images) // 6)][:6]
    number = max(6, recipe.num_views)
    return images, kc.augment.views(images, number, recipe, seed, 0)


def features_of(model, source) -> tuple:
    """The features of the train and the test images."""
    parts = (source.train.images, source.test.images)
    return tuple(model.predict(images, batch_size=256, verbose=0) for images in parts)


def fitted_probe(model, config: dict) -> tuple:
    """A linear probe on the labelled images of a run, judged on its test part; and the names of the classes, or None."""
    source = judged_by(load_as(config), config["data"])
    train, test = (
        kc.report.labelled_rows(part) for part in (source.train, source.test)
    )
    if len(train) == 0 or len(test) == 0 or config.get("split") == "classes":
        raise Failure(
            "A probe needs labelled images to train on and others of the same classes to be judged by. "
            f"'{config['data']}' has none, or was split by classes."
        )
    features = features_of(model, source)
    probe = kc.evaluation.linear_probe(
        features[0][train],
        source.train.labels[train],
        features[1][test],
        source.test.labels[test],
    )
    return probe, source.train.class_names


def made_by(model, file):
    """The index in what scripts/embed.py has written, if it was this model that embedded the images."""
    index = kc.search.Index.load(file)
    with np.load(file, allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"])) if "about" in arrays else {}
    if about.get("model_weights") != kc.export.fingerprint(model):
        raise Failure(
            f"'{file}' was not made by this run's encoder, so its embeddings cannot be searched by it. Export the run, "
            "and embed the images with that: scripts/embed.py."
        )
    return index


def _measure(source, representations: dict) -> dict:
    pixels = (source.train.images, source.test.images)
    return kc.report.measure(source, {"pixels": pixels, **representations})


def _check_images(source) -> None:
    """Refuse before the training what could not be drawn, measured or exported after it."""
    if len(source.test) < 2:
        raise Failure(
            f"There must be two images or more to judge by. Found {len(source.test)} in the test part."
        )
    height, width, channels = source.train.image_shape
    if height != width or channels not in (1, 3):
        raise Failure(
            "Images must be square, with 1 or 3 channels; --image-size S makes them square. "
            f"Received: {height} x {width} with {channels} channels."
        )


def augment_name(options, image_size: int) -> str:
    """The recipe's name; auto: digits are never mirrored or recoloured, small images lose less, `fast` has its own."""
    if options["augment"] != "auto":
        return options["augment"]
    if options["data"] in DRAWN:
        return "digits"
    if options.get("method") is not None:
        own = kc.recipes.get(options["method"]).augment
        if own != "auto":
            return own
    return "simclr_small" if image_size <= SMALL_IMAGE else "simclr"


def _show_next(folder):
    here = shlex.quote(str(folder))
    python = shlex.quote(os.path.relpath(sys.executable))
    print(
        f"\nIn {folder}: embeddings.png, neighbours.png, views.png, model.keras, saved_model/1, metrics.json\n"
        "Next:\n"
        f"  {python} -m tensorboard.main --logdir {here}/tensorboard\n"
        f"  {python} scripts/evaluate.py {here}\n"
        f"  {python} scripts/export.py {here} --versions served"
    )
