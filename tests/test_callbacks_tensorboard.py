"""The callbacks that write for TensorBoard, and those that add numbers for it: read back and counted by hand."""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig

from keras_contrastive import augment, heads, losses, optimizers, targets
from keras_contrastive._compat import KERAS_3
from keras_contrastive.callbacks import (
    EmbeddingProjector,
    LearningRate,
    TensorBoardPictures,
    Throughput,
    throughput,
)
from keras_contrastive.model import ContrastiveModel

GREEN, ORANGE, WHITE = (0, 158, 115), (213, 94, 0), (255, 255, 255)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 3, 30)


def encoder() -> keras.Model:
    return keras.Sequential(
        [
            keras.layers.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
        ]
    )


def plain_model() -> keras.Model:
    model = encoder()
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", jit_compile=False)
    return model


def contrastive_model(**parts) -> ContrastiveModel:
    recipe = augment.Recipe([augment.RandomFlip()])
    model = ContrastiveModel(
        encoder(), losses.NTXentLoss(), augment=recipe, seed=5, **parts
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    return model


def fit(model, images, *, epochs=1, callbacks=()):
    """Two steps to an epoch."""
    rows = images
    if not isinstance(model, ContrastiveModel):
        rows = images.astype(np.float32), np.zeros((len(images), 8), np.float32)
    dataset = tf.data.Dataset.from_tensor_slices(rows).batch(15)
    return model.fit(
        dataset,
        epochs=epochs,
        verbose=0,
        shuffle=False,
        callbacks=list(callbacks),
    ).history


def fit_plain(optimizer, *, epochs=2, callbacks=(), **options):
    """Two steps of 15 images to an epoch."""
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False, **options)
    rows, targets = np.ones((30, 3), np.float32), np.ones((30, 2), np.float32)
    return model.fit(
        rows,
        targets,
        batch_size=15,
        epochs=epochs,
        verbose=0,
        callbacks=list(callbacks),
    ).history


def events(folder, tag) -> dict:
    """What is written under a tag, by step."""
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {event.step: event.tensor_proto for event in found.Tensors(tag)}


def tags(folder) -> set[str]:
    return set(EventAccumulator(str(folder)).Reload().Tags()["tensors"])


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def neighbour_tiles(proto, rows: int, columns: int):
    """Of a sheet of 4 x 4 images, enlarged 16 times in frames of 8 pixels: the images, and their frames' colours."""
    sheet = tf.io.decode_png(proto.string_val[2]).numpy()
    assert sheet.shape == (rows * 84, columns * 84, 3)
    cells = sheet.reshape(rows, 84, columns, 84, 3).swapaxes(1, 2)
    assert (cells[:, :, [0, 1, 82, 83]] == 255).all()
    framed = cells[:, :, 2:82, 2:82]
    edge = np.concatenate([framed[:, :, :8, :], framed[:, :, -8:, :]], axis=2)
    assert (edge == edge[:, :, :1, :1]).all()  # a frame has one colour
    return framed[:, :, 8:72:16, 8:72:16], edge[:, :, 0, 0]


def test_neighbours_are_the_most_similar_images_framed_by_their_class(
    images, labels, tmp_path
):
    model = contrastive_model()
    callback = TensorBoardPictures(
        tmp_path, images, labels=labels, count=5, batch_size=7
    )
    fit(model, images, callbacks=[callback])
    tiles, frames = neighbour_tiles(events(tmp_path, "neighbours")[1], 5, 7)
    assert (tiles[..., :1] == tiles).all()  # grey
    features = unit(model.predict(images, verbose=0))
    asked = []
    for row, frame in zip(tiles[..., :1], frames):
        (query,) = np.flatnonzero((images == row[0]).all(axis=(1, 2, 3)))
        similarity = features @ features[query]
        similarity[query] = -2
        order = np.argsort(-similarity)[:6]
        np.testing.assert_array_equal(row[1:], images[order])
        assert tuple(frame[0]) == WHITE
        right = labels[order] == labels[query]
        assert [tuple(c) for c in frame[1:]] == [GREEN if r else ORANGE for r in right]
        asked.append(query)
    assert len(set(asked)) == 5
    assert set(labels[asked]) == {0, 1, 2}


@pytest.mark.parametrize("labels", [None, np.full(30, -1)], ids=["none", "unknown"])
def test_neighbours_without_known_labels_have_no_frames(images, labels, tmp_path):
    callback = TensorBoardPictures(tmp_path, images, labels=labels)
    fit(contrastive_model(), images, callbacks=[callback])
    _, frames = neighbour_tiles(events(tmp_path, "neighbours")[0], 8, 7)
    assert (frames == 255).all()


def test_neighbours_are_described_by_the_names_of_their_rows(images, labels, tmp_path):
    names = ["ant", "bee", "cat"]
    options = {"labels": labels, "class_names": names, "count": 3}
    callback = TensorBoardPictures(tmp_path, images, **options)
    fit(contrastive_model(), images, callbacks=[callback])
    found = EventAccumulator(str(tmp_path)).Reload().SummaryMetadata("neighbours")
    assert found.summary_description.endswith("Rows: ant, bee, cat.")


def test_neighbours_of_a_plain_model_need_no_views(images, tmp_path):
    fit(plain_model(), images, callbacks=[TensorBoardPictures(tmp_path, images)])
    assert tags(tmp_path) == {"views", "neighbours"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 4, 4, 1), {"views", "similarity/negative", "similarity/positive"}),
        ((1, 4, 4, 1), {"views", "similarity/positive"}),
        ((30, 2, 4, 4, 1), {"views"}),
    ],
    ids=["no more than rows", "one image", "views already"],
)
def test_what_images_cannot_show_is_left_out(shape, expected, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    training = np.zeros((30, 4, 4, 1), np.uint8)
    fit(
        contrastive_model(), training, callbacks=[TensorBoardPictures(tmp_path, images)]
    )
    assert tags(tmp_path) == expected


def test_neighbours_and_similarities_are_written_at_the_end_as_well(images, tmp_path):
    callback = TensorBoardPictures(tmp_path, images, every=2)
    fit(contrastive_model(), images, epochs=3, callbacks=[callback])
    assert list(events(tmp_path, "views")) == [0, 2]
    for tag in ("neighbours", "similarity/negative", "similarity/positive"):
        assert list(events(tmp_path, tag)) == [0, 2, 3]


def similarities_by_hand(first, second, *, shared: bool):
    """Cosines of views (n, views, dim), pair by pair. `shared`: both sides are the same, so each pair is there twice."""
    positive, negative = [], []
    for i in range(len(first)):
        for j in range(len(second)):
            for v in range(first.shape[1]):
                for w in range(second.shape[1]):
                    if shared and (i, v) >= (j, w):
                        continue
                    cosine = unit(first[i, v]) @ unit(second[j, w])
                    if i != j:
                        negative.append(cosine)
                    elif v != w:
                        positive.append(cosine)
    return np.sort(positive), np.sort(negative)


@pytest.mark.parametrize("has_target", [False, True], ids=["no target", "target"])
def test_similarities_are_those_of_the_views_that_the_loss_compares(
    images, tmp_path, has_target
):
    parts = {"target": targets.MomentumTarget(0.9)} if has_target else {}
    model = contrastive_model(head=heads.mlp(6), **parts)
    callback = TensorBoardPictures(tmp_path, images, batch_size=7)
    fit(model, images, epochs=2, callbacks=[callback])
    views = model.make_views(tf.constant(callback.references), model.step)
    rows, others = (
        None if x is None else x.numpy() for x in model.embed(views, training=False)
    )
    assert (others is not None) == has_target
    by_hand = similarities_by_hand(
        rows, rows if others is None else others, shared=others is None
    )
    for name, cosines in zip(("positive", "negative"), by_hand):
        written = tf.make_ndarray(events(tmp_path, f"similarity/{name}")[2])
        low, high, counts = written.T  # of each bin
        assert counts.sum() == len(cosines)
        np.testing.assert_allclose(low[0], cosines[0], atol=1e-5)
        np.testing.assert_allclose(high[-1], cosines[-1], atol=1e-5)
        below = np.searchsorted(
            cosines, high
        )  # a cosine on an edge may fall either way
        np.testing.assert_allclose(np.cumsum(counts), below, atol=2)


def test_similarities_of_broken_weights_are_left_out(images, tmp_path):
    model = contrastive_model()
    model.encoder.set_weights([w * np.nan for w in model.encoder.get_weights()])
    fit(model, images, callbacks=[TensorBoardPictures(tmp_path, images)])
    assert tags(tmp_path) == {"views", "neighbours"}


def projector_config(folder) -> ProjectorConfig:
    text = (folder / "projector_config.pbtxt").read_text()
    return text_format.Parse(text, ProjectorConfig())


def table(folder, name) -> np.ndarray:
    return np.loadtxt(folder / "projector" / f"{name}.tsv", ndmin=2)


def test_projector_holds_unit_features_before_and_after_training(images, tmp_path):
    model = plain_model()
    before = unit(model.predict(images, verbose=0))
    fit(model, images, epochs=2, callbacks=[EmbeddingProjector(tmp_path, images)])
    after = unit(model.predict(images, verbose=0))
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(table(tmp_path, "untrained"), before, atol=1e-4)
    np.testing.assert_allclose(table(tmp_path, "trained"), after, atol=1e-4)
    trained, untrained = projector_config(tmp_path).embeddings
    assert (trained.tensor_name, untrained.tensor_name) == ("trained", "untrained")
    for embedding in (trained, untrained):
        named = [embedding.tensor_path, embedding.metadata_path]
        for path in [*named, embedding.sprite.image_path]:
            assert (tmp_path / path).is_file()
    assert not list(tmp_path.rglob("*.unfinished"))


def test_projector_of_many_images_shows_a_sample_with_its_labels(images, tmp_path):
    labels = np.arange(30)
    names = [f"class {label}" for label in labels]
    callback = EmbeddingProjector(tmp_path, images, labels, class_names=names, count=10)
    fit(plain_model(), images, callbacks=[callback])
    header, *lines = (tmp_path / "projector/metadata.tsv").read_text().splitlines()
    assert header == "label\timage"
    indices = [int(line.split("\t")[1]) for line in lines]
    assert len(set(indices)) == 10
    assert indices == sorted(indices)
    assert lines == [f"class {index}\t{index}" for index in indices]
    assert len(table(tmp_path, "trained")) == 10
    sprite = tf.io.read_file(str(tmp_path / "projector/sprite.png"))
    sprite = tf.io.decode_png(sprite).numpy()
    sizes = projector_config(tmp_path).embeddings[0].sprite.single_image_dim
    assert list(sizes) == [32, 32]
    assert sprite.shape == (4 * 32, 4 * 32, 3)  # the smallest square of ten
    cells = sprite.reshape(4, 32, 4, 32, 3).swapaxes(1, 2).reshape(16, 32, 32, 3)
    for cell, index in zip(cells, indices):
        np.testing.assert_array_equal(cell[::8, ::8, 1:2], images[index])
    assert (cells[10:] == 255).all()


def test_projector_thumbnails_of_large_photos_are_small_and_keep_their_proportions(
    tmp_path,
):
    photos = np.full((3, 96, 192, 3), 0.2, np.float32)
    model = keras.Sequential(
        [keras.layers.Input((96, 192, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    model.compile(optimizer="sgd", loss="mse")
    callback = EmbeddingProjector(tmp_path, photos)
    callback.set_model(model)
    callback.on_train_begin()
    sprite = tf.io.read_file(str(tmp_path / "projector/sprite.png"))
    sprite = tf.io.decode_png(sprite).numpy()
    assert sprite.shape == (128, 128, 3)
    assert (sprite[16:48] == 51).all()
    assert (sprite[:16] == 255).all()


def test_projector_names_with_tabs_and_new_lines_stay_on_their_line(images, tmp_path):
    names = ["a\tb", "c\nd\r", "é"]
    labels = np.arange(30) % 3
    callback = EmbeddingProjector(tmp_path, images, labels, class_names=names)
    fit(plain_model(), images, callbacks=[callback])
    metadata = (tmp_path / "projector/metadata.tsv").read_bytes().decode()
    assert metadata.startswith("label\timage\na\\tb\t0\nc\\nd\\r\t1\né\t2\na\\tb\t3\n")
    assert metadata.count("\n") == 31


def test_projector_without_labels_names_images_by_their_place(images, tmp_path):
    fit(plain_model(), images, callbacks=[EmbeddingProjector(tmp_path, images)])
    # No header: of one column, TensorBoard would take it for an image.
    metadata = (tmp_path / "projector/metadata.tsv").read_text()
    assert metadata.splitlines() == [str(index) for index in range(30)]


def test_projector_of_a_resumed_run_leaves_the_untrained_features(images, tmp_path):
    model = contrastive_model()
    fit(model, images, callbacks=[EmbeddingProjector(tmp_path, images)])
    untrained, trained = (table(tmp_path, name) for name in ("untrained", "trained"))
    model.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    fit(model, images, callbacks=[EmbeddingProjector(tmp_path, images)])
    np.testing.assert_array_equal(table(tmp_path, "untrained"), untrained)
    assert np.abs(table(tmp_path, "trained") - trained).max() > 1e-3
    fit(model, images, callbacks=[EmbeddingProjector(tmp_path / "new", images)])
    (only,) = projector_config(tmp_path / "new").embeddings
    assert only.tensor_name == "trained"


def test_projector_is_written_every_so_many_epochs(images, tmp_path):
    there = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: there.append(
            (tmp_path / "projector/trained.tsv").exists()
        )
    )
    callback = EmbeddingProjector(tmp_path, images, every=2)
    fit(plain_model(), images, epochs=3, callbacks=[callback, watch])
    assert there == [False, True, True]


def test_projector_makes_the_folder_a_run_without_a_second_event_file(images, tmp_path):
    projector = EmbeddingProjector(tmp_path / "alone", images)
    fit(plain_model(), images, callbacks=[projector])
    assert len(list((tmp_path / "alone").glob("events.out.tfevents.*"))) == 1
    both = [
        TensorBoardPictures(tmp_path / "both", images),
        EmbeddingProjector(tmp_path / "both", images),
    ]
    fit(plain_model(), images, callbacks=both)
    assert len(list((tmp_path / "both").glob("events.out.tfevents.*"))) == 1


def test_callbacks_leave_the_training_as_it_would_have_been(images, labels, tmp_path):
    weights = []
    for callbacks in (
        [],
        [
            TensorBoardPictures(tmp_path, images, labels=labels),
            EmbeddingProjector(tmp_path, images, labels, every=1),
            LearningRate(),
            Throughput(15),
        ],
    ):
        keras.utils.set_random_seed(3)  # of the initial weights, and of dropout
        model = contrastive_model(head=heads.mlp(6))
        fit(model, images, epochs=3, callbacks=callbacks)
        weights.append(model.get_weights())
    for without, with_callbacks in zip(*weights):
        np.testing.assert_array_equal(without, with_callbacks)


def clock(monkeypatch, *seconds) -> None:
    """Let `Throughput` read these times, one after the other."""
    times = iter(seconds)
    fake = types.SimpleNamespace(perf_counter=lambda: next(times))
    monkeypatch.setattr(throughput, "time", fake)


def test_throughput_counts_from_the_end_of_the_first_step_of_a_fit(monkeypatch):
    # Epoch 1: the end of each step; epoch 2: the beginning of the first as well.
    clock(monkeypatch, 10.0, 12.0, 20.0, 21.0, 30.0)
    history = fit_plain("sgd", callbacks=[Throughput(15)])
    assert history["images_per_second"] == [15 / 2, 30 / 10]


def test_throughput_of_one_step_alone_is_left_out(monkeypatch):
    clock(monkeypatch, *[1.0, 2.0, 5.0] * 2)
    callback = Throughput(15)
    for _ in range(2):  # a second fit compiles anew
        history = fit_plain("sgd", callbacks=[callback], steps_per_execution=2)
        assert history["images_per_second"] == [30 / 3]  # of the second epoch


def test_throughput_is_of_a_credible_size():
    history = fit_plain("sgd", epochs=3, callbacks=[Throughput(15)])
    assert all(15 < value < 1e7 for value in history["images_per_second"])


def schedule():
    return optimizers.WarmupCosine(0.5, steps=8, warmup_steps=2)


def test_learning_rate_of_a_schedule_is_that_of_the_next_step(tmp_path):
    tensorboard = keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)
    history = fit_plain(
        keras.optimizers.Adam(schedule()),
        epochs=4,
        callbacks=[LearningRate(), tensorboard],
    )
    expected = [0.5 * (1 + np.cos(np.pi * step / 6)) / 2 for step in (0, 2, 4, 6)]
    assert history["learning_rate"] == pytest.approx(expected, abs=1e-6)
    assert all(type(rate) is float for rate in history["learning_rate"])
    shown = events(tmp_path / "train", "epoch_learning_rate")
    rates = [float(tf.make_ndarray(proto)) for proto in shown.values()]
    assert rates == pytest.approx(history["learning_rate"])


def test_learning_rate_that_another_callback_sets_is_seen():
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (epoch + 1))
    history = fit_plain("sgd", callbacks=[scheduler, LearningRate()])
    assert history["learning_rate"] == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("rate", [0.25, schedule()], ids=["number", "schedule"])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_learning_rate_of_our_optimizers_and_with_a_loss_scale(rate, policy):
    keras.mixed_precision.set_global_policy(policy)
    optimizer = optimizers.LARS(rate)
    history = fit_plain(optimizer, epochs=1, callbacks=[LearningRate()])
    done = int(np.asarray(tf.convert_to_tensor(optimizer.iterations)))
    expected = rate if isinstance(rate, float) else float(rate(done))
    assert history["learning_rate"] == [pytest.approx(expected)]


@pytest.mark.skipif(KERAS_3, reason="Keras 3 has no legacy optimizers.")
@pytest.mark.parametrize("rate", [0.25, schedule()], ids=["number", "schedule"])
def test_learning_rate_of_legacy_optimizers(rate):
    optimizer = keras.optimizers.legacy.SGD(rate)
    history = fit_plain(optimizer, epochs=1, callbacks=[LearningRate()])
    expected = rate if isinstance(rate, float) else float(rate(2))
    assert history["learning_rate"] == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda x: TensorBoardPictures("", x, labels=[1, 2]),
            r"`labels` must hold one",
        ),
        (
            lambda x: TensorBoardPictures("", x, batch_size=0),
            r"`batch_size` must be an",
        ),
        (lambda x: EmbeddingProjector("", x, [1, 2]), r"labels.shape=\(2,\), images"),
        (lambda x: EmbeddingProjector("", x[0]), r"`images` must have shape \(n, h"),
        (lambda x: EmbeddingProjector("", x[:0]), r"at least one image"),
        (lambda x: EmbeddingProjector("", x, count=0), r"`count` must be an integer"),
        (lambda x: EmbeddingProjector("", x, every=0), r"`every` must be an integer"),
        (lambda x: Throughput(0), r"`batch_size` must be an integer >= 1"),
    ],
)
def test_options_that_cannot_work_are_refused_before_training(images, make, message):
    with pytest.raises(ValueError, match=message):
        make(images)
