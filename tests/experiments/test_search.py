"""The search: equal budgets for all methods, reproducible draws, and failed trials."""

import math

import pytest

from mamdr_core.config.job_config import load_config, with_values
from mamdr_core.experiments.search import search_points
from mamdr_core.experiments.sweep import check_sweep
from mamdr_core.runtime.errors import MamdrError


def settings(**changes):
    space = {"train.inner.lr": {"low": 1e-5, "high": 1e-1, "log": True}}
    own = {"mamdr": {"train.dr.k": {"low": 1, "high": 9}, "train.dr.rows": {"choices": ["none", "touched"]}}}
    values = {"space": space, "method_space": own, "trials": 12, "seed": 3, **changes}
    return with_values(load_config(), {f"sweep.{key}": value for key, value in values.items()}).sweep


def hill(points):
    """Best at a rate of 1e-3; above 1e-2 it diverges."""
    rates = [point.values["train.inner.lr"] for point in points]
    return [None if rate > 1e-2 else 0.8 - 0.1 * abs(math.log10(rate) + 3) for rate in rates]


def test_every_method_has_the_same_number_of_trials_in_its_own_space():
    points = search_points(settings(), ["joint", "mamdr"], hill)
    assert [point.method for point in points] == ["joint"] * 12 + ["mamdr"] * 12
    assert {tuple(point.values) for point in points[:12]} == {("train.inner.lr",)}
    for point in points[12:]:
        assert 1 <= point.values["train.dr.k"] <= 9
        assert isinstance(point.values["train.dr.k"], int)
        assert point.values["train.dr.rows"] in ("none", "touched")
        assert 1e-5 <= point.values["train.inner.lr"] <= 1e-1


def test_equal_outcomes_give_equal_draws_and_a_larger_budget_extends_them():
    first = search_points(settings(), ["mamdr"], hill)
    again = search_points(settings(trials=20), ["mamdr"], hill)
    assert [point.values for point in again[:12]] == [point.values for point in first]
    assert search_points(settings(seed=4), ["mamdr"], hill)[0].values != first[0].values


def test_trials_come_in_batches_and_use_only_results_of_their_method():
    sizes = []

    def evaluate(points):
        sizes.append(len(points))
        return hill(points)

    alone = search_points(settings(batch=5), ["joint"], evaluate)
    both = search_points(settings(batch=5), ["joint", "mamdr"], evaluate)
    assert sizes == [5, 5, 2, 10, 10, 4]
    assert [point.values for point in both[:12]] == [point.values for point in alone]


def test_the_search_avoids_diverging_settings_and_approaches_the_best():
    points = search_points(settings(trials=60, method_space={}), ["joint"], hill)
    late = hill(points[30:])
    assert sum(auc is None for auc in late) / 30 < 0.25  # by chance it would be a quarter
    assert max(auc for auc in late if auc is not None) > 0.79


def test_a_search_in_which_every_trial_fails_terminates():
    assert len(search_points(settings(), ["joint"], lambda points: [None] * len(points))) == 12


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.space={train.dr.k: {low: 3}}", "a space needs either low and high, or choices"),
        ("sweep.space={train.dr.k: {low: 3, high: 3}}", "a space needs low < high, above 0 with log, got 3 and 3"),
        ("sweep.space={train.dr.k: {low: -1, high: 3, log: true}}", "above 0 with log, got -1 and 3"),
        ("sweep.space={train.dr.k: {lo: 3, high: 4}}", "sweep.space.train.dr.k"),
        ("sweep={trials: 3, grid: {train.dr.k: [1]}}", "sweep has both a grid and trials"),
        ("sweep.grid={train.dr.k: []}", "sweep.grid.train.dr.k needs distinct values, got []"),
        ("sweep.grid={train.dr.k: [1, 1]}", "needs distinct values, got [1, 1]"),
        ("sweep.batch=0", "batch must be >= 1"),
    ],
)
def test_a_mistake_is_named(override, message):
    with pytest.raises(MamdrError) as error:
        load_config(overrides=[override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("{train.refit_last_layer: {choices: [false, true]}}", r"refit_last_layer is for methods without theta_i"),
        ("{train.dr.k: {choices: [1, 2]}, model.dropout: {low: 0.0, high: 1.5}}", r"dropout must be .*1\.5"),
    ],
)
def test_all_choices_and_bounds_of_a_space_are_checked_before_the_search(space, message):
    config = load_config(overrides=["sweep.trials=2", f"sweep.space={space}"])
    with pytest.raises(MamdrError, match=message):
        check_sweep(config, ("joint", "mamdr"))
