"""GAUC, NDCG@k, hit rate@k and calibration error equal plain loops over domains and users."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.calibration import CELLS
from mamdr_core.engine.columns import offsets_of
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.segments import PART_ROWS

NAN = float("nan")


def measure(logits, labels, users, counts, **changes):
    settings = MetricsSettings(**changes)
    labels, users = torch.tensor(labels, dtype=torch.float32), torch.tensor(users, dtype=torch.int32)
    return domain_metrics(torch.as_tensor(logits), labels, offsets_of(torch.tensor(counts)), None, users, settings)


def hit_rate(labels, logits, k):
    """The probability of a click among the first k where equal scores come in any order."""
    left = k
    for value in sorted(set(logits), reverse=True):
        tied = labels[logits == value]
        if tied.any() or left <= len(tied):
            taken = max(0, min(left, len(tied)))
            return 1 - comb(int((tied == 0).sum()), taken) / comb(len(tied), taken)
        left -= len(tied)
    return 0.0


def loop(logits, labels, users, cutoffs, bins):
    """Figures of one domain in the order of `DetailedMetrics.figures`, user by user."""
    found = []
    for user in np.unique(users[users > 0]):
        own = users == user
        y, x = labels[own], logits[own]
        if len(set(y)) == 2:
            ndcgs = [ndcg_score([y], [x], k=k) for k in cutoffs]
            found.append([own.sum(), roc_auc_score(y, x), *ndcgs, *(hit_rate(y, x, k) for k in cutoffs)])
    means = [NAN] * (2 * len(cutoffs))
    gauc, rows = NAN, 0.0
    if found:
        table = np.array(found, dtype=np.float64)
        gauc, rows, means = np.average(table[:, 1], weights=table[:, 0]), table[:, 0].sum(), table[:, 2:].mean(0)
    return [gauc, rows, len(found), error(logits, labels, bins), *means]


def error(logits, labels, bins):
    """The expected calibration error of rows in order of their logit, equal ones with their mean label."""
    if not len(logits):
        return NAN
    order = np.argsort(logits, kind="stable")
    x, y = logits[order].astype(np.float64), labels[order].astype(np.float64)
    shared = np.array([y[x == value].mean() for value in x])
    ends = np.arange(bins + 1) * len(x) // bins
    residuals = 1 / (1 + np.exp(-x)) - shared
    return sum(abs(residuals[a:b].sum()) for a, b in pairwise(ends)) / len(x)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([2, 5, 1_000_000]), most=st.sampled_from([1, 9, 1 << 17]))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_metrics_equal_plain_loops(dtype, seed, levels, most):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 25, 6)
    rows = int(counts.sum())
    logits = (random.integers(-levels, levels, rows) / levels * 3).astype(dtype)
    labels, users = random.integers(0, 2, rows).astype(np.float32), random.integers(0, 7, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PART_ROWS, "cpu", most)
        measured = measure(logits, labels, users, counts, cutoffs=(1, 3, 10), bins=4)
    parts = [np.split(values, counts.cumsum()[:-1]) for values in (logits, labels, users)]
    expected = np.array([loop(*part, (1, 3, 10), 4) for part in zip(*parts, strict=True)]).T
    np.testing.assert_allclose(measured.detail.figures, expected, rtol=0, atol=1e-12)
    overall, (gauc, weights, groups, *_) = measured.overall(), expected
    if weights.any():
        assert overall["gauc"] == pytest.approx(np.nansum(gauc * weights) / weights.sum(), abs=1e-12)
        assert overall["ndcg"]["3"] == pytest.approx(np.nansum(expected[5] * groups) / groups.sum(), abs=1e-12)
        assert overall["hit_rate"]["10"] == pytest.approx(np.nansum(expected[9] * groups) / groups.sum(), abs=1e-12)
    if rows:
        # Rows within a cell count as equal: at most those at the ends of bins are apart.
        step = 16 * 2 / CELLS
        assert overall["calibration_error"] == pytest.approx(error(logits, labels, 4), abs=5 * step + 8 / rows)


def test_the_overall_calibration_error_is_that_of_all_rows():
    random = np.random.default_rng(3)
    logits = random.normal(size=40_000).astype(np.float32) - 2
    labels = (random.random(40_000) < 1 / (1 + np.exp(-1.5 * logits - 1))).astype(np.float32)
    measured = measure(logits, labels, np.ones(40_000, dtype=int), [100, 39_000, 900])
    expected = error(logits[:2000], labels[:2000], 10)
    assert measure(logits[:2000], labels[:2000], [0] * 2000, [2000]).overall()["calibration_error"] == pytest.approx(
        expected, abs=1e-4
    )
    together = measure(logits, labels, np.ones(40_000, dtype=int), [40_000])
    one = together.detail.calibration_error.item()
    assert one > 0.04
    assert together.overall()["calibration_error"] == pytest.approx(one, abs=1e-4)
    assert measured.overall()["calibration_error"] == together.overall()["calibration_error"]
    assert measured.overall()["pcoc"] == pytest.approx(together.pcoc.item(), abs=1e-12)


def test_groups_are_users_of_a_domain_and_unknown_users_are_ignored():
    # User 1 has an AUC of 1 in the first domain and of 0 in the second; together it would be 3/4.
    logits, labels = [0.2, 0.1, 5.0, 0.3, 0.4, 9.0, 9.0], [1, 0, 0, 1, 0, 1, 0]
    measured = measure(logits, labels, [1, 1, 0, 1, 1, 0, 2], [3, 4])
    assert measured.detail.gauc.tolist() == [1.0, 0.0]
    assert measured.detail.gauc_rows.tolist() == [2, 2]
    assert measured.overall()["gauc"] == 0.5
    nobody = measure(logits, labels, [0] * 7, [3, 4]).overall()
    assert [np.isnan(nobody["gauc"]), np.isnan(nobody["ndcg"]["5"])] == [True, True]


def test_a_score_that_is_not_finite_affects_only_its_user_and_domain():
    measured = measure([0.1, NAN, 0.5, 0.2, 0.3, 0.4], [0, 1, 1, 0, 0, 1], [1, 1, 2, 2, 1, 1], [4, 2])
    assert measured.detail.gauc.tolist() == [1.0, 1.0]
    assert measured.detail.groups.tolist() == [1, 1]
    assert measured.detail.calibration_error.isnan().tolist() == [True, False]
    assert np.isnan(measured.overall()["calibration_error"])


@pytest.mark.parametrize("values", [{"cutoffs": [0]}, {"cutoffs": [5, 5]}, {"cutoffs": [10, 5]}, {"bins": 0}])
def test_invalid_settings_are_rejected(values):
    with pytest.raises(ValueError, match="metrics"):
        MetricsSettings(**values)
