"""What the report works out."""

import numpy as np
import pytest

from mamdr_core.reports.facts import ReferenceRun
from mamdr_core.reports.figures import calibration, calibration_groups, difference, groups_by, ranked, weighted_mean

NAN = float("nan")


def other(theirs, ours):
    return ReferenceRun({"run_id": "o"}, np.array(theirs), np.array(ours), same_rows=True)


def test_a_difference_is_over_the_domains_that_both_have_an_auc_in():
    found = difference(other([0.6, 0.7, NAN, 0.8], [0.62, 0.7, 0.9, 0.77]), np.array([10.0, 20, 30, 70]))
    assert (found.domains, found.better, found.worse) == (3, 1, 1)
    assert found.mean == pytest.approx((0.02 + 0 - 0.03) / 3)
    assert found.weighted == pytest.approx((0.2 - 2.1) / 100)
    spread = np.std([0.02, 0, -0.03], ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx((found.mean - 1.959964 * spread, found.mean + 1.959964 * spread))


def test_one_domain_has_a_difference_without_an_interval_and_none_has_none():
    found = difference(other([0.6], [0.7]), np.array([5.0]))
    assert found.mean == pytest.approx(0.1)
    assert np.isnan([found.low, found.high]).all()
    assert difference(other([NAN], [0.7]), np.array([5.0])) is None
    assert difference(other([], []), np.zeros(0)) is None


def test_domains_are_grouped_by_size():
    sizes, means = groups_by(np.array([1.0, 100] * 5), np.array([0.5, 0.7] * 5))
    assert sizes == pytest.approx([1, 100])
    assert means == pytest.approx([0.5, 0.7])
    assert len(groups_by(np.arange(1.0, 10), np.ones(9))[0]) == 0  # too few for two groups


def test_calibration_is_predicted_over_found_clicks():
    figures = {
        "rows": np.array([100.0, 50, 10]),
        "clicks": np.array([10.0, 10, 0]),
        "mean_prediction": np.array([0.2, 0.1, 0.01]),
    }
    assert calibration(figures)[:2] == pytest.approx([2.0, 0.5])
    assert np.isnan(calibration(figures)[2])
    predicted, found = calibration_groups(figures, groups=2)
    assert predicted == pytest.approx([(0.1 + 5) / 60, 0.2])  # in order of prediction, about equal rows
    assert found == pytest.approx([10 / 60, 0.1])


def test_domains_with_few_rows_of_a_class_are_not_ranked_where_others_are():
    figures = {
        "auc": np.array([0.1, 0.6, 0.9, NAN, 0.7]),
        "clicks": np.array([1.0, 20, 30, 0, 12]),
        "rows": np.array([50.0, 90, 90, 90, 15]),
    }
    worst, best, sure = ranked(figures, 10)
    assert (worst.tolist(), best.tolist(), sure) == ([1, 2], [2, 1], True)
    worst, best, sure = ranked({name: values[[0, 3]] for name, values in figures.items()}, 10)
    assert (worst.tolist(), best.tolist(), sure) == ([0], [0], False)


def test_a_weighted_mean_of_nothing_is_not_known():
    assert np.isnan(weighted_mean(np.array([NAN]), np.array([1.0])))
