"""The configs that are the paper's tables, laid over a data config."""

from pathlib import Path

import pytest

from mamdr_core.config.job_config import load_config
from mamdr_core.experiments.points import grid_points
from mamdr_core.experiments.sweep import check_sweep
from mamdr_core.experiments.trials import baseline_of
from mamdr_core.learning.methods import METHODS

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.mark.parametrize(("table", "pairs"), [("table2", 11), ("table4", 7), ("table5", 7)])
def test_a_table_of_pairs_has_its_baseline_among_them_and_keeps_the_data(table, pairs):
    config = load_config([str(CONF / "ciao.yaml"), str(CONF / f"{table}.yaml")])
    assert config.lake.root == ".ciao/lake"
    assert len(set(config.compare.pairs)) == pairs
    assert "/".join(baseline_of(("x", "y"), config.compare.baseline)) in config.compare.pairs


def test_table_3_is_six_structures_by_nine_methods():
    compared = load_config([str(CONF / "taobao10.yaml"), str(CONF / "table3.yaml")]).compare
    assert (len(compared.models), len(compared.methods), compared.baseline) == (6, 9, "joint")


def test_table_5_has_the_trials_of_table_4():
    table4, table5 = (load_config([str(CONF / f"{name}.yaml")]).compare for name in ("table4", "table5"))
    assert (table4.pairs, table4.seeds) == (table5.pairs, table5.seeds)
    assert table5.largest == 10


@pytest.mark.parametrize(("name", "points"), [("table10", 6), ("table11", 25)])
def test_a_sweep_of_the_paper_is_a_grid_over_settings_that_its_method_uses(name, points):
    config = load_config([str(CONF / "ciao.yaml"), str(CONF / f"{name}.yaml")])
    check_sweep(config, config.sweep.methods)
    assert len(grid_points(config, config.sweep.methods)) == points
    assert name != "table11" or config.train.outer.optimizer == "sgd"  # beta is Eq. 4's


def test_the_search_gives_every_method_the_same_budget_and_a_rate_of_its_own():
    config = load_config([str(CONF / "ciao.yaml"), str(CONF / "search.yaml")])
    check_sweep(config, config.sweep.methods)
    assert set(config.sweep.methods) == set(METHODS) - {"joint_data_parallel"}  # on one rank the same as joint
    assert "train.inner.lr" in config.sweep.space


@pytest.mark.parametrize("table", ["table2", "table3", "table4", "recipe"])
def test_no_method_is_compared_at_another_methods_rate(table):
    assert load_config([str(CONF / "ciao.yaml"), str(CONF / f"{table}.yaml")]).train.inner.lr is None
