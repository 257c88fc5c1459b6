"""Which bounds of quantiles a build keeps of the last one."""

import pytest

from mamdr_core.config.job_config import parse_config
from mamdr_core.lake.examples.increments import STATE, Increment, built_with
from mamdr_core.lake.examples.quantiles import QUANTILES, check_same_bounds, kept_bounds
from mamdr_core.runtime.errors import MamdrError

PRICE = {"name": "price", "kind": "categorical", "quantiles": 3}
AGE = {"name": "age", "kind": "categorical", "quantiles": 4}
BOUNDS = {"price": [1.0, 2.0], "age": [20.0, 30.0, 40.0]}


@pytest.mark.parametrize(
    ("reason", "features", "kept"),
    [
        ("", [PRICE, AGE], ["price", "age"]),
        ("examples.seed is 1, and was 0", [PRICE, AGE], ["price", "age"]),
        ("examples.rebuild is set", [PRICE, AGE], []),
        ("features differ", [PRICE, {**AGE, "quantiles": 5}], ["price"]),
        ("features differ", [AGE], ["age"]),
    ],
)
def test_bounds_stay_unless_they_are_asked_for_or_their_feature_has_changed(reason, features, kept):
    noted = {"built_with": built_with(parse_config({"features": [PRICE, AGE]})), QUANTILES: BOUNDS}
    increment = Increment(2, reason, {STATE: noted}, wanted=())
    assert kept_bounds(increment, parse_config({"features": features})) == {name: BOUNDS[name] for name in kept}


def test_the_first_build_keeps_none():
    assert (
        kept_bounds(Increment(0, "there are no examples yet", {}, wanted=()), parse_config({"features": [PRICE]})) == {}
    )


@pytest.mark.parametrize(
    ("learned", "now"),
    [
        (BOUNDS, BOUNDS),
        ({}, BOUNDS),  # a package that does not hold them
        (BOUNDS, {"age": BOUNDS["age"]}),
        ({"age": BOUNDS["age"]}, {**BOUNDS, "price": [5.0]}),
    ],
)
def test_a_run_fits_examples_that_have_its_bounds(learned, now):
    check_same_bounds("r", learned, now)


def test_a_run_of_other_bounds_is_refused_with_both():
    with pytest.raises(MamdrError, match=r"run r .* quantiles of age \(20, 30, 40\) .* have \(20, 30, 41, ...\)"):
        check_same_bounds("r", BOUNDS, {**BOUNDS, "age": [20.0, 30.0, 41.0, 50.0]})
