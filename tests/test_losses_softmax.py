"""What is particular to the softmax losses: closed forms, limits, and how they relate."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import tensorflow as tf

import keras_contrastive as kc
from tests.losses_battery import (
    FLOAT64,
    NUMERICAL,
    PATTERNS,
    rows,
    value_and_gradient,
    weighted_sum,
)
from tests.oracles import losses as oracles
from tests.oracles.gradients import numerical_gradient


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("images", [1, 2, 50])
def test_nt_xent_of_collapsed_embeddings_is_log_of_the_other_rows(images, temperature):
    ids = np.tile(np.arange(images), 2)
    rows = np.tile([[0.6, -0.8, 0.0]], (2 * images, 1))
    loss = kc.losses.NTXentLoss(temperature)(ids, rows)
    assert float(loss) == pytest.approx(math.log(2 * images - 1), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_of_orthonormal_pairs_is_log_1_plus_the_leak(temperature):
    images = 5
    ids = np.tile(np.arange(images), 2)
    loss = kc.losses.NTXentLoss(temperature)(ids, np.tile(np.eye(images), (2, 1)))
    expected = math.log1p((2 * images - 2) * math.exp(-1 / temperature))
    assert float(loss) == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_nt_xent_default_temperature_is_a_tenth():
    ids, embeddings = np.array(PATTERNS["pairs"]), rows()
    expected, _ = oracles.nt_xent(ids, embeddings, temperature=0.1)
    np.testing.assert_allclose(
        kc.losses.nt_xent_loss(ids, embeddings), expected, **FLOAT64
    )
    np.testing.assert_allclose(
        kc.losses.NTXentLoss()(ids, embeddings), expected.mean(), **FLOAT64
    )


# ---- how the losses relate


def two_views(images: int = 4):
    return np.tile(np.arange(images), 2), rows(2 * images)


def test_info_nce_against_the_batch_is_nt_xent():
    ids, embeddings = two_views()
    np.testing.assert_allclose(
        kc.losses.info_nce_loss(
            ids,
            embeddings,
            candidates=embeddings,
            candidate_ids=ids,
            self_index=np.arange(8),
        ),
        kc.losses.nt_xent_loss(ids, embeddings),
        **FLOAT64,
    )


def test_sup_con_in_is_at_most_out_and_equal_with_one_positive():
    groups, (ids, embeddings) = np.array([0, 0, 0, 1, 1, 1, 2, 2]), two_views()
    for labels, differ in ((groups, True), (ids, False)):
        inside, outside = (
            kc.losses.sup_con_loss(labels, embeddings, position=position).numpy()
            for position in ("in", "out")
        )
        assert np.all(inside <= outside + 1e-12)
        assert np.any(inside < outside - 0.01) == differ


def test_debiased_without_a_share_of_its_own_class_is_nt_xent():
    ids, embeddings = two_views()
    for temperature in (0.01, 0.5):
        np.testing.assert_allclose(
            kc.losses.debiased_loss(
                ids, embeddings, temperature=temperature, class_probability=0.0
            ),
            kc.losses.nt_xent_loss(ids, embeddings, temperature=temperature),
            **FLOAT64,
        )


def test_hard_negative_without_preference_is_debiased():
    ids, embeddings = two_views()
    np.testing.assert_allclose(
        kc.losses.hard_negative_loss(ids, embeddings, beta=0.0),
        kc.losses.debiased_loss(ids, embeddings),
        **FLOAT64,
    )


def test_hard_negatives_weigh_more_the_larger_beta():
    ids, embeddings = two_views()
    values = [
        kc.losses.hard_negative_loss(ids, embeddings, beta=beta).numpy()
        for beta in (0.0, 1.0, 4.0)
    ]
    assert np.all(values[0] < values[1]) and np.all(values[1] < values[2])


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_decoupled_of_orthonormal_pairs_is_log_of_the_negatives_less_1_over_t(
    temperature, weighted
):
    # A positive masked by adding a number, not left out, shows at small temperatures: exp(1 / 0.01) is 1e43.
    images = 5
    loss = kc.losses.DecoupledLoss(temperature, weighted=weighted)
    value = loss(np.tile(np.arange(images), 2), np.tile(np.eye(images), (2, 1)))
    expected = math.log(2 * images - 2) - 1 / temperature  # every weight is 2 - 1
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_decoupled_weight_is_larger_for_far_positives():
    ids = np.array([0, 0, 1, 1])
    angles = np.array([0.0, 0.2, 2.0, 3.0])  # a near pair and a far one
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    plain, weighted = (
        kc.losses.decoupled_loss(ids, embeddings, temperature=1.0, weighted=w).numpy()
        for w in (False, True)
    )
    cosines = np.cos([0.2, 1.0])
    near, far = 2 - np.exp(cosines / 0.5) / np.exp(cosines / 0.5).mean()
    assert near < 1 < far
    np.testing.assert_allclose(
        plain - weighted,
        np.repeat((np.array([near, far]) - 1) * cosines, 2),
        **FLOAT64,
    )


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda: kc.losses.SupConLoss(position="inside"), "position"),
        (
            lambda: kc.losses.sup_con_loss([0, 0], rows(2), position="inside"),
            "position",
        ),
        (lambda: kc.losses.DebiasedLoss(class_probability=1.0), "class_probability"),
        (
            lambda: kc.losses.debiased_loss([0, 0], rows(2), class_probability=-0.1),
            "class_probability",
        ),
        (lambda: kc.losses.HardNegativeLoss(beta=-1.0), "beta"),
        (lambda: kc.losses.hard_negative_loss([0, 0], rows(2), beta=-1.0), "beta"),
        (lambda: kc.losses.DecoupledLoss(sigma=0.0), "sigma"),
        (lambda: kc.losses.decoupled_loss([0, 0], rows(2), sigma=0.0), "sigma"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_option_out_of_its_range_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}="):
        call()


@pytest.mark.parametrize(
    "loss_class, defaults",
    [
        ("InfoNCELoss", {"temperature": 0.1}),
        ("NTXentLoss", {"temperature": 0.1}),
        ("SupConLoss", {"temperature": 0.1, "position": "out"}),
        ("DecoupledLoss", {"temperature": 0.1, "weighted": False, "sigma": 0.5}),
        ("DebiasedLoss", {"temperature": 0.5, "class_probability": 0.1}),
        (
            "HardNegativeLoss",
            {"temperature": 0.5, "class_probability": 0.1, "beta": 1.0},
        ),
        ("SymmetricInfoNCELoss", {"temperature": 0.07}),
    ],
)
def test_class_and_function_have_the_papers_defaults(loss_class, defaults):
    loss = getattr(kc.losses, loss_class)()
    assert defaults.items() <= loss.get_config().items()
    function = getattr(kc.losses, loss.name)
    signature = inspect.signature(function).parameters
    assert {name: signature[name].default for name in defaults} == defaults


@pytest.mark.parametrize("log_q", [None, np.log([0.5, 0.1, 0.2, 0.2])])
def test_debiased_at_its_floor_has_the_oracles_value_and_gradient(log_q):
    # Negatives opposite to their anchors, and a large share of positives among them: the estimate is negative.
    ids, options = np.array([0, 0, 1, 1]), {"class_probability": 0.3}
    embeddings = np.array([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.2], [-1.0, 0.1]])
    if log_q is not None:
        options["candidate_log_probability"] = log_q
    values, gradient = value_and_gradient(
        lambda z: kc.losses.debiased_loss(ids, z, **options), tf.constant(embeddings)
    )
    expected, _ = oracles.debiased(ids, embeddings, **options)
    np.testing.assert_allclose(values, expected, **FLOAT64)
    np.testing.assert_allclose(
        gradient,
        numerical_gradient(
            lambda z: weighted_sum(oracles.debiased(ids, z, **options)[0]), embeddings
        ),
        **NUMERICAL,
    )


def test_decoupled_weights_of_a_small_sigma_do_not_overflow():
    ids, embeddings = np.array([0, 0, 1, 1]), np.ones((4, 3), np.float32)
    loss = kc.losses.DecoupledLoss(weighted=True, sigma=0.01)
    assert float(loss(ids, embeddings)) == pytest.approx(math.log(2), abs=1e-4)
