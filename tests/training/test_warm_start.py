"""Runs that start from another's parameters, on the days of a lake that grows, and runs of some domains alone."""

from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, find_checkpoint
from mamdr_core.training.driver import task_of, train_mamdr
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.files.specific_files import SavedSpecific
from mamdr_core.training.package import load_package, load_shared
from mamdr_core.training.package_shapes import read_metadata_and_shapes
from mamdr_core.training.parents import open_parent, resolve_parent
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.records import record_run
from mamdr_core.training.runs import fingerprint_of, new_run
from mamdr_core.training.worker import train_rank
from schemas import TABLES
from schemas.spark import spark_schema
from tests.training.test_checkpoints import run as run_with_checkpoints

pytestmark = pytest.mark.slow
DAYS = ("2026-01-01", "2026-01-02")
FROZEN = {"train.inner.lr": 0.0, "train.dr.lr": 0.0}


@pytest.fixture(scope="module")
def days(spark, trained_config, tmp_path_factory):
    """By day, the configuration of that day's run; on the second there is a domain more, and there are more users.

    Domain d0 is retired on the second day.
    """
    root = tmp_path_factory.mktemp("days")
    raw = str(root / "raw")
    features = [replace(f, path=f"{raw}_vectors/{f.of}s") if f.kind == "vector" else f for f in trained_config.features]
    synthetic = replace(trained_config.synthetic, days=2, drift=0.2, late_domains=1, domains=6, users=2000)
    config = replace(
        trained_config,
        lake=replace(trained_config.lake, root=str(root / "lake")),
        input=replace(trained_config.input, path=raw),
        features=tuple(features),
        synthetic=synthetic,
    )
    generate_logs(spark, config)
    ingest_clicks(spark, config)
    found = {}
    for day, retired in zip(DAYS, ((), ("d0",)), strict=True):
        day_config = with_values(config, {"examples.until": day, "examples.retired": retired})
        version = build_examples(spark, day_config)["examples_version"]
        found[day] = with_values(day_config, {"train.examples_version": version})
    return found


@pytest.fixture(scope="module")
def parent(spark, days):
    """The first day's run."""
    return train_mamdr(spark, days[DAYS[0]])


@pytest.fixture(scope="module")
def opened(spark, days, parent):
    """The lake, and the examples of the second day."""
    lake, pinned, _ = prepare_examples(spark, days[DAYS[1]])
    return lake, pinned


def promote(lake, *promoted):
    """Promotions of runs, each with its day, in this order."""
    table = TABLES["promotions"]
    now = datetime.now(UTC)
    rows = [
        {"number": n + 1, "run_id": run_id, "kind": "promote", "ds": day, "forced": False, "promoted_at": now}
        for n, (run_id, day) in enumerate(promoted)
    ]
    named = [tuple(row.get(name) for name in table.column_names) for row in rows]
    lake.overwrite(table, lake.spark.createDataFrame(named, spark_schema(table)))


def index_of(config, spark):
    return {row["id"]: row["index"] for row in Lake(spark, config.lake.root).read("domains").collect()}


def test_a_warm_run_that_learns_nothing_is_the_parent_with_rows_for_what_is_new(spark, days, parent):
    """Vocabularies have grown, a domain is new, and one has vanished."""
    config = with_values(days[DAYS[1]], FROZEN | {"train.warm_start": parent["run_id"]})
    figures = train_mamdr(spark, config)
    assert figures["parent_run_id"] == parent["run_id"]
    assert (figures["best_round"], figures["rounds"] > 0) == (0, True)
    row = Lake(spark, config.lake.root).read("training_runs").where(F.col("run_id") == figures["run_id"]).first()
    assert row["parent_run_id"] == parent["run_id"]
    theirs, ours = load_package(parent["package"]), load_package(figures["package"])
    assert torch.equal(ours.shared.dense, theirs.shared.dense)
    for name, rows in theirs.shared.tables.items():
        assert torch.equal(ours.shared.tables[name][: len(rows)], rows)
    for name, added in (("domain", 1), ("user", 100)):
        new = ours.shared.tables[name][len(theirs.shared.tables[name]) :]
        assert len(new) >= added
        assert 0.003 < new.std() < 0.03
    index = index_of(config, spark)
    assert set(ours.specific) - set(theirs.specific) == {index["d5"]}
    assert not ours.specific[index["d5"]].dense.any()
    assert "d0" in index
    for domain, change in theirs.specific.items():
        assert change.dense.any()
        assert torch.equal(ours.specific[domain].dense, change.dense)
    measured = evaluate_package(spark, with_values(config, {"evaluate.run_id": figures["run_id"]}))
    assert measured["auc"] == pytest.approx(figures["test_auc"], abs=1e-12)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_ranks_that_own_any_domains_start_from_the_same(days, opened, parent, tmp_path, tables):
    config = with_values(days[DAYS[1]], FROZEN | {"train.warm_start": parent["run_id"], "train.tables": tables})
    lake, pinned = opened
    task = task_of(new_run(lake, config, pinned))
    alone = replace(task, package=str(tmp_path / "1"))
    train_rank(alone, SingleProcess())
    three = replace(task, owner=np.array([2, 0, 2, 0, 0, 0]), package=str(tmp_path / "3"))
    run_simulated(partial(train_rank, three), 3)
    assert_same_parameters(tmp_path / "1", tmp_path / "3")


def assert_same_parameters(left, right):
    shared = [load_shared(Path(folder)) for folder in (left, right)]
    assert torch.equal(shared[0].dense, shared[1].dense)
    assert all(torch.equal(shared[0].tables[name], shared[1].tables[name]) for name in shared[0].tables)
    specific = [SavedSpecific(sorted(Path(folder).glob("specific-*"))) for folder in (left, right)]
    assert specific[0].keys() == specific[1].keys()
    assert all(torch.equal(specific[0][domain].dense, specific[1][domain].dense) for domain in specific[0])


def test_a_warm_run_learns_stops_and_resumes_bit_for_bit(days, opened, parent, tmp_path, monkeypatch):
    """It begins from the parent once; after that the checkpoint counts."""
    values = {"train.warm_start": parent["run_id"], "train.dr.schedule": "settled", "train.dr.epochs": 2}
    config = with_values(days[DAYS[1]], values)
    lake, pinned = opened
    task = task_of(new_run(lake, config, pinned))
    undisturbed = replace(task, package=str(tmp_path / "undisturbed"))
    result = train_rank(undisturbed, SingleProcess())
    stopped = replace(task, package=str(tmp_path / "stopped"))
    place = CheckpointLocation(str(tmp_path / "checkpoints"))
    run_with_checkpoints(stopped, 1, place, monkeypatch, 1)
    monkeypatch.setattr("mamdr_core.training.warm_start.ParentParameters.copy_to", lambda *_: 1 / 0)
    found = run_with_checkpoints(stopped, 1, find_checkpoint(Path(place.folder)))
    assert_same_parameters(tmp_path / "undisturbed", tmp_path / "stopped")
    assert (found.rounds, found.best_round) == (result.rounds, result.best_round)


def test_the_champion_of_the_days_before_is_the_parent_whenever_a_day_is_run(spark, days, parent, caplog):
    caplog.set_level("INFO")
    first, second = (with_values(days[day], {"train.warm_start": "champion"}) for day in DAYS)
    lake = Lake(spark, first.lake.root)
    assert resolve_parent(spark, first) == days[DAYS[0]]
    assert "no run of a day before 2026-01-01 has been promoted: this run starts cold" in caplog.text
    promote(lake, (parent["run_id"], date(2026, 1, 1)))
    expected = with_values(second, {"train.warm_start": parent["run_id"]})
    assert resolve_parent(spark, second) == expected
    promote(lake, (parent["run_id"], date(2026, 1, 1)), ("later", date(2026, 1, 2)))
    assert resolve_parent(spark, second) == expected
    assert resolve_parent(spark, with_values(second, {"train.warm_start": "champion@2026-01-01"})) == expected
    resolve_parent(spark, with_values(second, {"examples.until": None}))
    assert "the package of the champion, run later, was deleted" in caplog.text, "who serves now"


def test_the_parent_decides_the_cell(days, opened):
    _, pinned = opened
    values = ({}, {"train.warm_start": "a"}, {"train.warm_start": "b"}, {"train.warm_start": "b", "train.restarts": 9})
    cells = [fingerprint_of(with_values(days[DAYS[1]], changes), pinned) for changes in values]
    assert cells[0] != cells[1] != cells[2] == cells[3]


def test_a_run_warns_of_a_champions_deleted_package_and_starts_cold(spark, days, opened, caplog):
    lake, pinned = opened
    config = with_values(days[DAYS[1]], {"train.warm_start": "champion"})
    gone = {"run_id": "gone", "status": "ok", "method": "mamdr", "model": "mlp", "config": "", "input_versions": {}}
    path = lake.path_of("packages", "gone")
    record_run(lake, gone | {"package": path, "started_at": datetime(2026, 1, 1, tzinfo=UTC)})
    promote(lake, ("gone", date(2026, 1, 1)))
    assert resolve_parent(spark, config) == days[DAYS[1]]
    assert "the package of the champion, run gone, was deleted: this run starts cold" in caplog.text
    with pytest.raises(MamdrError, match=rf"train\.warm_start: {path} is not a model package"):
        open_parent(lake, with_values(config, {"train.warm_start": "gone"}), pinned)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model.hidden": [16]}, r"another model \(model\.hidden is \[16\], and was \[8\]\); set train\.warm_start"),
        ({"model.name": "star"}, r"model\.name is star, and was mlp"),
        ({"features": ()}, r"another model \(features is \[\], and was \['user_vector'"),
        ({"train.warm_start": "nobody"}, r"train\.warm_start: training_runs of .* has no run nobody"),
    ],
)
def test_a_parent_that_does_not_fit_is_a_clear_error(days, opened, parent, values, message):
    lake, pinned = opened
    config = with_values(days[DAYS[1]], {"train.warm_start": parent["run_id"], **values})
    with pytest.raises(MamdrError, match=message):
        open_parent(lake, config, pinned)


def test_a_parent_that_knows_more_than_the_examples_is_a_clear_error(days, opened, parent):
    lake, pinned = opened
    config = with_values(days[DAYS[1]], {"train.warm_start": parent["run_id"], "model.dropout": 0.1})
    assert open_parent(lake, config, pinned).run_id == parent["run_id"]
    older = replace(pinned, sizes=pinned.sizes | {"user": 10})
    with pytest.raises(MamdrError, match=r"has larger vocabularies than examples version \d+: \d+ users, not 10"):
        open_parent(lake, config, older)


def test_a_parent_with_parameters_of_other_shapes_is_an_error_that_names_the_setting(days, opened, parent, monkeypatch):
    lake, pinned = opened
    metadata, shapes = read_metadata_and_shapes(parent["package"])
    changed = metadata, shapes | {"shared.safetensors": {}}
    monkeypatch.setattr("mamdr_core.training.parents.read_metadata_and_shapes", lambda *_: changed)
    advice = r"start from another run, or set train\.warm_start"
    message = rf"train\.warm_start: package .*: shared\.safetensors does not .*; {advice}"
    with pytest.raises(MamdrError, match=message):
        open_parent(lake, with_values(days[DAYS[1]], {"train.warm_start": parent["run_id"]}), pinned)


@pytest.mark.parametrize("method", ["mamdr", "finetune"])
def test_named_domains_learn_alone_and_all_else_is_the_parents(spark, days, parent, method):
    values = {"train.only_domains": ["d5", "d2"], "train.method": method, "examples.until": None}
    config = with_values(days[DAYS[1]], values)
    lake = Lake(spark, config.lake.root)
    promote(lake, (parent["run_id"], date(2026, 1, 1)))
    figures = train_mamdr(spark, config)
    index = index_of(config, spark)
    named = {index["d5"], index["d2"]}
    theirs, ours = load_package(parent["package"]), load_package(figures["package"])
    assert torch.equal(ours.shared.dense, theirs.shared.dense)
    assert ours.pinned["numeric"] == theirs.pinned["numeric"]
    assert set(ours.specific) == set(theirs.specific) | named
    for domain, change in theirs.specific.items():
        assert torch.equal(ours.specific[domain].dense, change.dense) == (domain not in named)
    assert ours.specific[index["d5"]].dense.any()
    assert figures["parent_run_id"] == parent["run_id"]
    run = lake.read("training_runs").where(F.col("run_id") == figures["run_id"]).first()
    assert str(run["ds"]) == DAYS[0]  # promoted, it serves in the place of its parent
    assert (figures["rounds"], figures["domains"], figures["domains_measured"]) == (0, 2, 2)
    metrics = lake.read("domain_metrics").where(F.col("run_id") == figures["run_id"])
    assert {row["domain_id"] for row in metrics.collect()} == {"d5", "d2"}
    measured = evaluate_package(spark, with_values(config, {"evaluate.run_id": figures["run_id"]}))
    assert measured["domains_measured"] == 5


def test_named_domains_on_ranks_that_own_any_learn_the_same(days, opened, parent, tmp_path):
    values = {"train.only_domains": ["d5", "d2"], "train.warm_start": parent["run_id"], "train.dr.schedule": "settled"}
    config = with_values(days[DAYS[1]], values)
    lake, pinned = opened
    task = task_of(new_run(lake, config, pinned))
    alone = replace(task, package=str(tmp_path / "1"))
    three = replace(task, owner=np.array([2, 0, 2, 0, 0, 0]), package=str(tmp_path / "3"))
    train_rank(alone, SingleProcess())
    run_simulated(partial(train_rank, three), 3)
    left, right = (load_specific(tmp_path / ranks) for ranks in ("1", "3"))
    for domain, change in left.items():
        torch.testing.assert_close(change.dense, right[domain].dense, rtol=1e-4, atol=1e-5)


def load_specific(folder):
    return dict(SavedSpecific(sorted(Path(folder).glob("specific-*"))))


def test_no_run_to_start_from_is_a_clear_error(spark, trained_config, tmp_path):
    values = {"lake.root": str(tmp_path / "lake"), "train.only_domains": ["d1"]}
    with pytest.raises(MamdrError, match=r"no table training_runs yet: run jobs/train_mamdr\.py first"):
        train_mamdr(spark, with_values(trained_config, values))
