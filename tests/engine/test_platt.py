"""Platt scaling by domain: logistic regression where rows are many, what domains share where they are few."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mamdr_core.engine.columns import offsets_of
from mamdr_core.engine.metrics import segmented_auc
from mamdr_core.engine.platt import LEAST_SLOPE, Calibration, CalibrationRows, fit_platt
from mamdr_core.parallel.collective import SingleProcess, run_simulated

ALONE = SingleProcess().all_reduce


def draw(counts: list[int], slopes, shifts, seed: int = 0) -> CalibrationRows:
    """Logits, and labels whose log-odds are slope * logit + shift of the row's domain."""
    random = np.random.default_rng(seed)
    domain_N = np.repeat(np.arange(len(counts)), counts)
    logits_N = random.normal(-1, 1.5, len(domain_N))
    odds_N = np.broadcast_to(slopes, len(counts))[domain_N] * logits_N + np.broadcast_to(shifts, len(counts))[domain_N]
    labels_N = (random.random(len(domain_N)) < 1 / (1 + np.exp(-odds_N))).astype(float)
    tensors = (torch.tensor(each) for each in (logits_N, labels_N, np.ones(len(domain_N)), domain_N))
    return CalibrationRows(*tensors, len(counts))


def regression(rows: CalibrationRows, chosen_N: torch.Tensor) -> tuple[float, float]:
    """Slope and shift by scikit-learn, without a penalty."""
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    weights = rows.weights_N[chosen_N].numpy()
    model.fit(rows.logits_N[chosen_N, None].numpy(), rows.labels_N[chosen_N].numpy(), weights)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def own(found: Calibration, domain: int) -> tuple[float, float]:
    return float(found.slope_K[domain + 1]), float(found.shift_K[domain + 1])


def test_similar_domains_get_the_regression_over_all_rows():
    rows = draw([300] * 20, 0.7, 0.4)
    found = fit_platt(rows, ALONE)
    everything = regression(rows, torch.ones(6000, dtype=torch.bool))
    assert own(found, -1) == pytest.approx(everything, abs=1e-4)
    for domain in range(20):
        assert own(found, domain) == pytest.approx(everything, abs=0.1)


def test_large_domains_get_their_own_regression_and_small_ones_are_shrunk():
    random = np.random.default_rng(3)
    counts = [20_000] * 6 + [25] * 60
    slopes, shifts = 1 + 0.2 * random.normal(size=66), 0.5 * random.normal(size=66)
    rows = draw(counts, slopes, shifts)
    found = fit_platt(rows, ALONE)
    for domain in range(6):
        assert own(found, domain) == pytest.approx(regression(rows, rows.domain_N == domain), abs=0.03)
    # The error of probabilities on new rows: less than with what all share, and than with own regressions.
    new = draw([200] * 66, slopes, shifts, seed=1)
    true_N = torch.sigmoid(torch.tensor(slopes)[new.domain_N] * new.logits_N + torch.tensor(shifts)[new.domain_N])
    shared = Calibration(found.slope_K[:1], found.shift_K[:1])
    alone = [regression(rows, rows.domain_N == domain) for domain in range(66)]
    unshrunk = Calibration(*(torch.tensor([0.0, *values], dtype=torch.float64) for values in zip(*alone, strict=True)))
    small_N = new.domain_N >= 6
    errors = [
        float((each.apply(new.logits_N, new.domain_N).sigmoid() - true_N)[small_N].square().mean())
        for each in (found, shared, unshrunk)
    ]
    assert errors[0] < 0.8 * errors[1]
    assert errors[0] < 0.8 * errors[2]


@pytest.mark.parametrize("slope", [1.0, -0.8])
def test_the_order_of_rows_is_kept_for_any_labels(slope):
    """Domains whose labels oppose the logits, of one class, and of one row."""
    rows = draw([400, 400, 30, 1, 0], [slope, -0.8, 0.5, 1, 1], 0.0)
    rows.labels_N[rows.domain_N == 2] = 1
    found = fit_platt(rows, ALONE)
    assert found.slope_K.min() >= LEAST_SLOPE**2 * (1 - 1e-9)
    assert found.slope_K.isfinite().all()
    assert found.shift_K.isfinite().all()
    offsets = offsets_of(torch.bincount(rows.domain_N, minlength=5))
    before, after = (
        segmented_auc(each, rows.labels_N, offsets)
        for each in (rows.logits_N, found.apply(rows.logits_N, rows.domain_N))
    )
    assert torch.equal(before.nan_to_num(-1), after.nan_to_num(-1))
    assert before[1] < 0.5
    # With the slope at its bound the shift still makes predictions as many as clicks, about.
    opposed = rows.domain_N == 1
    predicted = found.apply(rows.logits_N, rows.domain_N).sigmoid()[opposed].mean()
    assert predicted == pytest.approx(float(rows.labels_N[opposed].mean()), abs=0.03)


def test_domains_without_rows_use_the_shared_or_earlier_calibration():
    rows = draw([500, 0, 500, 0], [0.5, 1, 0.6, 1], [1.0, 0, 1.2, 0])
    rows.logits_N[3] = torch.nan  # a row without a number does not count
    found = fit_platt(rows, ALONE)
    assert own(found, 1) == own(found, 3) == own(found, -1)
    logits = torch.zeros(4)
    assert found.apply(logits, torch.tensor([-1, 1, 4, 99])).unique().tolist() == [float(found.shift_K[0])]
    parent = Calibration(*(torch.tensor(each, dtype=torch.float64) for each in ([2.0, 3, 4, 5], [-1.0, -2, -3, -4])))
    child = fit_platt(rows, ALONE, parent)
    assert [own(child, domain) for domain in (-1, 1, 3)] == [(2.0, -1.0), (4.0, -3.0), (2.0, -1.0)]
    assert own(child, 0) == pytest.approx(own(found, 0), abs=0.15)
    assert Calibration.of(child.tensors()).slope_K.tolist() == child.slope_K.tolist()


def test_a_row_of_weight_two_counts_as_two_rows():
    once = draw([60, 90], [0.5, 1.2], [1.0, -0.4])
    twice_N = torch.arange(150) % 3 == 0
    weighted = CalibrationRows(once.logits_N, once.labels_N, 1.0 + twice_N, once.domain_N, 2)
    repeated = CalibrationRows(
        *(torch.cat([each, each[twice_N]]) for each in (once.logits_N, once.labels_N, once.weights_N, once.domain_N)), 2
    )
    found, expected = (fit_platt(rows, ALONE) for rows in (weighted, repeated))
    torch.testing.assert_close(found.slope_K, expected.slope_K, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.shift_K, expected.shift_K, rtol=0, atol=1e-8)


def test_ranks_fit_the_calibration_of_one_process():
    rows = draw([40, 0, 90, 10, 300], [0.5, 1, 1.2, 1, 0.8], [1.0, 0, -0.4, 0, 0.3])
    expected = fit_platt(rows, ALONE)

    def fit(collective, rows):
        mine_N = rows.domain_N % 3 == collective.rank
        tensors = (each[mine_N] for each in (rows.logits_N, rows.labels_N, rows.weights_N, rows.domain_N))
        return fit_platt(CalibrationRows(*tensors, rows.domains), collective.all_reduce)

    for found in run_simulated(partial(fit, rows=rows), 3):
        torch.testing.assert_close(found.slope_K, expected.slope_K, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.shift_K, expected.shift_K, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_the_correction_for_sampled_negatives_is_the_published_one(rate):
    """He et al. 2014: q = p / (p + (1 - p) / w)."""
    p = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    found = Calibration.identity(2).with_negatives_of(rate).apply(p.logit(), torch.tensor([0, 1, -1] * 3)).sigmoid()
    torch.testing.assert_close(found, p / (p + (1 - p) / rate))
