"""Random numbers depend only on seed, stream and counter, and have the documented distributions."""

from statistics import NormalDist

import numpy as np
import pytest

from mamdr_core.datasets.counters import hash_counters, normal, uniform

COUNTERS = np.arange(200_000)


def test_the_bits_of_a_counter_do_not_depend_on_its_position():
    whole = hash_counters(1, "x", COUNTERS)
    assert np.array_equal(hash_counters(1, "x", COUNTERS[1000:2000]), whole[1000:2000])
    assert np.array_equal(uniform(1, "x", COUNTERS[7:9], 3), uniform(1, "x", COUNTERS[:20], 3)[:, 7:9])
    assert np.array_equal(normal(1, "x", COUNTERS[7:9], 5), normal(1, "x", COUNTERS[:20], 5)[7:9])
    assert len(np.unique(whole)) == len(whole)


def test_known_values_do_not_change():
    assert hash_counters(0, "user", np.array([0, 1])).tolist() == [7672457658046225894, 9665435997562499754]
    assert uniform(0, "user", np.array([5]), 3).ravel() == pytest.approx([0.32615702, 0.59180604, 0.94346337])
    assert normal(0, "user", np.array([5]), 5)[0] == pytest.approx(
        [-0.7145376, -0.6852681, -2.0491340, -1.4175503, 2.0579538]
    )


def test_seeds_and_streams_are_independent():
    both = [uniform(0, "a", COUNTERS, 2), uniform(1, "a", COUNTERS, 2), uniform(0, "b", COUNTERS, 2)]
    numbers = np.concatenate([*both, uniform(0, "a", COUNTERS + 1, 2), uniform(0, "c", COUNTERS, 3)])
    assert np.abs(np.corrcoef(numbers) - np.eye(11)).max() < 0.01


def test_uniform_numbers_fill_their_range_evenly():
    for numbers in uniform(0, "a", COUNTERS, 3):
        assert (numbers >= 0).all()
        assert (numbers < 1).all()
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


def test_normal_numbers_have_mean_0_variance_1_and_are_uncorrelated():
    numbers = normal(0, "a", COUNTERS, 5)
    assert numbers.shape == (200_000, 5)
    assert np.abs(numbers.mean(0)).max() < 0.01
    assert np.abs(np.cov(numbers.T) - np.eye(5)).max() < 0.02
    for quantile in (0.001, 0.05, 0.2, 0.5, 0.7, 0.99, 0.9999):
        expected = NormalDist().inv_cdf(quantile)
        spread = np.sqrt(quantile * (1 - quantile) / numbers.size)
        assert (numbers < expected).mean() == pytest.approx(quantile, abs=4 * spread)
    # The highest of a million is near 4.9; quantiles at 16 bits end at 4.2.
    assert 4.0 < np.abs(numbers).max() < 5.0
