"""Which ids and domains get into examples: retired domains, rare ids, hashed ids, a domain under a new name."""

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples

pytestmark = pytest.mark.slow

ROWS = [(f"u{n % 20}", f"i{n % 7}", f"d{n % 3}", n % 2) for n in range(120)]


def build(spark, root, config, clicks):
    Lake(spark, root).overwrite("clicks", clicks)
    return build_examples(spark, config)


def domains(spark, root):
    lake = Lake(spark, root)
    index = {row["id"]: row["index"] for row in lake.read("domains").collect()}
    rows = {row["domain"]: row["count"] for row in lake.read("examples").groupBy("domain").count().collect()}
    return index, rows


def test_retired_domains_and_those_renamed_to_an_existing_one_keep_their_index(
    spark, make_clicks, make_config, lake_root
):
    build(spark, lake_root, make_config(), make_clicks(ROWS))
    before, _ = domains(spark, lake_root)
    figures = build(spark, lake_root, make_config(examples={"retired": ["d1", "never"]}), make_clicks(ROWS))
    index, rows = domains(spark, lake_root)
    assert index == before
    assert rows == {index["d0"]: 40, index["d2"]: 40}
    assert (figures["examples"], figures["domains"], figures["new_domains"]) == (80, 3, 0)
    renamed = make_clicks(ROWS).withColumn("domain", F.when(F.col("domain") == "d2", "d0").otherwise(F.col("domain")))
    build(spark, lake_root, make_config(), renamed)
    index, rows = domains(spark, lake_root)
    assert index == before
    assert rows == {index["d0"]: 80, index["d1"]: 40}


def test_a_rare_user_is_unknown_in_the_examples(spark, make_clicks, make_config, lake_root):
    rows = [*ROWS, ("rare", "i0", "d0", 1)]
    figures = build(spark, lake_root, make_config(examples={"users": {"min_count": 2}}), make_clicks(rows))
    assert figures["users"] == 20
    unknown = Lake(spark, lake_root).read("examples").where("user = -1").collect()
    assert [row["label"] for row in unknown] == [1]


def test_negatives_of_unknown_ids_are_still_exact_and_unclicked(spark, make_clicks, make_config, lake_root):
    """Users and items without an index are not thrown together where negatives are drawn."""
    rows = [(f"u{n}", f"i{n}", "d0") for n in range(40)] + [("u0", f"i{n}", "d0") for n in range(1, 40)]
    examples = {
        "negatives": {"kind": "in_domain", "ctr_ratio": 0.5},
        "users": {"min_count": 2},
        "items": {"min_count": 3},
    }
    figures = build(spark, lake_root, make_config(examples=examples), make_clicks(rows))
    assert (figures["users"], figures["items"]) == (1, 0)
    assert (figures["positives"], figures["negatives"]) == (79, 158)
    assert Lake(spark, lake_root).read("examples").groupBy("label").count().orderBy("label").collect() == [
        (0, 158),
        (1, 79),
    ]


def test_hashed_ids_share_indices(spark, make_clicks, make_config, lake_root):
    rows = [(f"u{n}", f"i{n}", "d", n % 2) for n in range(200)]
    examples = {"users": {"buckets": 4}, "items": {"buckets": 5}}
    figures = build(spark, lake_root, make_config(examples=examples), make_clicks(rows))
    assert (figures["users"], figures["items"], figures["examples"]) == (4, 5, 200)
    assert Lake(spark, lake_root).read("examples").where("user < 0 OR item < 0").count() == 0


def test_a_domain_with_a_third_of_all_rows_leaves_the_shards_even(spark, make_clicks, make_config, lake_root):
    rows = [(f"u{n}", f"i{n}", "giant", n % 2) for n in range(3000)]
    rows += [(f"u{n}", f"i{n}", f"d{n % 60}", n % 2) for n in range(7000)]
    figures = build(spark, lake_root, make_config(examples={"shards": {"rows": 1250}}), make_clicks(rows))
    assert figures["shards"] == 8
    examples = Lake(spark, lake_root).read("examples")
    loads = [row["count"] for row in examples.groupBy("shard").count().collect()]
    assert len(loads) == 8
    assert max(loads) <= 1.1 * 10_000 / 8
