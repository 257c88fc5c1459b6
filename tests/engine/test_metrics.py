"""Segmented figures equal scikit-learn's, domain by domain."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from mamdr_core.engine.columns import offsets_of
from mamdr_core.engine.metrics import domain_metrics, segmented_auc


@pytest.mark.parametrize("levels", [3, 1_000_000])
def test_auc_equals_scikit_learns_with_and_without_ties(levels):
    random = np.random.default_rng(0)
    counts = [400, 3, 57, 1000]
    scores = random.integers(0, levels, sum(counts)) / levels
    labels = random.integers(0, 2, sum(counts)).astype(float)
    labels[400:403] = [0, 1, 1]
    offsets = offsets_of(torch.tensor(counts))
    found = segmented_auc(torch.from_numpy(scores), torch.from_numpy(labels), offsets)
    for domain in range(len(counts)):
        rows = slice(int(offsets[domain]), int(offsets[domain + 1]))
        assert found[domain].item() == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-12)


def test_domains_of_one_class_or_without_rows_have_no_auc_and_are_left_out_of_the_mean():
    logits = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.3])
    labels = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0])
    measured = domain_metrics(logits, labels, torch.tensor([0, 2, 3, 3, 5]), None)
    assert measured.auc.isnan().tolist() == [False, True, True, False]
    assert measured.mean_auc() == pytest.approx(0.5)
    assert measured.weighted_auc() == pytest.approx(0.5)
    assert measured.clicks.tolist() == [1, 1, 0, 1]
    assert measured.oracle_auc.isnan().all()


def test_logloss_and_mean_prediction_equal_scikit_learns():
    logits, labels = torch.randn(50, dtype=torch.float64), torch.arange(50) % 2
    measured = domain_metrics(logits, labels.double(), torch.tensor([0, 50]), None)
    assert measured.logloss.item() == pytest.approx(log_loss(labels, logits.sigmoid()), abs=1e-12)
    assert measured.mean_prediction.item() == pytest.approx(logits.sigmoid().mean().item(), abs=1e-12)
