"""Segmented figures equal scikit-learn's, domain by domain."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from mamdr_core.engine.columns import offsets_of
from mamdr_core.engine.metrics import domain_metrics, segmented_auc
from mamdr_core.engine.segments import PART_ROWS

NAN, INF = float("nan"), float("inf")


def auc_of_each(scores, labels, offsets):
    """scikit-learn's AUC of every segment that has both classes, else NaN."""
    found = []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        mixed = len(set(labels[start:stop].tolist())) == 2
        found.append(roc_auc_score(labels[start:stop].numpy(), scores[start:stop].numpy()) if mixed else NAN)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [3, 1_000_000])
def test_auc_equals_scikit_learns_with_and_without_ties(levels, dtype):
    random = np.random.default_rng(0)
    counts = [400, 3, 57, 1000]
    scores = torch.from_numpy(random.integers(-levels, levels, sum(counts)) / levels).to(dtype)
    labels = torch.from_numpy(random.integers(0, 2, sum(counts)).astype(float))
    labels[400:403] = torch.tensor([0, 1, 1])
    offsets = offsets_of(torch.tensor(counts))
    found = segmented_auc(scores, labels, offsets)
    np.testing.assert_allclose(found, auc_of_each(scores, labels, offsets), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("most", [1, 7, 1 << 20])
def test_small_segments_are_exact_for_any_number_sorted_at_once(monkeypatch, dtype, most):
    monkeypatch.setitem(PART_ROWS, "cpu", most)
    random = np.random.default_rng(1)
    counts = torch.from_numpy(random.integers(0, 5, 300))
    rows = int(counts.sum())
    scores, labels = torch.from_numpy(random.normal(size=rows).round(1)).to(dtype), torch.arange(rows) % 3 % 2
    offsets = offsets_of(counts)
    found = segmented_auc(scores, labels, offsets)
    np.testing.assert_allclose(found, auc_of_each(scores, labels, offsets), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_are_ordered_exactly_and_both_zeros_are_equal(dtype):
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    ascending = torch.tensor([-most, -1.0, -least, 0.0, least, 1.0, 1.0 + torch.finfo(dtype).eps, most], dtype=dtype)
    pairs = torch.stack([ascending[:-1], ascending[1:]], 1).reshape(-1)
    offsets = torch.arange(0, len(pairs) + 1, 2)
    assert segmented_auc(pairs, torch.tensor([0.0, 1.0]).repeat(7), offsets).tolist() == [1.0] * 7
    assert segmented_auc(pairs, torch.tensor([1.0, 0.0]).repeat(7), offsets).tolist() == [0.0] * 7
    zeros = torch.tensor([0.0, -0.0, -0.0, 0.0], dtype=dtype)
    assert segmented_auc(zeros, torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0, 2, 4])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, -NAN, INF, -INF])
def test_a_score_that_is_not_finite_affects_only_its_segment(dtype, bad):
    scores = torch.tensor([0.1, 0.2, 0.3, bad, 0.5, 0.2, 0.1], dtype=dtype)
    labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    found = segmented_auc(scores, labels, torch.tensor([0, 2, 4, 7]))
    np.testing.assert_array_equal(found, [1.0, NAN, 0.5])


def test_domains_of_one_class_or_without_rows_are_not_in_the_mean_auc():
    logits = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.3])
    labels = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    measured = domain_metrics(logits, labels, torch.tensor([0, 2, 3, 3, 5]), None)
    assert measured.auc.isnan().tolist() == [False, True, True, False]
    assert measured.mean_auc() == pytest.approx(0.5)
    assert measured.weighted_auc() == pytest.approx(0.5)
    assert measured.clicks.tolist() == [1, 1, 0, 1]
    assert measured.oracle_auc.isnan().all()


@pytest.mark.parametrize("domains", [0, 1, 3])
def test_without_rows_no_metric_is_defined(domains):
    none = torch.zeros(0)
    measured = domain_metrics(none, none, torch.zeros(domains + 1, dtype=torch.long), none.double())
    assert measured.rows.tolist() == measured.clicks.tolist() == [0] * domains
    for figure in (measured.auc, measured.logloss, measured.mean_prediction, measured.oracle_auc):
        np.testing.assert_array_equal(figure, [NAN] * domains)


def test_the_weighted_mean_weighs_a_domain_by_its_rows():
    logits, labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    measured = domain_metrics(logits, labels, torch.tensor([0, 2, 5]), None)
    assert measured.auc.tolist() == [0.0, 1.0]
    assert measured.mean_auc() == 0.5
    assert measured.weighted_auc() == pytest.approx(0.6)


def test_logloss_and_mean_prediction_equal_scikit_learns():
    logits, labels = torch.randn(50, dtype=torch.float64), torch.arange(50) % 2
    measured = domain_metrics(logits, labels.double(), torch.tensor([0, 50]), None)
    assert measured.logloss.item() == pytest.approx(log_loss(labels, logits.sigmoid()), abs=1e-12)
    assert measured.mean_prediction.item() == pytest.approx(logits.sigmoid().mean().item(), abs=1e-12)


def test_pcoc_is_the_mean_prediction_over_the_ctr_and_unknown_without_a_click():
    logits, labels = torch.zeros(9), torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    measured = domain_metrics(logits, labels, torch.tensor([0, 4, 7, 9, 9]), None)
    np.testing.assert_array_equal(measured.pcoc, [2.0, 0.5, NAN, NAN])


def test_the_oracles_auc_is_that_of_the_true_probabilities():
    logits, labels = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    truth = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    measured = domain_metrics(logits, labels, torch.tensor([0, 3]), truth)
    assert [measured.auc.item(), measured.oracle_auc.item()] == [0.5, 0.5]
    truth[2] = 0.3 + 1e-12
    assert domain_metrics(logits, labels, torch.tensor([0, 3]), truth).oracle_auc.item() == 1.0
