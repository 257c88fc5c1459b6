"""DeLong variances equal their pairwise definition, with ties, and give intervals with nominal coverage."""

import numpy as np
import pytest
import torch

from mamdr_core.engine.metrics import segmented_auc
from mamdr_core.promotion.intervals import mean_and_variance, placements


def by_pairs(a, b, labels):
    """Difference of two AUCs and its variance by all pairs, as DeLong et al. define them."""

    def kernel(scores):
        x, y = scores[labels == 1][:, None], scores[labels == 0][None, :]
        return (x > y) + 0.5 * (x == y)

    psi = kernel(a) - kernel(b)
    m, n = psi.shape
    return psi.mean(), psi.mean(1).var(ddof=1) / m + psi.mean(0).var(ddof=1) / n


@pytest.fixture
def rows():
    """Scores of two models and labels of four domains: many ties, one class, two of each class, none."""
    random = np.random.default_rng(0)
    counts = np.array([300, 0, 5, 4, 41])
    offsets = np.concatenate([[0], counts.cumsum()])
    labels = random.integers(0, 2, offsets[-1]).astype(np.float32)
    labels[300:309] = [1, 1, 1, 1, 1, 0, 1, 0, 1]
    scores = [random.integers(0, levels, offsets[-1]).astype(np.float32) for levels in (7, 1000)]
    return scores, labels, offsets


def test_differences_and_variances_are_those_of_all_pairs(rows):
    (a, b), labels, offsets = rows
    placed = placements(a, labels, offsets) - placements(b, labels, offsets)
    mean, variance = mean_and_variance(placed, labels, offsets)
    for domain in (0, 3, 4):
        own = slice(*offsets[domain : domain + 2])
        expected = by_pairs(a[own], b[own], labels[own])
        assert (mean[domain], variance[domain]) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(mean[[1, 2]]).all()
    assert np.isnan(variance[[1, 2]]).all()


def test_the_mean_placement_is_the_exact_auc(rows):
    (scores, _), labels, offsets = rows
    mean, _ = mean_and_variance(placements(scores, labels, offsets), labels, offsets)
    exact = segmented_auc(*(torch.from_numpy(each) for each in (scores, labels, offsets)))
    np.testing.assert_allclose(mean, exact, rtol=0, atol=1e-12)


def test_one_click_gives_an_auc_without_a_variance_and_a_nan_score_neither():
    labels = np.array([1, 0, 0, 1, 1, 0, 0.0])
    scores = np.array([1, 2, 0, 0.3, np.nan, 0.1, 0.2])
    mean, variance = mean_and_variance(placements(scores, labels, np.array([0, 3, 7])), labels, np.array([0, 3, 7]))
    assert mean[0] == 0.5
    assert np.isnan([variance[0], mean[1], variance[1]]).all()


def test_intervals_have_their_nominal_coverage():
    random = np.random.default_rng(1)
    samples, each = 2000, 120
    labels = (np.arange(samples * each) % 3 == 0).astype(float)
    taste = random.normal(size=samples * each) + labels
    a, b = (taste + random.normal(scale=scale, size=samples * each) for scale in (1.0, 1.0))
    offsets = np.arange(0, samples * each + 1, each)
    mean, variance = mean_and_variance(placements(a, labels, offsets) - placements(b, labels, offsets), labels, offsets)
    held = np.abs(mean) < 1.96 * np.sqrt(variance)
    assert held.mean() == pytest.approx(0.95, abs=0.02)
    assert (mean < -1.96 * np.sqrt(variance)).mean() == pytest.approx(0.025, abs=0.01)
