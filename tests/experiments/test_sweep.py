"""sweep in Spark: a grid with diverging points, and a search whose best point is run with all seeds."""

from pathlib import Path

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.experiments.sweep import sweep
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grid_config(experiment_config):
    """Two rates, one far too high, by two values of beta."""
    changes = {
        "sweep.name": "grid",
        "sweep.methods": ["dn"],
        "sweep.grid": {"train.inner.lr": [0.001, 1e30], "train.outer.beta": [0.5, 1.0]},
        "sweep.seeds": [0, 1],
        "train.inner.optimizer": "sgd",
    }
    return with_values(experiment_config, changes)


@pytest.fixture(scope="module")
def grid(spark, grid_config):
    """Result of the first sweep over the grid."""
    return sweep(spark, grid_config)


def test_points_are_recorded_with_their_spread_or_as_failed(spark, grid_config, grid):
    assert (grid["points"], grid["done"], grid["skipped"], grid["failed"]) == (4, 4, 0, 4)
    lake = Lake(spark, grid_config.lake.root)
    rows = lake.read("sweeps").where("sweep = 'grid'").orderBy("point").collect()
    settings = [(row["settings"]["train.inner.lr"], row["settings"]["train.outer.beta"]) for row in rows]
    assert settings == [("0.001", "0.5"), ("0.001", "1.0"), ("1.0e+30", "0.5"), ("1.0e+30", "1.0")]
    assert [(row["status"], row["seeds"]) for row in rows] == [("ok", 2)] * 2 + [("failed", 0)] * 2
    assert "is not finite" in rows[2]["error"]
    runs = lake.read("training_runs").where(F.col("run_id").isin(rows[0]["runs"]))
    expected = runs.agg(F.mean("val_auc"), F.stddev_samp("val_auc"), F.mean("test_auc")).first()
    found = tuple(rows[0][name] for name in ("val_auc", "val_auc_std", "test_auc"))
    assert found == pytest.approx(tuple(expected), abs=1e-12)


def test_the_best_is_chosen_by_validation_and_compared(spark, grid_config, grid):
    lake = Lake(spark, grid_config.lake.root)
    rows = lake.read("sweeps").where("sweep = 'grid' AND status = 'ok'").collect()
    best = max(rows, key=lambda row: row["val_auc"])
    assert [row["point"] for row in rows if row["chosen"]] == [best["point"]]
    assert grid["best"]["dn"] == {name: best[name] for name in ("settings", "val_auc", "test_auc")}
    compared = lake.read("comparisons").where("comparison = 'grid'").first()
    assert sorted(compared["runs"]) == sorted(best["runs"])
    assert compared["test_auc"] == pytest.approx(best["test_auc"], abs=1e-12)


def test_tables_and_a_heat_map_are_written(grid_config, grid):
    folder = Path(grid_config.lake.root, "reports", "grid")
    text = (folder / "sweep.md").read_text()
    assert "dn: test AUC by train.inner.lr (across) and train.outer.beta (down)" in text
    assert "| train.outer.beta | 0.001 | 1.0e+30 |" in text
    figure = (folder / "sweep-dn.svg").read_text()
    assert figure.startswith("<?xml")
    assert "train.outer.beta" in figure
    assert (folder / "sweep.tex").exists()
    assert (folder / "comparison.md").exists()


def test_a_wider_grid_runs_only_what_is_new_and_one_key_is_a_line(spark, grid_config, grid):
    wider = with_values(
        grid_config,
        {
            "train.inner.lr": 0.001,
            "sweep.name": "line",
            "sweep.grid": {"train.outer.beta": [0.5, 0.75]},
            "sweep.seeds": [0, 1],
        },
    )
    result = sweep(spark, wider)
    assert (result["done"], result["skipped"], result["failed"]) == (2, 2, 0)
    assert "train.outer.beta" in Path(grid_config.lake.root, "reports/line/sweep.svg").read_text()


def test_a_search_measures_its_best_over_the_seeds_and_resumes(spark, experiment_config):
    changes = {
        "sweep.name": "search",
        "sweep.methods": ["joint", "dn"],
        "sweep.trials": 2,
        "sweep.space": {"train.inner.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "sweep.method_space": {"dn": {"train.outer.beta": {"low": 0.2, "high": 1.0}}},
        "sweep.seeds": [5, 6],
    }
    config = with_values(experiment_config, changes)
    result = sweep(spark, config)
    assert (result["points"], result["done"], result["skipped"], result["failed"]) == (4, 6, 0, 0)
    rows = Lake(spark, config.lake.root).read("sweeps").where("sweep = 'search'").collect()
    assert sorted((row["method"], row["point"]) for row in rows) == [(m, n) for m in ("dn", "joint") for n in range(2)]
    runs = {row["run_id"]: row for row in Lake(spark, config.lake.root).read("training_runs").collect()}
    for method in ("joint", "dn"):
        own = [row for row in rows if row["method"] == method]
        best = max(own, key=lambda row: runs[row["runs"][0]]["val_auc"])
        assert [row["point"] for row in own if row["chosen"]] == [best["point"]]
        assert [row["seeds"] for row in own if not row["chosen"]] == [1]
        assert best["seeds"] == 2
    compared = Lake(spark, config.lake.root).read("comparisons").where("comparison = 'search'").collect()
    assert {(row["method"], row["seeds"], row["baseline"]) for row in compared} == {
        ("joint", 2, "mlp/joint"), ("dn", 2, "mlp/joint"),
    }  # fmt: skip
    again = sweep(spark, config)
    assert (again["done"], again["skipped"], again["best"]) == (0, 6, result["best"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "sweep has no points"),
        ({"sweep.methods": ["dnn"], "sweep.trials": 1}, "sweep: unknown method dnn; known: joint"),
        ({"sweep.grid": {"train.seed": [1]}}, "sweep.grid: train.seed cannot be set for a trial"),
        ({"sweep.grid": {"train.dr.kk": [1]}}, "unknown config key train.dr.kk; did you mean train.dr.k"),
        ({"sweep.trials": 2, "sweep.space": {"train.dr.kk": {"low": 1, "high": 2}}}, "unknown config key train.dr.kk"),
        ({"sweep.trials": 2}, "sweep.trials needs sweep.space"),
        ({"sweep.trials": 2, "sweep.method_space": {"dn": {}}}, "dn is not in sweep.methods: mamdr"),
        (
            {"sweep.grid": {"train.refit_last_layer": [False, True]}},
            "train.refit_last_layer is for methods without theta_i, and train.method is mamdr",
        ),
    ],
)
def test_configuration_errors_are_reported_before_data_are_read(spark, experiment_config, tmp_path, changes, message):
    with pytest.raises(MamdrError) as error:
        sweep(spark, with_values(experiment_config, {"lake.root": str(tmp_path / "none"), **changes}))
    assert message in str(error.value)
    assert not (tmp_path / "none").exists()
