"""The job score: predictions equal those of evaluation, unknown ids are scored, and a rerun replaces its batch."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F
from safetensors.torch import load_file, save_file

from mamdr_core.config.job_config import parse_config, with_values
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.parameters import Theta
from mamdr_core.lake.core.session import overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving import scoring
from mamdr_core.serving.opening import find_served
from mamdr_core.serving.requests import encode_requests, read_requests
from mamdr_core.serving.scorer import index_of
from mamdr_core.serving.scoring import score
from mamdr_core.training.building import make_engine
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.evaluation import predict_domains
from mamdr_core.training.files.manifest import MANIFEST, hash_files, write_manifest
from mamdr_core.training.trained_run import open_trained

pytestmark = pytest.mark.slow


def scored(spark, config, batch):
    """The rows of a batch, as a pandas frame."""
    return Lake(spark, config.lake.root).read("scores").where(F.col("batch") == batch).toPandas()


def by_domain_and_key(frame, trained):
    """Rows of a batch in the order of evaluation."""
    index = {domain: number for number, domain in enumerate(trained.pinned.domain_ids)}
    frame = frame.assign(index=frame["domain"].map(index), number=frame["key"].astype("int64"))
    return frame.sort_values(["index", "number"])


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_scores_and_aucs_of_the_test_split_equal_those_of_evaluation(spark, trained_config, run, tables):
    if tables == "sharded":
        changed = {"train.tables": tables, "train.epochs": 1, "train.calibration": "platt", "train.negative_rate": 0.5}
        run = train_mamdr(spark, with_values(trained_config, changed))
        assert run["uncalibrated"]["pcoc"] != run["test_pcoc"]
    figures = score(spark, with_values(trained_config, {"score.run_id": run["run_id"]}))
    trained = open_trained(spark, trained_config, run["run_id"], ["test"])
    columns = trained.share.columns("test")
    engine = make_engine(trained.config, trained.pinned, trained.share, trained.device)
    logits = predict_domains(engine, trained.package.shared, trained.package.specific, columns, range(5))
    if tables == "sharded":  # scores are corrected for the half of the negatives that was not sampled
        domains, calibration = columns.ids["domain"] - 1, trained.package.calibration
        assert (calibration.slope_K > 0).all()
        logits = calibration.apply(logits, domains) + np.log(0.5)
        evaluated = evaluate_package(spark, with_values(trained_config, {"evaluate.run_id": run["run_id"]}))
        assert evaluated["uncalibrated"] == pytest.approx(run["uncalibrated"], rel=1e-5)
        assert evaluated["pcoc"] == pytest.approx(run["test_pcoc"], rel=1e-5)
    rows = by_domain_and_key(scored(spark, trained_config, run["run_id"]), trained)
    assert len(rows) == figures["rows"] == len(columns)
    np.testing.assert_allclose(rows["score"], logits.double().sigmoid().numpy(), rtol=0, atol=1e-6)
    assert rows["specific"].all()
    assert rows["user_known"].all()
    measured = domain_metrics(torch.from_numpy(rows["score"].to_numpy()), columns.labels, columns.offsets, None)
    lake = Lake(spark, trained_config.lake.root)
    recorded = lake.read("domain_metrics").where((F.col("run_id") == run["run_id"]) & (F.col("split") == "test"))
    for row in recorded.collect():
        assert measured.auc[row["domain"]].item() == pytest.approx(row["auc"], abs=1e-6)
    assert (figures["domains"], figures["specific_rows"], figures["unknown_users"]) == (5, len(rows), 0)


def test_a_package_of_other_shapes_is_a_clear_error_before_anything_is_scored(
    spark, trained_config, run, tmp_path, monkeypatch
):  # fmt: skip
    copy = Path(shutil.copytree(run["package"], tmp_path / "package"))
    (file,) = copy.glob("specific-*.safetensors")
    tensors = load_file(file)
    save_file(tensors | {"dense": tensors["dense"][:, :-1].contiguous()}, file)
    write_manifest(copy, hash_files(copy, [each.name for each in copy.iterdir() if each.name != MANIFEST]))
    row = {"run_id": run["run_id"], "package": str(copy)}
    monkeypatch.setattr("mamdr_core.serving.opening.find_run", lambda lake, run_id: row)
    with pytest.raises(MamdrError, match=rf"{file.name} does not have the shapes of the model in its config\.yaml"):
        score(spark, trained_config)


def write_requests(spark, config, rows):
    """Write raw rows to score; the hour and the weekday are computed from event_time."""
    frame = spark.createDataFrame(rows, "who string, item string, domain string, event_time string, n int")
    frame = frame.withColumn("event_time", F.col("event_time").cast("timestamp"))
    frame.coalesce(1).write.parquet(config.score.input.path)


@pytest.fixture
def requests(spark, trained_config, run, tmp_path):
    """A configuration that scores raw rows, and the ids of a user, an item and a domain."""
    lake = Lake(spark, trained_config.lake.root)
    known = [lake.read(f"{name}s").where(F.col("index") == 3).first()["id"] for name in ("user", "item", "domain")]
    values = {
        "score.run_id": run["run_id"],
        "score.batch": "requests",
        "score.input.path": str(tmp_path / "requests"),
        "score.input.columns.user": "who",
        "score.input.columns.key": "n",
    }
    return with_values(trained_config, values), known


def expect(spark, config, run, ids, hour, weekday):
    """The probability predicted by the engine; `ids` are rows of the tables, 0 for unknown ids."""
    trained = open_trained(spark, config, run["run_id"], ["test"])
    engine = make_engine(trained.config, trained.pinned, trained.share, trained.device)
    mean, deviation = trained.pinned.numeric["hour"]
    columns = trained.share.columns("test")
    rows = replace(
        columns,
        ids={name: torch.tensor([ids.get(name, weekday)], dtype=torch.int32) for name in columns.ids},
        numeric=torch.tensor([[0.0 if hour is None else (hour - mean) / deviation]]),
    )
    own = trained.package.specific.get(ids["domain"] - 1)
    logit = engine.predict(Theta(trained.package.shared, own), Visit(rows, torch.tensor([0])))
    return logit.double().sigmoid().item()


def test_unknown_ids_read_row_zero_and_a_new_domain_has_only_theta_s(spark, trained_config, run, requests):
    config, (user, item, domain) = requests
    time = "2026-01-01 05:30:00"
    rows = [
        (user, item, domain, time, 0),
        ("nobody", item, domain, time, 1),
        (user, None, domain, time, 2),
        (user, item, "a new domain", time, 3),
        (user, item, domain, None, 4),
    ]
    write_requests(spark, config, rows)
    figures = score(spark, config)
    counted = {name: figures[name] for name in ("rows", "unknown_users", "unknown_items", "unknown_domains")}
    assert counted == {"rows": 5, "unknown_users": 1, "unknown_items": 1, "unknown_domains": 1}
    assert (figures["specific_rows"], figures["domains"], figures["no_number"]) == (4, 2, 0)
    found = scored(spark, config, "requests").set_index("key")
    weekday = Lake(spark, config.lake.root).read("examples").select("weekday", "ds").distinct()
    encoded = weekday.where(F.col("ds") == "2026-01-01").first()
    known = {"user": 4, "item": 4, "domain": 4}
    day = (encoded["weekday"] if encoded else -1) + 1
    for key, ids, hour, own_day in [
        ("0", known, 5, day),
        ("1", known | {"user": 0}, 5, day),
        ("2", known | {"item": 0}, 5, day),
        ("3", known | {"domain": 0}, 5, day),
        ("4", known, None, 0),
    ]:
        assert found.loc[key, "score"] == pytest.approx(expect(spark, config, run, ids, hour, own_day), abs=1e-6)
    assert not found.loc["3", "specific"]
    assert found.loc["0", "specific"]
    assert found.loc["2", "item"] is None


def test_indices_beyond_the_tables_of_the_model_are_unknown(spark, trained_config, run, requests):
    """As in a lake whose vocabularies have grown since the run was trained."""
    config, (user, item, domain) = requests
    rows = [(user, item, domain, "2026-01-01 05:30:00", 0)]
    write_requests(spark, config, rows)
    lake = Lake(spark, config.lake.root)
    served = find_served(lake, run["run_id"])
    smaller = replace(served, sizes={**served.sizes, "user": 3, "domain": 3})
    encoded = encode_requests(read_requests(spark, config.score.input, smaller), lake, smaller).first()
    assert (encoded["_user_index"], encoded["_item_index"], encoded["_domain_index"]) == (-1, 3, -1)


def test_a_rerun_replaces_its_batch_and_no_other(spark, trained_config, run):
    config = with_values(trained_config, {"score.run_id": run["run_id"], "score.batch": "2026-01-01"})
    first, other = score(spark, config), score(spark, with_values(config, {"score.batch": "2026-01-02"}))
    again = score(spark, config)
    same = ("rows", "domains", "specific_rows")
    assert [first[name] for name in same] == [again[name] for name in same] == [other[name] for name in same]
    assert again["mean_score"] == pytest.approx(first["mean_score"], abs=1e-8)
    scores = Lake(spark, config.lake.root).read("scores").groupBy("batch").count().collect()
    counts = {row["batch"]: row["count"] for row in scores}
    assert counts["2026-01-01"] == counts["2026-01-02"] == first["rows"]


def test_a_batch_is_unchanged_if_its_input_changes_while_it_is_scored(spark, trained_config, run, monkeypatch):
    config = with_values(trained_config, {"score.run_id": run["run_id"], "score.batch": "kept"})
    score(spark, config)
    scores = Lake(spark, config.lake.root).read("scores").where("batch = 'kept'")
    before, real = sorted(map(str, scores.collect())), scoring.score_rows
    monkeypatch.setattr(scoring, "score_rows", lambda rows, *others: real(rows.limit(3), *others))
    with pytest.raises(MamdrError, match=r"changed while it was read: .* rows were counted, 3 scored"):
        score(spark, config)
    scores = Lake(spark, config.lake.root).read("scores").where("batch = 'kept'")
    assert sorted(map(str, scores.collect())) == before


def test_a_large_domain_is_split_over_tasks_and_small_ones_are_not(spark):
    """Also in a session without adaptive execution."""
    domain = F.when(F.col("id") % 10 == 0, F.col("id") % 7 + 1).otherwise(0).cast("int").alias(index_of("domain"))
    rows = spark.range(0, 200_000, 1, 4).select("id", domain)
    with overriding(spark, {"spark.sql.adaptive.enabled": "false"}):
        settings = {**scoring._SETTINGS, "spark.sql.adaptive.advisoryPartitionSizeInBytes": "64k"}
        with overriding(spark, settings):
            spread = scoring.spread_by_domain(rows).mapInArrow(lambda batches: batches, rows.schema)
            found = spread.select(F.spark_partition_id(), index_of("domain")).collect()
    assert len(found) == 200_000
    assert len({part for part, domain in found if domain == 0}) >= 3
    runs = [run for run, _ in itertools.groupby(found)]
    assert len(runs) == len(set(runs)) < 30


@pytest.mark.parametrize(
    ("lengths", "weights", "rows"),
    [
        ((), "", 32_768),
        ((50, 400), "", 32_768),
        ((2_000,), "", 8_388),
        ((1_000,), "w", 8_388),
        ((10_000, 10_000), "", 1_024),
    ],
)
def test_rows_with_long_bags_are_scored_in_smaller_batches(lengths, weights, rows):
    bag = {"kind": "bag", "weights": weights}
    bags = [{"name": f"bag_{number}", "length": length, **bag} for number, length in enumerate(lengths)]
    assert scoring.batch_rows(parse_config({"features": bags}).features) == rows


def score_all_pairs(spark, config, users, items):
    """By key of a user's row, the score of each candidate, from scoring all pairs as rows."""
    config = with_values(config, {"score.input.path": f"{config.score.input.path}_pairs", "score.batch": "pairs"})
    write_requests(spark, config, [(who, item, of, time, n) for who, of, time, n in users for item in items[of]])
    score(spark, config)
    found = scored(spark, config, "pairs")
    return {key: rows.set_index("item")["score"] for key, rows in found.groupby("key")}


def test_top_k_equals_the_best_scores_of_all_pairs(spark, trained_config, run, requests):
    config, (_, _, domain) = requests
    lake = Lake(spark, config.lake.root)
    ids = {name: [row["id"] for row in lake.read(f"{name}s").orderBy("index").collect()] for name in ("user", "item")}
    other = next(row["id"] for row in lake.read("domains").collect() if row["id"] != domain)
    empty = next(row["id"] for row in lake.read("domains").collect() if row["id"] not in (domain, other))
    time = "2026-01-01 05:30:00"
    users = [(who, domain, time, n) for n, who in enumerate([*ids["user"][:20], "unheard of"])]
    users += [(ids["user"][0], other, "2026-01-02 09:00:00", 90), (None, other, None, 91)]
    own = {domain: [*ids["item"][:30], "new item"], other: ids["item"][40:43]}
    rows = [(item, of) for of, items in own.items() for item in items]
    rows += [rows[0], (ids["item"][3], "no such domain"), (None, domain)]
    path = f"{config.score.input.path}_candidates"
    spark.createDataFrame(rows, "item string, scene string").coalesce(1).write.parquet(path)
    no_items = [(ids["user"][0], empty, time, 92), (ids["user"][0], "a new domain", time, 93), ("u", None, time, 94)]
    write_requests(spark, config, [(who, None, of, at, n) for who, of, at, n in [*users, *no_items]])
    values = {"score.top_k": 5, "score.candidates.path": path, "score.candidates.columns.domain": "scene"}
    figures = score(spark, with_values(config, values))
    names = ("users", "users_of_unknown_domains", "users_without_candidates", "candidates", "candidates_left_out")
    assert [figures[name] for name in names] == [26, 2, 1, 34, 2]
    assert (figures["pairs"], figures["rows"], figures["domains"]) == (21 * 31 + 2 * 3, 21 * 5 + 2 * 3, 2)
    assert figures["pairs_per_second"] > 0
    found = scored(spark, config, "requests").sort_values(["key", "rank"])
    by_key = score_all_pairs(spark, config, users, own)
    assert set(found["key"]) == set(by_key)
    for key, rows in found.groupby("key"):
        every = by_key[key]
        assert rows["rank"].tolist() == list(range(1, min(5, len(every)) + 1))
        best = every.sort_values(ascending=False).head(5)
        np.testing.assert_allclose(rows["score"], best, rtol=0, atol=1e-6)
        np.testing.assert_allclose(rows["score"], every[rows["item"]], rtol=0, atol=1e-6)
    assert found.loc[found["key"] == "20", "user"].tolist() == ["unheard of"] * 5
    assert found["user_known"].tolist() == (~found["key"].isin(["20", "91"])).tolist()
    assert (found["domain_known"] & found["specific"]).all()
    again = score(spark, with_values(config, values | {"score.top_k": 100, "score.candidates.columns.domain": ""}))
    assert (again["candidates"], again["users_without_candidates"]) == (34, 0)
    assert again["rows"] == again["pairs"] == 24 * again["candidates"]
    with pytest.raises(MamdrError, match=r"^score\.candidates\.path: holds more than 3 rows, and every machine"):
        score(spark, with_values(config, values | {"score.candidates.most": 3}))
    with pytest.raises(MamdrError, match=r"^score\.candidates\.columns\.item: 'thing' names no existing column"):
        score(spark, with_values(config, values | {"score.candidates.columns.item": "thing"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score.input.path": "/nowhere/rows"}, r"^score\.input\.path: /nowhere/rows matches nothing$"),
        ({"score.input.columns.user": "whom"}, r"^score\.input\.columns\.user: 'whom' names no existing column"),
        ({"score.run_id": "no-such"}, "has no run no-such"),
        ({"score.batch": "x' OR true"}, r"score\.batch: .* must consist of letters"),
    ],
)
def test_user_errors_name_the_setting(spark, requests, change, message):
    config, (user, item, domain) = requests
    write_requests(spark, config, [(user, item, domain, None, 0)])
    with pytest.raises(MamdrError, match=message):
        score(spark, with_values(config, change))
