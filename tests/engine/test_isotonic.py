"""Isotonic calibration: the published algorithm on bins, and a curve that bends logits without changing their order."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from mamdr_core.engine.isotonic import BIN_ROWS, LEAST_SLOPE, PSEUDO_ROWS, fit_curve, pool_adjacent_violators
from mamdr_core.engine.platt import Calibration, CalibrationRows, fit_isotonic, fit_platt
from mamdr_core.parallel.collective import SingleProcess, run_simulated

ALONE = SingleProcess().all_reduce


def bent(logits_N: torch.Tensor) -> torch.Tensor:
    """True log-odds: no slope and shift make them of logits."""
    return 2.5 * torch.tanh(logits_N) - 0.5


def draw(rows: int, seed: int = 0) -> CalibrationRows:
    random = np.random.default_rng(seed)
    logits_N = torch.from_numpy(random.normal(0, 2, rows))
    labels_N = (torch.from_numpy(random.random(rows)) < bent(logits_N).sigmoid()).double()
    return CalibrationRows(logits_N, labels_N, torch.ones(rows).double(), torch.arange(rows) % 3, 3)


@pytest.mark.parametrize("seed", range(5))
def test_pooling_gives_the_fit_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    values, weights = random.integers(0, 6, 200) / 5 + np.arange(200) / 400, random.uniform(0.5, 3, 200)
    block = pool_adjacent_violators(values, weights)
    found = (np.bincount(block, weights * values) / np.bincount(block, weights))[block]
    expected = IsotonicRegression().fit(np.arange(200), values, sample_weight=weights).predict(np.arange(200))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert len(np.unique(block)) < 150


def test_the_curve_passes_through_the_isotonic_fit_of_equal_count_bins():
    rows = draw(1200)
    found = fit_curve(rows.logits_N, rows.labels_N, rows.weights_N, ALONE)
    order = rows.logits_N.argsort()
    logit_B = rows.logits_N[order].view(-1, BIN_ROWS).mean(1).numpy()
    clicks_B = rows.labels_N[order].view(-1, BIN_ROWS).sum(1).numpy()
    rate_B = (clicks_B + PSEUDO_ROWS / (1 + np.exp(-logit_B))) / (BIN_ROWS + PSEUDO_ROWS)
    fit_B = IsotonicRegression().fit(logit_B, rate_B).predict(logit_B)
    value, first = np.unique(fit_B.round(12), return_index=True)
    knots = [each.mean() for each in np.split(logit_B, first[1:])]
    expected = np.interp(knots, found.knots_J, found.values_J)
    np.testing.assert_allclose(expected, np.log(value / (1 - value)), atol=0.02)
    np.testing.assert_allclose(found.knots_J, knots, atol=0.02)
    # Between knots it is linear, and beyond them it has slope 1.
    middle = (found.knots_J[1:] + found.knots_J[:-1]) / 2
    torch.testing.assert_close(found.apply(middle), (found.values_J[1:] + found.values_J[:-1]) / 2)
    ends = torch.stack([found.knots_J[0] - 3, found.knots_J[-1] + 2])
    torch.testing.assert_close(found.apply(ends), torch.stack([found.values_J[0] - 3, found.values_J[-1] + 2]))


def test_nonlinear_logits_are_calibrated_better_than_by_platt_scaling():
    rows, new = draw(20_000), draw(20_000, seed=1)
    true_N = bent(new.logits_N).sigmoid()
    errors = [
        float((fit(rows, ALONE).apply(new.logits_N, new.domain_N).sigmoid() - true_N).square().mean())
        for fit in (fit_isotonic, fit_platt)
    ]
    assert errors[0] < 0.2 * errors[1]


@pytest.mark.parametrize("labels", ["drawn", "opposed", "all", "none"])
def test_the_order_of_rows_is_kept_and_all_logits_are_finite(labels):
    rows = draw(3000)
    if labels != "drawn":
        rows.labels_N[:] = (rows.logits_N < 0).double() if labels == "opposed" else float(labels == "all")
    rows.logits_N[:7] = torch.tensor([0.5, 0.5, 40.0, -40.0, torch.nan, torch.inf, -torch.inf])
    found = fit_isotonic(rows, ALONE)
    logits_N = rows.logits_N[rows.logits_N.isfinite()].unique()
    after_N = found.apply(logits_N, torch.ones(len(logits_N)))
    assert (after_N.diff() > 0).all()
    assert after_N.isfinite().all()
    slopes = found.curve.slopes
    assert slopes.min() > LEAST_SLOPE * (1 - 1e-9)
    # By how much a calibrated logit changes with the model's, as a difference shows it between knots.
    middle = (found.curve.knots_J[1:] + found.curve.knots_J[:-1]) / 2 if len(slopes) > 2 else found.curve.knots_J + 1
    domain = torch.zeros(len(middle))
    moved = found.apply(middle + 1e-6, domain) - found.apply(middle - 1e-6, domain)
    torch.testing.assert_close(found.slopes(found.apply(middle, domain), domain), moved / 2e-6, rtol=1e-4, atol=0)


def test_few_rows_give_no_curve_and_a_parents_curve_is_kept():
    few = draw(2 * BIN_ROWS - 1)
    assert fit_isotonic(few, ALONE).curve is None
    torch.testing.assert_close(fit_isotonic(few, ALONE).slope_K, fit_platt(few, ALONE).slope_K)
    parent = fit_isotonic(draw(5000), ALONE)
    child = fit_isotonic(few, ALONE, parent)
    assert child.curve is parent.curve
    again = Calibration.of(child.tensors())
    logits = torch.linspace(-3, 3, 7)
    assert torch.equal(again.apply(logits, torch.arange(7) - 1), child.apply(logits, torch.arange(7) - 1))


def test_ranks_fit_the_curve_of_one_process_and_weights_count_rows():
    rows = draw(4000)
    twice_N = rows.domain_N == 1
    weighted = CalibrationRows(rows.logits_N, rows.labels_N, 1.0 + twice_N, rows.domain_N, 3)
    expected = fit_isotonic(weighted, ALONE)

    def fit(collective, rows):
        mine_N = rows.domain_N % 2 == collective.rank
        tensors = (each[mine_N] for each in (rows.logits_N, rows.labels_N, rows.weights_N, rows.domain_N))
        return fit_isotonic(CalibrationRows(*tensors, rows.domains), collective.all_reduce)

    for found in run_simulated(partial(fit, rows=weighted), 2):
        torch.testing.assert_close(found.curve.values_J, expected.curve.values_J, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.shift_K, expected.shift_K, rtol=0, atol=1e-8)
    assert not torch.equal(expected.curve.values_J[:5], fit_isotonic(rows, ALONE).curve.values_J[:5])


def test_a_bin_of_certain_rows_has_a_finite_value():
    rows = draw(1000)
    rows.logits_N[:] = torch.cat([torch.linspace(-5, 5, 800), torch.full((200,), 33.0)])
    rows.labels_N[:] = (torch.rand(1000, generator=torch.Generator().manual_seed(1)) < rows.logits_N.sigmoid()).double()
    found = fit_curve(rows.logits_N, rows.labels_N, rows.weights_N, ALONE)
    after_N = found.apply(rows.logits_N.unique())
    assert after_N.isfinite().all()
    assert (after_N.diff() > 0).all()


def test_the_scale_of_weights_changes_nothing():
    rows = draw(2000)
    found, scaled = (fit_curve(rows.logits_N, rows.labels_N, rows.weights_N * by, ALONE) for by in (1.0, 1e-4))
    torch.testing.assert_close(scaled.values_J, found.values_J)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
def test_a_rank_without_rows_takes_part(fit):
    rows = draw(1500)
    parts = [rows, CalibrationRows(*(torch.zeros(0).double() for _ in range(3)), torch.zeros(0, dtype=torch.long), 3)]
    expected = fit(rows, ALONE)
    for found in run_simulated(lambda collective: fit(parts[collective.rank], collective.all_reduce), 2):
        for name, values in expected.tensors().items():
            torch.testing.assert_close(found.tensors()[name], values)
