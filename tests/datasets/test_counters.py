"""Random numbers depend on seed, stream and counter alone, and have the distributions that they claim."""

import numpy as np

from mamdr_core.datasets.counters import hash_counters, normal, uniform

COUNTERS = np.arange(200_000)


def test_a_counter_gives_the_same_bits_wherever_it_stands():
    whole = hash_counters(1, "x", COUNTERS)
    assert np.array_equal(hash_counters(1, "x", COUNTERS[1000:2000]), whole[1000:2000])
    assert np.array_equal(normal(1, "x", COUNTERS[7:9], 3), normal(1, "x", COUNTERS[:20], 3)[7:9])
    assert len(np.unique(whole)) == len(whole)


def test_known_values_do_not_change():
    assert hash_counters(0, "user", np.array([0, 1])).tolist() == [7672457658046225894, 9665435997562499754]


def test_seeds_and_streams_are_independent():
    base = uniform(0, "a", COUNTERS)
    for other in (uniform(1, "a", COUNTERS), uniform(0, "b", COUNTERS), uniform(0, "a", COUNTERS + 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.01


def test_uniform_numbers_fill_their_range_evenly():
    numbers = uniform(0, "a", COUNTERS)
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


def test_normal_numbers_have_mean_0_variance_1_and_are_uncorrelated():
    numbers = normal(0, "a", COUNTERS, 5)
    assert numbers.shape == (200_000, 5)
    assert np.abs(numbers.mean(0)).max() < 0.01
    assert np.abs(np.cov(numbers.T) - np.eye(5)).max() < 0.02
    assert abs((np.abs(numbers) > 1.96).mean() - 0.05) < 0.002
