"""Which ids and domains get into examples: retired domains, rare ids, hashed ids, a domain under a new name."""

from collections import Counter

import pytest

from mamdr_core.lake.examples.job import build_examples
from tests.lake.stored import rows_of, stored, write_clicks

pytestmark = pytest.mark.slow

ROWS = [(f"u{n % 20}", f"i{n % 7}", f"d{n % 3}", n % 2) for n in range(120)]


def build(spark, root, config, clicks):
    write_clicks(root, clicks)
    return build_examples(spark, config)


def domains(root):
    index = {row["id"]: row["index"] for row in rows_of(root, "domains")}
    return index, Counter(stored(root, "examples")["domain"].to_pylist())


def test_retired_domains_and_those_renamed_to_an_existing_one_keep_their_index(spark, make_config, lake_root):
    build(spark, lake_root, make_config(), ROWS)
    before, _ = domains(lake_root)
    figures = build(spark, lake_root, make_config(examples={"retired": ["d1", "never"]}), ROWS)
    index, rows = domains(lake_root)
    assert index == before
    assert rows == {index["d0"]: 40, index["d2"]: 40}
    assert (figures["examples"], figures["domains"], figures["new_domains"]) == (80, 3, 0)
    renamed = [(*ids, "d0" if domain == "d2" else domain, label) for *ids, domain, label in ROWS]
    build(spark, lake_root, make_config(), renamed)
    index, rows = domains(lake_root)
    assert index == before
    assert rows == {index["d0"]: 80, index["d1"]: 40}


def test_a_rare_user_is_unknown_in_the_examples(spark, make_config, lake_root):
    rows = [*ROWS, ("rare", "i0", "d0", 1)]
    figures = build(spark, lake_root, make_config(examples={"users": {"min_count": 2}}), rows)
    assert figures["users"] == 20
    assert [row["label"] for row in rows_of(lake_root, "examples") if row["user"] == -1] == [1]


def test_negatives_of_unknown_ids_are_still_exact_and_unclicked(spark, make_config, lake_root):
    """Users and items without an index are not thrown together where negatives are drawn."""
    rows = [(f"u{n}", f"i{n}", "d0") for n in range(40)] + [("u0", f"i{n}", "d0") for n in range(1, 40)]
    examples = {
        "negatives": {"kind": "in_domain", "ctr_ratio": 0.5},
        "users": {"min_count": 2},
        "items": {"min_count": 3},
    }
    figures = build(spark, lake_root, make_config(examples=examples), rows)
    assert (figures["users"], figures["items"]) == (1, 0)
    assert (figures["positives"], figures["negatives"]) == (79, 158)
    assert Counter(stored(lake_root, "examples")["label"].to_pylist()) == {0: 158, 1: 79}


def test_hashed_ids_share_indices(spark, make_config, lake_root):
    rows = [(f"u{n}", f"i{n}", "d", n % 2) for n in range(200)]
    examples = {"users": {"buckets": 4}, "items": {"buckets": 5}}
    figures = build(spark, lake_root, make_config(examples=examples), rows)
    assert (figures["users"], figures["items"], figures["examples"]) == (4, 5, 200)
    assert all(min(row["user"], row["item"]) >= 0 for row in rows_of(lake_root, "examples"))


def test_a_domain_with_a_third_of_all_rows_leaves_the_shards_even(spark, make_config, lake_root):
    rows = [(f"u{n}", f"i{n}", "giant", n % 2) for n in range(3000)]
    rows += [(f"u{n}", f"i{n}", f"d{n % 60}", n % 2) for n in range(7000)]
    figures = build(spark, lake_root, make_config(examples={"shards": {"rows": 1250}}), rows)
    assert figures["shards"] == 8
    loads = Counter(stored(lake_root, "examples")["shard"].to_pylist()).values()
    assert len(loads) == 8
    assert max(loads) <= 1.1 * 10_000 / 8
