"""Examples with sampled negatives: exact, in one split each, and the same however they are computed."""

from collections import Counter

import pytest
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES
from tests.lake.runs_and_versions import update_vocabulary
from tests.lake.stored import rows_of, write_clicks

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

IDS = ("user", "item", "domain")
RATIOS = {"large": 0.5, **{f"d{n}": 0.2 + n / 20 for n in range(7)}}
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

    def build(rows, name="lake", change=None, ratio=(0.2, 0.5), features=(), **examples):
        root = str(tmp_path / name)
        if change:
            Lake(spark, root).overwrite("clicks", change(make_clicks(rows)))
        else:
            write_clicks(root, rows)
        negatives = {"kind": "in_domain", "ctr_ratio": ratio}
        examples = {"negatives": negatives, **examples}
        figures = build_examples(spark, make_config(lake={"root": root}, examples=examples, features=list(features)))
        ids = [{row["index"]: row["id"] for row in rows_of(root, f"{of}s")} for of in IDS]
        names = ("label", "split", *(feature["name"] for feature in features))
        return figures, [
            (*(of[row[name]] for of, name in zip(ids, IDS, strict=True)), *(row[name] for name in names))
            for row in rows_of(root, "examples")
        ]

    return build


def test_negatives_are_exact_and_no_triple_is_in_two_splits(build, clicked, tmp_path):
    figures, rows = build(clicked, ratio=RATIOS, features=[HISTORY])
    items = {row["index"]: row["id"] for row in rows_of(str(tmp_path / "lake"), "items")}
    assert_histories([(*row, [items[index] for index in before]) for *row, before in rows], clicked)
    assert_exact([tuple(row) for *row, _ in rows], figures, clicked, RATIOS)


def assert_exact(rows, figures, clicked, ratio):
    """Each domain has the negatives that its ratio asks for, as far as it goes: by domain, or between two limits."""
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
            assert counts[domain] == possible or positives / (counts[domain] + 0.5) >= ratio[0]
            assert counts[domain] == possible or positives / (counts[domain] - 0.5) <= ratio[1]
            continue
        wanted = round(positives / ratio[domain])
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
    figures, first = build(clicked, "first")
    assert_exact(first, figures, clicked, (0.2, 0.5))
    for name in ("users", "items", "domains"):
        rows = make_clicks([("u39", "i30", "d2"), ("zed", "i0", "other")])
        update_vocabulary(Lake(spark, str(tmp_path / "second")), TABLES[name], rows, name.removesuffix("s"))
    figures, second = build(
        clicked[::-1], "second", lambda clicks: clicks.orderBy(F.rand(4)).repartition(5), shards={"rows": 200}
    )
    assert figures["shards"] > 5
    assert sorted(first) == sorted(second)


def test_without_every_ratio_examples_stay_as_they_were(spark, build, clicked, tmp_path):
    with pytest.raises(MamdrError, match=r"ctr_ratio is a mapping and has no ratio for domains .* and 4 more"):
        build(clicked, ratio={"large": 0.3})
    assert not Lake(spark, str(tmp_path / "lake")).exists("examples")
