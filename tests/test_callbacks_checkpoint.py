"""RunCheckpoint and StopOnNaN: a run that is cut goes on as if nothing had happened."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from keras_contrastive._compat import KERAS_3
from keras_contrastive.callbacks import RunCheckpoint, StopOnNaN
from tests.test_model import DIGITS, images, small_model, weights_of

PART = kc.data.Part(images(40))
STEPS = 5  # of 8 images


class Cut(Exception):
    """What ends `fit` in the middle, as a signal would."""


class CutAfter(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(np.asarray(tf.convert_to_tensor(self.model.step))) == self.step:
            raise Cut


def train(model, directory, *, epochs=3, every=2, more=()):
    """What a script does: restore, the rest of the cut epoch, the other epochs. Returns losses by epoch."""
    checkpoint = RunCheckpoint(directory, every=every)
    epoch, step = divmod(checkpoint.restore(model), STEPS)
    losses = {}
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.__setitem__(epoch, logs["loss"])
    )
    options = {"callbacks": [keep, checkpoint, *more], "verbose": 0, "shuffle": False}
    if step:
        rest = kc.data.batches(PART, 8, epoch=epoch, step=step)
        model.fit(
            rest,
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=STEPS - step,
            **options,
        )
        epoch += 1
    if epoch < epochs:
        model.fit(
            kc.data.batches(PART, 8, epoch=epoch),
            initial_epoch=epoch,
            epochs=epochs,
            **options,
        )
    return losses


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The losses and the weights of a run that was never cut."""
    keras.utils.set_random_seed(0)
    model = small_model()
    return train(model, tmp_path_factory.mktemp("whole")), weights_of(model)


@pytest.mark.parametrize(
    ("cut", "every"),
    [(1, 2), (5, 2), (8, 2), (7, STEPS), (10, 1)],
    ids=["first", "epoch", "middle", "every_epoch", "every_step"],
)
def test_resumed_run_equals_one_never_cut_bit_for_bit(whole, tmp_path, cut, every):
    with pytest.raises(Cut):
        train(small_model(), tmp_path, every=every, more=[CutAfter(cut)])
    resumed = small_model()
    losses = train(resumed, tmp_path)
    for one, other in zip(whole[1], weights_of(resumed)):
        np.testing.assert_array_equal(one, other)
    # The rows of the history too, that of the cut epoch included.
    assert losses == {epoch: whole[0][epoch] for epoch in losses}
    assert set(losses) >= {cut // STEPS, 2}


def test_nothing_is_saved_between_the_last_step_and_the_end_of_an_epoch(tmp_path):
    checkpoint = RunCheckpoint(tmp_path, every=STEPS)
    with pytest.raises(Cut):
        options = {"callbacks": [checkpoint, CutAfter(STEPS)], "verbose": 0}
        small_model().fit(kc.data.batches(PART, 8), shuffle=False, **options)
    checkpoint.save()  # as a script does when it is stopped
    assert not list(tmp_path.glob("*.index"))


def test_directory_of_another_run_is_refused(tmp_path):
    train(small_model(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="holds checkpoints of another run"):
        small_model().fit(
            kc.data.batches(PART, 8), callbacks=[RunCheckpoint(tmp_path)], verbose=0
        )


def test_resumed_float16_run_keeps_the_loss_scale(tmp_path):
    keras.mixed_precision.set_global_policy("mixed_float16")
    whole = small_model()
    train(whole, tmp_path / "whole")
    with pytest.raises(Cut):
        train(small_model(), tmp_path / "cut", more=[CutAfter(8)])
    resumed = small_model()
    train(resumed, tmp_path / "cut")
    for one, other in zip(weights_of(whole), weights_of(resumed)):
        np.testing.assert_array_equal(one, other)


def test_resumed_run_with_dropout_draws_on(tmp_path):
    if not KERAS_3:
        pytest.skip("Dropout has no state that could be saved on Keras 2.15")

    def model():
        keras.utils.set_random_seed(0)
        flat = [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
        ]
        encoder = keras.Sequential([*flat, keras.layers.Dense(6)])
        model = kc.ContrastiveModel(encoder, kc.losses.NTXentLoss(), augment=DIGITS)
        model.compile(optimizer=keras.optimizers.Adam(1e-2))
        return model

    whole = model()
    train(whole, tmp_path / "whole")
    with pytest.raises(Cut):
        train(model(), tmp_path / "cut", more=[CutAfter(8)])
    resumed = model()
    train(resumed, tmp_path / "cut")
    for one, other in zip(weights_of(whole), weights_of(resumed)):
        np.testing.assert_array_equal(one, other)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    train(small_model(), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="does not fit this model"):
        RunCheckpoint(tmp_path).restore(small_model(head=kc.heads.mlp(8, hidden_dim=4)))


def test_restore_before_compile_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be compiled"):
        RunCheckpoint(tmp_path).restore(small_model(compiled=False))


def test_restore_without_a_checkpoint_starts_at_step_0(tmp_path):
    assert RunCheckpoint(tmp_path / "none").restore(small_model()) == 0


def test_weights_that_are_not_finite_leave_the_last_good_checkpoint(tmp_path):
    model = small_model()
    train(model, tmp_path, epochs=1)
    good = tf.train.latest_checkpoint(str(tmp_path))
    model.encoder.set_weights(
        [np.full_like(w, np.nan) for w in model.encoder.get_weights()]
    )
    model.step.assign_add(1)
    checkpoint = RunCheckpoint(tmp_path)
    checkpoint.set_model(model)
    checkpoint.save()
    assert tf.train.latest_checkpoint(str(tmp_path)) == good


def test_only_so_many_checkpoints_are_kept(tmp_path):
    train(small_model(), tmp_path, every=1)
    assert len(list(tmp_path.glob("*.index"))) == 2


def test_loss_that_turns_nan_stops_with_epoch_and_step():
    model = small_model()
    model.compile(optimizer=keras.optimizers.SGD(1e38))
    with pytest.raises(
        FloatingPointError, match=r"became (nan|inf) in epoch \d+, at step \d+"
    ):
        model.fit(
            kc.data.batches(PART, 8),
            epochs=9,
            callbacks=[StopOnNaN()],
            verbose=0,
            shuffle=False,
        )


@pytest.mark.parametrize("option", ["every", "keep"])
def test_option_of_zero_is_refused(tmp_path, option):
    with pytest.raises(ValueError, match=f"`{option}` must be an integer >= 1"):
        RunCheckpoint(tmp_path, **{option: 0})


def test_save_cut_before_it_is_recorded_is_made_again(tmp_path, monkeypatch):
    save = tf.train.CheckpointManager.save

    def cut_save(manager, **options):
        save(manager, **options)
        (tmp_path / "checkpoint").unlink()
        raise KeyboardInterrupt

    model = small_model()
    checkpoint = RunCheckpoint(tmp_path)
    assert checkpoint.restore(model) == 0
    model.step.assign(3)
    with monkeypatch.context() as patch:
        patch.setattr(tf.train.CheckpointManager, "save", cut_save)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save()
    checkpoint.save()  # as a script does that Ctrl-C has stopped
    assert RunCheckpoint(tmp_path).restore(small_model()) == 3
