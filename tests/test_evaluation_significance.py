"""`evaluation.confidence_interval` and `compare` against every draw there is, SciPy and simulated studies."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from keras_contrastive.evaluation import compare, confidence_interval
from tests.oracles import evaluation as oracle


def quantile_error(p, draws):
    """Standard error, in standard errors of the mean, of a normal p-quantile read from `draws` draws."""
    return math.sqrt(p * (1 - p) / draws) / stats.norm.pdf(stats.norm.ppf(p))


# Interval


def test_interval_of_zero_and_one_is_that_of_all_draws():
    # Means of two with replacement: 0, 1/2 and 1 with chances 1/4, 1/2 and 1/4.
    assert confidence_interval([0.0, 1.0], level=0.95) == (0.5, 0.0, 1.0)
    assert confidence_interval([0.0, 1.0], level=0.4) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_interval_lies_between_quantiles_of_all_draws(level):
    values = [0.0, 1.0, 2.5, 7.0, 7.5]
    means = oracle.all_bootstrap_means(values)  # 5^5 of them
    got = confidence_interval(values, level=level, draws=20_000)
    assert got.mean == pytest.approx(3.6)
    # An empirical share of 20,000 draws is within 5 sqrt(1/4 / 20,000) = 0.018 of the chance.
    for bound, p in ((got.low, (1 - level) / 2), (got.high, (1 + level) / 2)):
        low, high = np.quantile(means, [max(p - 0.018, 0), min(p + 0.018, 1)])
        assert low - 1e-9 <= bound <= high + 1e-9


@pytest.mark.parametrize("level", [0.9, 0.99])
def test_interval_equals_scipy(level):
    values = np.random.default_rng(0).exponential(size=200)
    draws = 20_000
    expected = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=draws,
        confidence_level=level,
        method="percentile",
        rng=1,
    ).confidence_interval
    got = confidence_interval(values, level=level, draws=draws)
    standard = values.std() / math.sqrt(200)
    # Both are draws: five standard errors of their difference.
    error = 5 * math.sqrt(2) * quantile_error((1 - level) / 2, draws) * standard
    assert got.mean == pytest.approx(values.mean())
    assert got.low == pytest.approx(expected.low, abs=error)
    assert got.high == pytest.approx(expected.high, abs=error)


def test_interval_of_accuracy_is_that_of_the_normal_law():
    right = np.arange(2500) % 5 > 0  # 80 %
    got = confidence_interval(right)
    standard = math.sqrt(0.8 * 0.2 / 2500)
    assert got.mean == pytest.approx(0.8)
    error = 5 * quantile_error(0.025, 2000) * standard
    assert got.low == pytest.approx(0.8 - 1.96 * standard, abs=error)
    assert got.high == pytest.approx(0.8 + 1.96 * standard, abs=error)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    studies = rng.normal(3.0, 2.0, (200, 100))
    covered = 0
    for seed, values in enumerate(studies):
        _, low, high = confidence_interval(values, level=0.8, draws=400, seed=seed)
        covered += low <= 3.0 <= high
    # With t of 99 degrees and the deviation divided by n, a nominal 0.8 is 0.795; the limits from 400 draws
    # take 0.002 more. Of 200 studies the share deviates by sqrt(0.8 * 0.2 / 200) = 0.028: 4.5 of them.
    assert 0.793 - 0.127 < covered / 200 < 0.793 + 0.127


def test_interval_of_a_higher_level_is_wider():
    values = np.random.default_rng(2).normal(size=50)
    widths = []
    for level in (0.5, 0.8, 0.95, 0.999):
        got = confidence_interval(values, level=level)
        assert got.low <= got.mean <= got.high
        widths.append(got.high - got.low)
    assert widths == sorted(widths)
    assert widths[0] > 0


@pytest.mark.parametrize("values", [[0.3], [0.3, 0.3, 0.3], [True, True]], ids=str)
def test_interval_of_equal_values_is_a_point(values):
    assert confidence_interval(values) == pytest.approx((float(values[0]),) * 3)


def test_interval_follows_shift_and_scale():
    values = np.random.default_rng(3).normal(size=60)
    expected = np.array(confidence_interval(values))
    got = np.array(confidence_interval(5.0 + 10.0 * values))
    np.testing.assert_allclose(got, 5.0 + 10.0 * expected, rtol=1e-6)


# Comparison


def test_comparison_worked_by_hand():
    # Three differences of one sign: of 8 sign patterns 2 are as extreme, in any order of summation.
    got = compare([0.0, 0.0, 0.0], [0.1, 0.2, 0.3], draws=20_000)
    assert got.difference == pytest.approx(0.2)
    # 5 sqrt(1/4 * 3/4 / 20,000) = 0.016
    assert got.p_value == pytest.approx(0.25, abs=0.016)
    assert got.significant is False


@pytest.mark.parametrize("n", [5, 9])
@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_p_value_equals_all_sign_patterns(n, shift):
    rng = np.random.default_rng(4)
    first = np.round(rng.normal(size=n), 1)  # one digit: some patterns are equal
    second = np.round(first + shift + rng.normal(size=n), 1)
    expected = oracle.sign_flip_p_value((second - first).tolist())
    got = compare(first, second, draws=20_000).p_value
    assert got == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 20_000))


def test_p_value_equals_scipy():
    rng = np.random.default_rng(5)
    first = rng.normal(size=10)
    second = first + 0.5 + rng.normal(size=10)
    expected = stats.permutation_test(
        (second, first),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    got = compare(first, second, draws=20_000).p_value
    assert got == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 20_000))


@pytest.mark.parametrize("lost,won", [(10, 22), (40, 47), (3, 0)])
def test_p_value_of_right_and_wrong_is_that_of_mcnemar(lost, won):
    """Flipping signs of 0/1 differences is a coin for each image that only one of both gets right."""
    first = np.array([True] * lost + [False] * won + [True] * 50 + [False] * 20)
    second = np.array([False] * lost + [True] * won + [True] * 50 + [False] * 20)
    expected = stats.binomtest(won, won + lost, 0.5).pvalue
    got = compare(first, second, draws=20_000)
    assert got.p_value == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 20_000))
    assert got.difference == pytest.approx((won - lost) / len(first))


def test_p_value_is_one_count_of_the_draws():
    rng = np.random.default_rng(6)
    first = rng.normal(size=40)
    for second, draws in ((first + rng.normal(size=40), 99), (first + 5.0, 1999)):
        p_value = compare(first, second, draws=draws).p_value
        count = p_value * (1 + draws)
        assert count == pytest.approx(round(count), abs=1e-6)
        assert 1 <= round(count) <= 1 + draws
    assert p_value == pytest.approx(1 / 2000)  # the smallest that 1999 draws can show


@pytest.mark.parametrize("values", [[0.25], [1.0, 0.0, 1.0], [0.1] * 7], ids=str)
def test_comparison_with_itself_shows_nothing(values):
    got = compare(values, values)
    assert got == (0.0, 0.0, 0.0, 1.0, False)


def test_comparison_of_one_example_shows_nothing():
    got = compare([0.1], [0.8])
    assert got[:3] == pytest.approx((0.7, 0.7, 0.7))
    assert (got.p_value, got.significant) == (1.0, False)


def test_comparison_of_a_plain_difference_is_significant():
    rng = np.random.default_rng(7)
    first, second = rng.random(1000) < 0.6, rng.random(1000) < 0.8
    got = compare(first, second)
    assert got.significant is True
    assert 0 < got.low < got.difference < got.high
    assert got.difference == pytest.approx(second.mean() - first.mean())
    assert compare(second, first).high < 0


def test_significance_is_a_p_value_below_one_less_level():
    rng = np.random.default_rng(8)
    first = rng.normal(size=30)
    second = first + 0.4 + rng.normal(size=30)
    p_value = compare(first, second).p_value
    assert 0.005 < p_value < 0.4
    for level in (1 - p_value / 2, 1 - 2 * p_value):
        got = compare(first, second, level=level)
        assert got.p_value == p_value
        assert got.significant is (p_value < 1 - level)


def test_comparison_interval_is_the_interval_of_differences():
    rng = np.random.default_rng(9)
    first = rng.normal(size=150)
    second = first + 0.1 + rng.normal(size=150)
    got, expected = compare(first, second), confidence_interval(second - first)
    error = 5 * math.sqrt(2) * quantile_error(0.025, 2000) / math.sqrt(150)
    assert got.difference == pytest.approx(expected.mean)
    assert got.low == pytest.approx(expected.low, abs=error)
    assert got.high == pytest.approx(expected.high, abs=error)


def test_comparison_is_paired():
    """A difficulty that both share, a hundred times the difference, changes nothing."""
    rng = np.random.default_rng(10)
    first = rng.normal(size=80)
    second = first + 0.3 + 0.5 * rng.normal(size=80)
    difficulty = 100.0 * rng.normal(size=80)
    alone = compare(first, second)
    assert alone.significant
    assert compare(first + difficulty, second + difficulty) == pytest.approx(alone)
    # Out of order the same values are apart by chance alone.
    order = rng.permutation(80)
    unpaired = compare((first + difficulty)[order], second + difficulty)
    assert not unpaired.significant
    assert unpaired.high - unpaired.low > 50 * (alone.high - alone.low)


def test_comparison_of_swapped_sides_has_the_other_sign():
    rng = np.random.default_rng(11)
    first = rng.normal(size=70)
    second = first + 0.1 + rng.normal(size=70)
    there, back = compare(first, second), compare(second, first)
    assert back.difference == pytest.approx(-there.difference)
    error = 5 * math.sqrt(2) * quantile_error(0.025, 2000) / math.sqrt(70)
    assert back.low == pytest.approx(-there.high, abs=error)
    assert back.high == pytest.approx(-there.low, abs=error)
    assert back.p_value == pytest.approx(
        there.p_value, abs=5 * math.sqrt(2 * 0.25 / 2000)
    )


def test_p_value_under_the_null_is_uniform():
    rng = np.random.default_rng(12)
    first, second = rng.normal(size=(2, 200, 25))
    values = [
        compare(a, b, draws=199, seed=seed).p_value
        for seed, (a, b) in enumerate(zip(first, second))
    ]
    # Dvoretzky, Kiefer, Wolfowitz: the largest distance of 200 draws' distribution from the truth is above d
    # with chance 2 exp(-2 * 200 d^2), 1e-5 for d = 0.175; the steps of 1/200 add 0.005.
    assert stats.kstest(values, "uniform").statistic < 0.18
    # "significant" at 0.95 is so by chance in 5 % of studies: 10 of 200, deviation 3.1.
    assert sum(p < 0.05 for p in values) <= 10 + 4.5 * 3.1


def test_comparison_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(13)
    covered = 0
    for seed in range(200):
        difficulty = 10.0 * rng.normal(size=100)
        first = difficulty + rng.normal(size=100)
        second = difficulty + 0.5 + rng.normal(size=100)
        got = compare(first, second, level=0.8, draws=400, seed=seed)
        covered += got.low <= 0.5 <= got.high
    # As for one interval: 0.793 and 4.5 deviations of 0.028.
    assert 0.793 - 0.127 < covered / 200 < 0.793 + 0.127


# Both


def both(values, **options):
    values = np.asarray(values)
    return confidence_interval(values, **options), compare(
        np.zeros(len(values)), values, **options
    )


def test_draws_follow_the_seed_alone():
    values = np.random.default_rng(14).normal(size=40)
    np.random.seed(1)
    first = both(values, seed=5)
    drawn = np.random.random()
    np.random.seed(1)
    assert np.random.random() == drawn  # no number of the global stream was used
    assert both(values, seed=5) == first
    other = both(values, seed=6)
    assert other[0].low != first[0].low
    assert other[1].low != first[1].low


def test_results_are_plain_numbers():
    interval, comparison = both(np.arange(10, dtype=np.float32))
    assert {type(value) for value in interval} == {float}
    assert [type(value) for value in comparison] == [float] * 4 + [bool]


@pytest.mark.parametrize("kind", [np.bool_, np.int8, np.uint8, np.float16, np.float64])
def test_zeros_and_ones_of_any_dtype_are_the_same(kind):
    right = np.arange(50) % 3 == 0
    wrong = np.arange(50) % 4 == 0
    expected = compare(right.astype(np.float64), wrong.astype(np.float64))
    assert compare(right.astype(kind), wrong.astype(kind)) == expected  # 0 - 1 is -1
    assert confidence_interval(right.astype(kind)) == confidence_interval(right * 1.0)
    assert compare(tf.constant(right), wrong.tolist()) == expected


def test_mean_of_float16_is_not_summed_in_float16():
    values = np.full(5000, 0.1, np.float16)  # float16 adds up to 256 and no further
    got = confidence_interval(values, draws=50)
    assert got == pytest.approx((float(values[0]),) * 3, rel=1e-6)


def test_memory_of_draws_is_that_of_blocks():
    """The indices of 500 draws of 100,000 are 400 MB in int64."""
    values = np.random.default_rng(15).random(100_000) < 0.7
    tracemalloc.start()
    try:
        interval, _ = both(values, draws=500)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 150e6
    # Of 500 draws a 2.5 % quantile is known to 0.12 standard errors; and the blocks hold different draws.
    standard = values.std() / math.sqrt(100_000)
    assert interval.high - interval.low == pytest.approx(3.92 * standard, rel=0.25)


# Bad input


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], 3.0], ids=str)
def test_values_of_another_shape_are_refused(values):
    with pytest.raises(ValueError, match=r"`values` must .*Received: .*shape"):
        confidence_interval(values)
    with pytest.raises(ValueError, match=r"must .*Received: .*shape"):
        compare(values, values)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(ValueError, match=r"`values` must be finite"):
        confidence_interval([1.0, value])
    with pytest.raises(ValueError, match=r"`first` must be finite"):
        compare([1.0, value], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"`second` must be finite"):
        compare([1.0, 2.0], [1.0, value])


def test_comparison_of_different_numbers_of_examples_is_refused():
    with pytest.raises(ValueError, match=r"`first`.*`second`.*Received: .*3.*2"):
        compare([1.0, 2.0, 3.0], [1.0, 2.0])


@pytest.mark.parametrize(
    "options",
    [
        {"level": 0.0},
        {"level": 1.0},
        {"level": 95},
        {"level": math.nan},
        {"draws": 0},
        {"draws": 10.5},
        {"seed": -1},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(options):
    name = next(iter(options))
    for measure in (
        lambda: confidence_interval([1.0, 2.0], **options),
        lambda: compare([1.0, 2.0], [2.0, 1.0], **options),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
            measure()
