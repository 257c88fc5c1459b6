"""Examples with sampled negatives: exact, in one split each, and the same however they are computed."""

from collections import Counter

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from tests.lake.helpers import update_vocabulary

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

COLUMNS = ("user_id", "item_id", "domain_id", "label", "split")
HISTORY = {"name": "before", "kind": "sequence", "table": "item", "history": True, "length": 3}


@pytest.fixture
def clicked():
    """Clicks alone, half of them in one domain, some pairs twice; user all has clicked every item of d1."""
    large = [(f"u{n * 7 % 83}", f"i{n * n % 59}", "large") for n in range(400)]
    small = [(f"u{n * 3 % 83}", f"i{n * n % 37}", f"d{n % 7}") for n in range(400)]
    return [*large, *large[:30], *small, *(("all", item, "d1") for _, item, domain in small if domain == "d1")]


@pytest.fixture
def build(spark, make_clicks, make_config, tmp_path):
    """Build examples from clicks in a lake of their own; returns the figures and the rows by raw ids."""

    def build(rows, name="lake", change=lambda clicks: clicks, ratio=(0.2, 0.5), features=(), **examples):
        lake = Lake(spark, str(tmp_path / name))
        lake.overwrite("clicks", change(make_clicks(rows)))
        negatives = {"kind": "in_domain", "ctr_ratio": ratio}
        examples = {"negatives": negatives, **examples}
        config = make_config(lake={"root": lake.root}, examples=examples, features=list(features))
        figures = build_examples(spark, config)
        found = lake.read("examples")
        for of in ("user", "item", "domain"):
            ids = lake.read(f"{of}s").select(F.col("index").alias(of), F.col("id").alias(f"{of}_id"))
            found = found.join(ids, of)
        columns = (*COLUMNS, *(feature["name"] for feature in features))
        return figures, [tuple(row) for row in found.select(*columns).collect()]

    return build


@pytest.mark.parametrize(
    "ratio", [0.4, (0.2, 0.5), {"large": 0.5, **{f"d{n}": 0.2 + n / 20 for n in range(7)}}], ids=["one", "range", "map"]
)
def test_negatives_are_exact_and_no_triple_is_in_two_splits(build, clicked, ratio, spark, tmp_path):
    figures, rows = build(clicked, ratio=ratio, features=[HISTORY])
    items = {row["index"]: row["id"] for row in Lake(spark, str(tmp_path / "lake")).read("items").collect()}
    assert_histories([(*row, [items[index] for index in before]) for *row, before in rows], clicked)
    rows = [tuple(row) for *row, _ in rows]
    splits = {}
    for *triple, _, split in rows:
        splits.setdefault(tuple(triple), []).append(split)
    assert [found for found in splits.values() if len(found) > 1] == []
    assert {split for (split,) in splits.values()} == {"train", "val", "test"}

    pairs = set(clicked)
    assert {row[:3] for row in rows if row[3]} == pairs
    negatives = [row[:3] for row in rows if not row[3]]
    assert not set(negatives) & pairs
    counts = Counter(domain for _, _, domain in negatives)
    missing = 0
    for domain, positives in Counter(domain for _, _, domain in pairs).items():
        users, items = ({pair[part] for pair in pairs if pair[2] == domain} for part in (0, 1))
        possible = len(users) * len(items) - positives
        if isinstance(ratio, tuple):
            assert counts[domain] == possible or positives / (counts[domain] + 0.5) >= 0.2
            assert counts[domain] == possible or positives / (counts[domain] - 0.5) <= 0.5
            continue
        wanted = round(positives / (ratio[domain] if isinstance(ratio, dict) else ratio))
        assert counts[domain] == min(wanted, possible)
        missing += wanted - counts[domain]
    assert isinstance(ratio, tuple) or figures["negatives_missing"] == missing


def assert_histories(rows, clicked):
    """A row has what its user clicked before the first click of the pair; a negative what a click of its user has."""
    of_user, first = {}, {}
    for *pair, before in ((user, item, domain, list(of_user.get(user, ()))) for user, item, domain in clicked):
        first.setdefault(tuple(pair), before[-3:])
        of_user.setdefault(pair[0], []).append(pair[1])
    of_group = {}
    for (user, _, domain), before in first.items():
        of_group.setdefault((user, domain), []).append(before)
    for user, item, domain, label, _, before in rows:
        assert before in ([first[user, item, domain]] if label else of_group[user, domain])


def test_splits_and_negatives_do_not_depend_on_order_shards_or_earlier_days(
    spark, build, clicked, make_clicks, tmp_path
):
    _, first = build(clicked, "first")
    for name in ("users", "items", "domains"):
        rows = make_clicks([("u39", "i30", "d2"), ("zed", "i0", "other")])
        update_vocabulary(Lake(spark, str(tmp_path / "second")), TABLES[name], rows, name.removesuffix("s"))
    figures, second = build(
        clicked[::-1], "second", lambda clicks: clicks.orderBy(F.rand(4)).repartition(5), shards={"rows": 200}
    )
    assert figures["shards"] > 5
    before = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        _, third = build(clicked, "third", lambda clicks: clicks.coalesce(1), shards={"count": 3})
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
    assert sorted(first) == sorted(second) == sorted(third)


def test_without_every_ratio_examples_stay_as_they_were(spark, build, clicked, tmp_path):
    with pytest.raises(MamdrError, match=r"ctr_ratio is a mapping and has no ratio for domains .* and 4 more"):
        build(clicked, ratio={"large": 0.3})
    assert not Lake(spark, str(tmp_path / "lake")).exists("examples")
