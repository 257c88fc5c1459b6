"""compare_methods in Spark: two methods with two seeds, resumption, and failed trials."""

from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark import cloudpickle
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.experiments.compare import compare_methods
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.launch import RankError
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.runs import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(experiment_config):
    """Joint against MAMDR with two seeds."""
    return with_values(experiment_config, {"compare.name": "first", "compare.seeds": [0, 1], "compare.parallel": 2})


@pytest.fixture(scope="module")
def first(spark, config):
    """Result of the first comparison."""
    return compare_methods(spark, config)


def runs_of(spark, config):
    return Lake(spark, config.lake.root).read("training_runs")


def test_every_trial_is_a_recorded_run_with_a_package_on_one_version(spark, config, first):
    assert (first["cells"], first["done"], first["skipped"], first["failed"]) == (4, 4, 0, 0)
    runs = runs_of(spark, config).collect()
    assert sorted((run["method"], run["status"]) for run in runs) == [("joint", "ok")] * 2 + [("mamdr", "ok")] * 2
    assert {run["experiment"] for run in runs} == {"first"}
    assert len({run["cell"] for run in runs}) == 4
    assert {run["input_versions"]["examples"] for run in runs} == {first["examples_version"]}
    assert all((Path(run["package"]) / "manifest.json").is_file() for run in runs)
    assert not list(Path(config.lake.root, "packages").glob(".*.part"))


def test_the_table_holds_the_means_over_domains_and_seeds_of_its_runs(spark, config, first):
    lake = Lake(spark, config.lake.root)
    rows = {row["method"]: row for row in lake.read("comparisons").collect()}
    assert set(rows) == {"joint", "mamdr"}
    for method, row in rows.items():
        runs = lake.read("training_runs").where(F.col("method") == method)
        assert sorted(row["runs"]) == sorted(run["run_id"] for run in runs.collect())
        expected = runs.agg(F.mean("test_auc"), F.mean("weighted_test_auc"), F.mean("val_auc")).first()
        found = (row["test_auc"], row["weighted_test_auc"], row["val_auc"])
        assert found == pytest.approx(tuple(expected), abs=1e-12)
        deviation = runs.agg(F.stddev_samp("test_auc")).first()[0]
        assert row["test_auc_std"] == pytest.approx(deviation, abs=1e-12)
    assert (rows["joint"]["wins"], rows["joint"]["p_value"]) == (None, None)
    mamdr = rows["mamdr"]
    assert mamdr["wins"] + mamdr["ties"] + mamdr["losses"] == mamdr["domains"] == 5
    assert mamdr["difference"] == pytest.approx(mamdr["test_auc"] - rows["joint"]["test_auc"], abs=1e-12)
    assert rows["joint"]["rank"] + mamdr["rank"] == pytest.approx(3.0)
    assert first["rows"]["mlp/mamdr"]["test_auc"] == mamdr["test_auc"]


def test_the_report_is_written_as_markdown_and_latex(config, first):
    text = Path(first["report"]).read_text()
    assert Path(first["report"]) == Path(config.lake.root, "reports/first/comparison.md")
    assert f"{first['rows']['mlp/mamdr']['test_auc']:.4f}" in text
    assert "Test AUC in the 5 largest domains" in text
    assert r"\toprule" in Path(config.lake.root, "reports/first/comparison.tex").read_text()


def test_a_trial_whose_run_was_deleted_is_repeated_with_the_same_result(spark, config, first):
    lake = Lake(spark, config.lake.root)
    gone = lake.read("training_runs").where(F.col("method") == "mamdr").first()
    DeltaTable.forPath(spark, lake.path("training_runs")).delete(F.col("run_id") == gone["run_id"])
    again = compare_methods(spark, config)
    assert (again["done"], again["skipped"], again["failed"]) == (1, 3, 0)
    found = lake.read("training_runs").where(F.col("cell") == gone["cell"]).collect()
    assert len(found) == 1
    assert found[0]["run_id"] != gone["run_id"]
    assert found[0]["test_auc"] == pytest.approx(gone["test_auc"], abs=1e-6)
    assert lake.read("comparisons").where("comparison = 'first'").count() == 2


def test_a_run_of_train_mamdr_equals_a_trial_in_a_task_and_counts_as_the_trial(spark, config, first):
    row = runs_of(spark, config).where("method = 'joint' AND config LIKE '%seed: 1%' AND experiment = 'first'").first()
    figures = train_mamdr(spark, with_values(config, {"train.seed": 1, "train.method": "joint"}))
    assert figures["test_auc"] == pytest.approx(row["test_auc"], abs=1e-6)
    changes = {"compare.methods": ["joint"], "compare.seeds": [1], "compare.name": "one"}
    result = compare_methods(spark, with_values(config, changes))
    assert (result["done"], result["skipped"]) == (0, 1)
    assert result["rows"]["mlp/joint"]["test_auc"] == pytest.approx(figures["test_auc"], abs=1e-12)
    compared = Lake(spark, config.lake.root).read("comparisons").where("comparison = 'one'").first()
    assert compared["runs"] == [figures["run_id"]] != [row["run_id"]]


def test_a_diverging_trial_is_recorded_as_failed_and_the_others_continue(spark, config, first):
    changes = {"train.inner.lr": 1e30, "train.inner.optimizer": "sgd"}
    diverging = with_values(
        config,
        {"compare.name": "diverging", "compare.methods": ["joint", "alternate"], "compare.seeds": [0],
         "compare.overrides": {"alternate": changes}},
    )  # fmt: skip
    result = compare_methods(spark, diverging)
    assert (result["done"], result["skipped"], result["failed"]) == (0, 1, 1)
    failed = runs_of(spark, config).where("method = 'alternate'").collect()
    assert [run["status"] for run in failed] == ["failed"]
    assert "is not finite" in failed[0]["error"]
    rows = {row["method"]: row for row in Lake(spark, config.lake.root).read("comparisons").collect()}
    assert (rows["alternate"]["seeds"], rows["alternate"]["failed"], rows["alternate"]["test_auc"]) == (0, 1, None)
    assert result["rows"]["mlp/joint"]["test_auc"] is not None
    alone = with_values(diverging, {"compare.methods": ["alternate"], "compare.baseline": "alternate"})
    with pytest.raises(MamdrError, match=r"diverging: none of 1 trials finished; the first error: .* is not finite"):
        compare_methods(spark, alone)


def test_a_stopped_comparison_leaves_no_partial_record_and_resumes(spark, config, first, monkeypatch):
    finish, finished = Run.finish, []

    def stop_at_the_second(self, *arguments):
        if finished:
            raise KeyboardInterrupt
        finished.append(self.id)
        return finish(self, *arguments)

    stopped = with_values(
        config,
        {"compare.name": "stopped", "compare.methods": ["joint", "finetune"], "compare.seeds": [3], "train.dr.k": 0},
    )
    monkeypatch.setattr(Run, "finish", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        compare_methods(spark, stopped)
    monkeypatch.undo()
    recorded = runs_of(spark, config).where("experiment = 'stopped'").collect()
    assert [(run["run_id"], run["status"]) for run in recorded] == [(finished[0], "ok")]
    assert not list(Path(config.lake.root, "packages").glob(".*.part"))
    result = compare_methods(spark, stopped)
    assert (result["done"], result["skipped"], result["failed"]) == (1, 1, 0)


def test_trials_with_several_ranks_are_launched_and_retry_after_a_lost_rank(spark, config, first, monkeypatch):
    """`run_ranks` is replaced by ranks in this process; tests/parallel/test_launched_ranks.py starts real ones."""
    calls = []

    def lose_one(spark, task, ranks, start_timeout, launcher, *more):
        calls.append((ranks, launcher))
        if len(calls) == 1:
            raise RankError("rank 1 of 2 was lost")
        return run_simulated(cloudpickle.loads(cloudpickle.dumps(task)), ranks)

    monkeypatch.setattr("mamdr_core.training.driver.run_ranks", lose_one)
    pair = with_values(config, {"train.ranks": 2, "compare.seeds": [0], "compare.name": "ranks"})
    pair = with_values(pair, {"compare.methods": ["joint"]})
    result = compare_methods(spark, pair)
    assert (result["done"], result["failed"]) == (1, 0)
    assert calls == [(2, "horovod")] * 2
    (run,) = runs_of(spark, config).where("experiment = 'ranks'").collect()
    assert (run["ranks"], run["status"], run["attempts"], run["causes"]) == (2, "ok", 2, ["rank 1 of 2 was lost"])


def test_sigterm_stops_a_comparison_in_its_current_trial(spark, config, first, monkeypatch):
    def train(*arguments):
        raise StoppedError("stopped by SIGTERM after round 3: saved in checkpoint 2, --resume continues from there")

    monkeypatch.setattr("mamdr_core.experiments.running.train_on_ranks", train)
    with pytest.raises(StoppedError, match="the next start keeps the trials that have finished"):
        compare_methods(spark, with_values(config, {"train.ranks": 2, "compare.name": "terminated"}))
    (run,) = runs_of(spark, config).where("experiment = 'terminated'").collect()
    assert run["status"] == "stopped"
    assert "--resume" not in run["error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare.methods": ["joint", "mamdrr"]}, "unknown method mamdrr; known: joint, alternate"),
        (
            {"compare.methods": ["joint", "mamdr"], "train.refit_last_layer": True},
            r"train\.refit_last_layer is for methods without theta_i, and train\.method is mamdr",
        ),
    ],
)
def test_configuration_errors_are_reported_before_data_are_read(spark, config, tmp_path, changes, message):
    with pytest.raises(MamdrError, match=message):
        compare_methods(spark, with_values(config, {"lake.root": str(tmp_path / "none"), **changes}))
    assert not (tmp_path / "none").exists()
