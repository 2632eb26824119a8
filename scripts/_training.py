"""One training from its options to the files of its run folder. Imported after TensorFlow has come quietly."""

from __future__ import annotations

import os
import shlex
import sys

import keras
import numpy as np
from _console import Failure, note, show_measures, write_lines
from _progress import RunHistory, TrainingProgress

import keras_contrastive as kc

# At most so many images to judge by, of train and test, where they are not all in memory.
JUDGED_TRAIN, JUDGED_TEST = 20_000, 5_000
SMALL_IMAGE = 32  # pixels: up to here, auto takes the weaker crops and colours
PROBE_IMAGES = 1000  # how many training images the kNN during training looks at


class Job:
    """One training: the model and its data, from the first step to the files of the run folder."""

    def __init__(self, options):
        self.method = kc.recipes.get(options["method"])
        make_encoder = kc.encoders.get(options["encoder"])
        if options["augment"] != "auto":
            kc.augment.get(options["augment"])
        if options["augment"] == "multi_crop":
            raise Failure(
                "--augment multi_crop makes views of two sizes, and the encoders of this script take one. "
                "`ContrastiveModel` takes it with an encoder of any size."
            )
        keras.mixed_precision.set_global_policy(options["precision"])
        self.source = source = load_as(options)
        self.train_images = images_of(source.train, options["data"])
        self.judged = judged_by(source, options["data"])
        self.options = options = {
            **options,
            "epochs": options["epochs"] or self.method.epochs,
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
        self.steps = int(self._batches(0, 0).cardinality())
        keras.utils.set_random_seed(options["seed"])
        encoder = make_encoder(source.train.image_shape)
        self.recipe = kc.augment.get(options["augment"])(source.train.image_shape[0])
        self.model = self.method.make(
            encoder,
            learning_rate=options["learning_rate"],
            augment=self.recipe,
            augment_on=options["augment_on"],
            steps=self.steps * options["epochs"],
            seed=options["seed"],
            **{name: options[name] for name in self.method.options},
        )
        self.checkpoint = None
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
        return {"version": kc.__version__, **self.options, **facts}

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
        own = ", ".join(f"{name} {options[name]}" for name in self.method.options)
        note(
            f"data      {options['data']}: {len(train)} images to train on, {len(self.source.test)} to "
            f"judge by, {size}, {labels}\n"
            f"method    {options['method']} ({own}), views by {options['augment']}\n"
            f"encoder   {options['encoder']}: {encoder.count_params():,} weights, "
            f"{encoder.output_shape[-1]} features, {options['precision']}\n"
            f"training  {options['epochs']} epochs of {self.steps} steps, batch size "
            f"{options['batch_size']}, Adam at {options['learning_rate']}, seed {options['seed']}\n"
            f"folder    {folder}"
        )

    def _fit(self, folder) -> RunHistory:
        epochs = self.options["epochs"]
        self.checkpoint = kc.callbacks.RunCheckpoint(folder / "checkpoints", every=50)
        done = self.checkpoint.restore(self.model)
        epoch, step = divmod(done, self.steps)
        if done:
            note(f"resuming after step {done} of {self.steps * epochs}")
        history = RunHistory(folder, first_epoch=epoch)
        progress = TrainingProgress(self.steps, epochs, done)
        watching = (
            self._probes() + [history, self.checkpoint] + self._tensorboard(folder)
        )
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
        return make(
            self.source.train,
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

    def _tensorboard(self, folder) -> list:
        directory = str(folder / "tensorboard")
        images = next(iter(self._dataset(0, 0)))[0].numpy()
        pictures = kc.callbacks.TensorBoardPictures(
            directory, images, every=self._now_and_then
        )
        return [keras.callbacks.TensorBoard(directory, write_graph=False), pictures]

    @property
    def _now_and_then(self) -> int:
        return max(1, self.options["epochs"] // 10)

    def _features(self) -> tuple:
        return _features(self.model, self.judged)

    def _finish(self, folder, history, untrained):
        trained = self._features()
        self.model.save(folder / "model.keras")
        kc.export.save(self.model, folder / "saved_model" / "1")
        self._draw(folder, untrained[1], trained[1])
        measures = _measure(self.judged, untrained, trained)
        images = sum(row["steps"] for row in history.rows) * self.options["batch_size"]
        seconds = sum(row["seconds"] for row in history.rows)
        speed = {"seconds": seconds, "images_per_second": images / seconds}
        folder.write(
            "metrics.json", {"history": history.columns(), **measures, **speed}
        )
        show_measures(measures)
        note(
            f"trained in {seconds:.0f} s, {speed['images_per_second']:.0f} images a second"
        )
        _show_next(folder)

    def _draw(self, folder, untrained, trained):
        pictures, test = kc.pictures, self.judged.test
        known = {"labels": test.labels, "class_names": test.class_names}
        maps = {"untrained": untrained, "trained": trained}
        pictures.save(pictures.embedding_map(maps, **known), folder / "embeddings.png")
        pictures.save(
            pictures.neighbours(test.images, trained, **known),
            folder / "neighbours.png",
        )
        images = self.judged.train.images
        images = images[:: max(1, len(images) // 6)][:6]
        views = kc.augment.views(images, 6, self.recipe, self.options["seed"], 0)
        pictures.save(pictures.views(images, views.numpy()), folder / "views.png")


def load_as(options) -> kc.data.Source:
    """The source that the options of a run name."""
    return kc.data.load(
        options["data"],
        image_size=options["image_size"],
        seed=options["seed"],
        cache=options.get("cache", "auto"),  # runs of earlier versions had no choice
        on_damage=options.get("on_damage", "skip"),
        max_pixels=options.get("max_pixels"),
    )


def images_of(part, spec: str) -> kc.data.Examples:
    """The single images of a part: of given pairs and triplets, those that they are made of."""
    if isinstance(part, kc.data.Stream):
        raise Failure(
            f"'{spec}' is a stream here, which scripts do not train on. Leave out --cache none, or write it as "
            "shards first: scripts/make_tfrecords.py."
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


def measure_run(folder, data: str | None) -> dict:
    """The measures of a finished run's saved model, on its own data or on others."""
    config = folder.read("config.json")
    model = keras.models.load_model(folder.model_file())
    shape = model.encoder.input_shape[1:]
    size = config["image_size"] if data is None else shape[0]
    options = {**config, "data": data or config["data"], "image_size": size}
    source = judged_by(load_as(options), options["data"])
    if source.train.image_shape != tuple(shape):
        raise Failure(
            f"The encoder takes images of shape {tuple(shape)}. "
            f"Received: {source.train.image_shape} from {data}."
        )
    keras.mixed_precision.set_global_policy(config["precision"])
    keras.utils.set_random_seed(config["seed"])
    encoder = kc.encoders.get(config["encoder"])(tuple(shape))
    untrained = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss())
    return _measure(source, _features(untrained, source), _features(model, source))


def _features(model, source) -> tuple:
    """The features of the train and the test images."""
    parts = (source.train.images, source.test.images)
    return tuple(model.predict(images, batch_size=256, verbose=0) for images in parts)


def _measure(source, untrained, trained) -> dict:
    pixels = (source.train.images, source.test.images)
    representations = {"pixels": pixels, "untrained": untrained, "trained": trained}
    return kc.report.measure(source, representations)


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
    """The recipe's name; auto: digits are never mirrored or recoloured, small images lose less."""
    if options["augment"] != "auto":
        return options["augment"]
    if options["data"] in ("digits", "mnist"):
        return "digits"
    return "simclr_small" if image_size <= SMALL_IMAGE else "simclr"


def _show_next(folder):
    here = shlex.quote(str(folder))
    python = shlex.quote(os.path.relpath(sys.executable))
    print(
        f"\nIn {folder}: embeddings.png, neighbours.png, views.png, model.keras, saved_model/1, metrics.json\n"
        "Next:\n"
        f"  {python} -m tensorboard.main --logdir {here}/tensorboard\n"
        f"  {python} scripts/evaluate.py {here}\n"
        f"  {python} scripts/export.py {here} --out served/1"
    )
