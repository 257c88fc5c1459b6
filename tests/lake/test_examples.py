"""Examples are the same however the clicks are ordered, packed or partitioned, and lie as declared."""

from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.features import declared_clicks
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples import new_clicks as news_module
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.examples.layout import lay_out
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES, feature_vocabulary
from tests.lake.stored import rows_of, sorted_rows, stored, write_clicks

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("generated_code")]

IN_DOMAIN = {"negatives": {"kind": "in_domain", "ctr_ratio": 0.25}}


@pytest.fixture
def impressions():
    """300 impressions on two days in three domains, one tiny and one of a single row."""
    rows = [(f"u{n * 7 % 40}", f"i{n * n % 31}", f"d{n % 2}", n % 3 % 2, f"2026-01-0{1 + n % 2}") for n in range(290)]
    return [
        *rows,
        *[(f"u{n}", f"i{n}", "tiny", n % 2, "2026-01-01") for n in range(9)],
        ("u0", "i0", "one", 1, "2026-01-01"),
    ]


def test_figures_add_up_and_a_second_build_makes_the_same_rows(spark, make_config, lake_root, impressions):
    write_clicks(lake_root, impressions)
    figures = build_examples(spark, make_config())
    splits = sum(figures.pop(f"{split}_rows") for split in ("train", "val", "test"))
    assert splits == 300
    assert figures == {
        "examples": 300,
        "positives": sum(row[3] for row in impressions),
        "negatives": sum(1 - row[3] for row in impressions),
        "negatives_missing": 0,
        "users": 40,
        "items": len({row[1] for row in impressions}),
        "domains": 4,
        "new_users": 40,
        "new_items": len({row[1] for row in impressions}),
        "new_domains": 4,
        "shards": 1,
        "one_class_domains": 1,
        "one_row_domains": 1,
        "clicks_version": 0,
        "examples_version": 0,
        "encoded_rows": 300,
        "rebuilt": "there are no examples yet",
    }
    small = {row["index"] for row in rows_of(lake_root, "domains") if row["id"] in ("tiny", "one")}
    assert {row["split"] for row in rows_of(lake_root, "examples") if row["domain"] in small} == {"train"}
    second = build_examples(spark, make_config())
    assert (second["new_users"], second["users"], second["examples_version"]) == (0, 40, 0)
    assert (second["encoded_rows"], second["examples"], second["rebuilt"]) == (0, 300, "")
    third = build_examples(spark, make_config(examples={"rebuild": True}))
    assert (third["encoded_rows"], third["examples_version"]) == (300, 1)
    assert sorted_rows(stored(lake_root, "examples")) == sorted_rows(stored(lake_root, "examples", 0))


def test_rows_that_are_not_as_planned_are_taken_back(spark, make_config, lake_root, impressions, monkeypatch):
    write_clicks(lake_root, impressions)
    plan = news_module.plan_impressions

    def plan_one_more(seen, domains):
        first, *rest = plan(seen, domains)
        return [replace(first, clicks=first.clicks + 1), *rest]

    monkeypatch.setattr(news_module, "plan_impressions", plan_one_more)
    with pytest.raises(MamdrError, match="examples: 301 rows were planned and 300 written; that version was undone"):
        build_examples(spark, make_config())
    assert rows_of(lake_root, "examples") == []


def test_there_is_one_file_a_split_and_shard_sorted_by_domain_and_key(spark, make_config, lake_root, impressions):
    write_clicks(lake_root, impressions)
    figures = build_examples(spark, make_config(examples={"shards": {"rows": 40}}))
    assert figures["shards"] == 8
    examples = Lake(spark, lake_root).read("examples")
    places = examples.select("split", "shard").distinct().count()
    files = examples.inputFiles()
    assert len(files) == places
    sizes = Counter()
    for file in files:
        table = pq.ParquetFile(file.removeprefix("file:").replace("///", "/")).read(columns=["domain", "key"])
        order = list(zip(table["domain"].to_pylist(), table["key"].to_pylist(), strict=True))
        assert order == sorted(order)
        sizes[file.split("shard=")[1].split("/")[0]] += len(order)
    laid_out = lay_out(examples, 8, TABLES["examples"]).select(F.spark_partition_id())
    assert laid_out.distinct().count() == places > 20, "each file has a task of its own"
    # Two domains of 145 rows are spread over four shards each.
    assert len(sizes) == 8
    assert max(sizes.values()) < 1.5 * 300 / 8


def test_days_are_limited_and_a_time_split_goes_by_them(spark, make_config, lake_root):
    write_clicks(lake_root, [(f"u{n}", "i", "d", n % 2, f"2026-01-{1 + n % 9:02d}") for n in range(90)])
    split = {"kind": "time", "val_from": "2026-01-06", "test_from": "2026-01-07"}
    figures = build_examples(
        spark, make_config(examples={"since": "2026-01-03", "until": "2026-01-08", "split": split})
    )
    assert (figures["train_rows"], figures["val_rows"], figures["test_rows"]) == (30, 10, 20)


def test_features_are_encoded(spark, make_clicks, make_config, lake_root):
    features = [
        {"name": "city", "kind": "categorical"},
        {"name": "phone", "kind": "categorical", "buckets": 8},
        {"name": "age", "kind": "numeric"},
    ]
    clicks = make_clicks([("u0", "i", "d"), ("u1", "i", "d"), ("u2", "i", "d")])
    number = F.substring("user", 2, 1).cast("int")
    clicks = clicks.withColumns(
        {
            "city": F.when(number > 0, F.concat(F.lit("city"), number % 2)),
            "phone": F.when(number > 0, F.lit("x")),
            "age": F.when(number > 0, number * 1.5),
        }
    )
    config = make_config(features=features)
    Lake(spark, lake_root).overwrite(declared_clicks(config.features), clicks)
    build_examples(spark, config)
    lake = Lake(spark, lake_root)
    assert {row["id"] for row in rows_of(lake_root, feature_vocabulary("city").name)} == {"city0", "city1"}
    users = {row["index"]: row["id"] for row in rows_of(lake_root, "users")}
    rows = {users[row["user"]]: row for row in rows_of(lake_root, "examples")}
    assert (rows["u0"]["city"], rows["u0"]["phone"], rows["u0"]["age"]) == (-1, -1, None)
    assert {rows["u1"]["city"], rows["u2"]["city"]} == {0, 1}
    assert rows["u1"]["phone"] == rows["u2"]["phone"] in range(8)
    assert (rows["u1"]["age"], rows["u2"]["age"]) == (1.5, 3.0)
    build_examples(spark, make_config())
    assert lake.read("examples").columns == list(TABLES["examples"].column_names)
    assert lake.read("examples").inputFiles()[0].split("/")[-3:-1] == ["split=train", "shard=0"]
    with pytest.raises(Exception, match=r"CHECK constraint label_binary"):
        lake.overwrite("examples", lake.read("examples").withColumn("label", F.lit(2)))


def test_without_clicks_the_job_to_run_is_named(spark, make_config):
    with pytest.raises(MamdrError, match=r"has no table clicks yet: run jobs/ingest_clicks.py first"):
        build_examples(spark, make_config())


IMPOSSIBLE = [
    (
        {"examples": {"since": "2027-01-01"}},
        "holds no row from 2027-01-01 to the last (examples.since, examples.until)",
    ),
    ({"examples": IN_DOMAIN}, "in_domain is for logs of positives only, but 198 of 300 clicks have label 0"),
    ({"features": [{"name": "age", "kind": "numeric"}]}, "clicks has no column age: run ingest_clicks again"),
]
"""Sections of a configuration, and what is reported of them."""


def test_what_cannot_be_built_is_an_error_and_examples_stay(spark, make_config, lake_root, impressions):
    write_clicks(lake_root, impressions)
    lake = Lake(spark, lake_root)
    for sections, message in IMPOSSIBLE:
        with pytest.raises(MamdrError) as error:
            build_examples(spark, make_config(**sections))
        assert message in str(error.value)
        assert not lake.exists("examples")
        assert not lake.exists("users")
