"""Bags, sequences and histories from the raw log to a rank's columns and a scorer's, against a reference in Python."""

import json
from datetime import date, datetime, timedelta

import numpy as np
import pytest

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.features import declared_features
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.requests import encode_requests, read_requests
from mamdr_core.serving.served import Served
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.shards.ragged import pad_lists
from schemas import SPLITS, feature_vocabulary

pytestmark = pytest.mark.slow

TAGS = {"name": "tags", "kind": "bag", "length": 4, "weights": "strengths", "optional": True}
VIEWED = {"name": "viewed", "kind": "sequence", "length": 3, "table": "item", "separator": "|"}
BEFORE = {"name": "before", "kind": "sequence", "length": 2, "table": "item", "history": True, "history_days": 2}
HASHED = {"name": "colours", "kind": "bag", "length": 3, "buckets": 5, "expression": "split(viewed, '[|]')"}
PRICE = {"name": "price", "kind": "categorical", "quantiles": 3}
CROSS = {"name": "cross", "kind": "categorical", "expression": "concat_ws('|', user, item)", "buckets": 1000}
FEATURES = [TAGS, VIEWED, BEFORE, HASHED, PRICE, CROSS]
BOUNDS = (2.0, 4.0)
"""Of three ranges of the prices 1 to 6, which the first rows have."""
LONG = [f"t{number % 7}" for number in range(10_000)]


def row(user, item, label, ts, tags=None, strengths=None, viewed=None, price=None):
    return {
        "user": user, "item": item, "domain": f"d{int(item[1]) % 2}", "label": label, "ts": ts, "tags": tags,
        "strengths": strengths, "viewed": viewed, "price": price,
    }  # fmt: skip


FIRST = [
    row("a", "i1", 1, "2026-01-01 10:00:00", ["t1", "t2", "t1"], [0.5, 2.0, 1.0], "i2|i9|i1", 5.0),
    row("a", "i2", 1, "2026-01-01 10:00:00", [], [], "", 2.0),  # at the same time: neither sees the other
    row("a", "i3", 0, "2026-01-01 10:00:01", None, None, None, 3.0),
    row("a", "i1", 1, "2026-01-01 11:00:00", ["t3", None, " ", "t1"], [1.0, None, 3.0, 0.0], "|i3||i1|i2|i1", 4.0),
    row("a", "i3", 0, "2026-01-01 12:00:00", LONG, [float(number) for number in range(10_000)], "|".join(LONG), 1.0),
    row("b", "i3", 1, "2026-01-01 09:00:00", ["t9"], None, "i5|i1", 6.0),  # no weights at all: 1 each
]
FAULTY = [
    row("b", "i1", 1, "2026-01-01 09:01:00", ["t1"], [1.0, 2.0]),
    row("b", "i1", 1, "2026-01-01 09:02:00", ["t1", "t2"], [1.0, -0.1]),
    row("b", "i1", 1, "2026-01-01 09:03:00", ["t1", "t2"], [None, 1.0]),
    row("b", "i1", 1, "2026-01-01 09:04:00", None, [1.0]),
]
SECOND = [
    row("a", "i2", 0, "2026-01-02 08:00:00", ["t4"], [1.5], "i5|i1", 10.0),
    row("a", "i5", 1, "2026-01-03 23:00:00", ["t1", "t4"], [1.0, 2.0], "i5|i1", 0.5),
    row("c", "i1", 1, "2026-01-03 23:00:00", ["t1"], [1.0], "i4", 3.0),
    row("b", "i2", 1, "2026-01-04 00:00:00"),  # its click of i3 is three days old
]


def write_log(folder, rows):
    folder.mkdir()
    # As Spark reads JSON: a column that is null in all rows would have no type.
    (folder / "part-0.json").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(folder)


def expected(rows, clicks, items, tags):
    """By user, item and time: the ids and weights of each feature by index, as columns have them without zeros."""
    made = {}
    for each in rows:
        strengths = each["strengths"] or [1.0] * len(each["tags"] or ())
        pairs = [(tag, w) for tag, w in zip(each["tags"] or (), strengths, strict=True) if tag and tag.strip()][:4]
        parts = [part for part in (each["viewed"] or "").split("|") if part]
        at = datetime.fromisoformat(each["ts"])
        before = [
            click
            for click in sorted(clicks, key=lambda click: (click["ts"], items[click["item"]]))
            if click["label"] and click["user"] == each["user"] and datetime.fromisoformat(click["ts"]) < at
        ][-2:]
        recent = [click["item"] for click in before if day_of(click) >= day_of(each) - timedelta(2)]
        made[each["user"], each["item"], each["ts"]] = {
            "tags": [tags[tag] for tag, _ in pairs],
            "weights": [weight for _, weight in pairs],
            "viewed": [items[part] for part in parts[-3:] if part in items],
            "before": [items[item] for item in recent],
            "colours": len(parts[:3]),
            "price": -1 if each["price"] is None else sum(bound < each["price"] for bound in BOUNDS),
        }
    return made


def day_of(each):
    return date.fromisoformat(each["ts"][:10])


def indices(lake, table):
    return {row["id"]: row["index"] for row in lake.read(table).collect()}


def test_several_ids_of_a_row_reach_ranks_and_scorers_as_in_a_plain_program(spark, make_config, tmp_path):
    config = make_config(
        write_log(tmp_path / "first", [*FIRST, *FAULTY]),
        input={"format": "json"},
        features=FEATURES,
        examples={"split": {"smallest_domain": 100}, "shards": {"count": 2}},
    )
    loaded = ingest_clicks(spark, config)
    assert loaded["rejected_by_rule"] == {"tags_weights_valid": len(FAULTY)}
    lake = Lake(spark, config.lake.root)
    stored = lake.read("clicks").collect()
    assert [max(len(each[name] or ()) for each in stored) for name in ("tags", "tags_weights", "viewed")] == [4, 4, 3]
    assert build_examples(spark, config)["examples"] == len(FIRST)
    config = with_values(config, {"input.path": write_log(tmp_path / "second", SECOND)})
    ingest_clicks(spark, config)
    built = build_examples(spark, config)
    assert (built["encoded_rows"], built["rebuilt"]) == (len(SECOND), "")

    items, tags = indices(lake, "items"), indices(lake, feature_vocabulary("tags"))
    assert set(items) == {"i1", "i2", "i3", "i5"}, "what occurs in sequences alone is no item"
    assert set(tags) == {"t0", "t1", "t2", "t3", "t4", "t9"}
    # When the first rows were encoded, i5 was no item yet.
    wanted = expected(FIRST, FIRST, {name: index for name, index in items.items() if name != "i5"}, tags)
    wanted |= expected(SECOND, [*FIRST, *SECOND], items, tags)
    assert_columns(spark, config, lake, wanted, items)
    rebuilt = build_examples(spark, with_values(config, {"examples.rebuild": True}))
    assert rebuilt["encoded_rows"] == len(wanted)
    wanted |= expected(FIRST, FIRST, items, tags)
    assert_columns(spark, config, lake, wanted, items)
    assert_requests(spark, config, lake, tmp_path, expected(FIRST[:1], [], items, tags))
    changed = with_values(config, {"features": [{"name": "tags", "kind": "categorical"}]})
    for job in (ingest_clicks, build_examples):
        with pytest.raises(
            MamdrError, match=r"features\.0\.name: clicks holds tags as array<string>, and .* is string"
        ):
            job(spark, changed)


def assert_columns(spark, config, lake, wanted, items):
    """A rank of all domains has the wanted values, whatever reads the files."""
    pinned = pin_examples(spark, config.lake, config.features)
    assert pinned.sizes["viewed"] == pinned.sizes["before"] == len(items)
    assert (pinned.sizes["colours"], pinned.sizes["tags"]) == (5, lake.read(feature_vocabulary("tags")).count())
    users = indices(lake, "users")
    found = []
    for reader in ("arrow", "petastorm"):
        share = Share(pinned, config.features, np.ones(2, dtype=np.bool_), reader=reader)
        found.append([shown for split in SPLITS for shown in rows_of(share.columns(split))])
    assert found[0] == found[1]
    plain = sorted((users[user] + 1, items[item] + 1, *values.values()) for (user, item, _), values in wanted.items())
    assert sorted(found[0]) == plain


def rows_of(columns):
    """Each row's user and item, and what `expected` names, zeros cut off."""
    shown = []
    for place in range(len(columns)):
        ids = {name: column[place].tolist() for name, column in columns.ids.items()}
        kept = {name: [index - 1 for index in ids[name] if index] for name in ("tags", "viewed", "before", "colours")}
        assert all(not any(ids[name][len(kept[name]) :]) for name in kept), "known ids come first"
        weights = columns.bag_weights["tags"][place].tolist()
        assert not any(weights[len(kept["tags"]) :])
        shown.append(
            (ids["user"], ids["item"], kept["tags"], weights[: len(kept["tags"])], kept["viewed"], kept["before"],
             len(kept["colours"]), ids["price"] - 1)
        )  # fmt: skip
    return shown


def assert_requests(spark, config, lake, tmp_path, wanted):
    """Raw rows to score: a history is given by a column, and a run that is older knows fewer tags."""
    values = next(iter(wanted.values()))
    request = {**FIRST[0], "before": ["i9", "i2", "i1", "i2"]}
    unweighted = {**request, "user": "b", "strengths": [1.0]}
    path = write_log(tmp_path / "requests", [request, unweighted])
    config = with_values(config, {"score.input.path": path, "score.input.format": "json"})
    pinned = pin_examples(spark, config.lake, config.features)
    assert pinned.quantiles == {"price": list(BOUNDS)}
    sizes = pinned.sizes | {"tags": max(values["tags"])}
    served = Served("run", "", (), config, pinned.versions, sizes, {}, pinned.quantiles)
    rows = encode_requests(read_requests(spark, config.score.input, served), lake, served)
    several = [feature for feature in config.features if feature.has_several_ids]
    read = rows.toArrow().sort_by("user").combine_chunks()
    assert read["price"].to_pylist() == [values["price"]] * 2
    crossed, unseen = read["cross"].to_pylist()
    assert len({crossed, unseen, *range(1000)}) == 1000, "a cross that no row had has a bucket too"
    assert crossed != unseen
    padded = pad_lists(read.to_batches()[0], several)
    items = indices(lake, "items")
    below = [place for place, tag in enumerate(values["tags"]) if tag < served.sizes["tags"]]
    for number, weights in enumerate((values["weights"], [1.0] * 3)):
        rest = [-1] * (4 - len(below))
        assert padded["tags"][number].tolist() == [*(values["tags"][place] for place in below), *rest]
        assert padded["tags_weights"][number].tolist() == [*(weights[place] for place in below), *(0.0 for _ in rest)]
        assert padded["viewed"][number].tolist() == [*values["viewed"], *[-1] * (3 - len(values["viewed"]))]
        assert padded["before"][number].tolist() == [items["i1"], items["i2"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"expression": "'a,b'"},
            r"features\.0\.expression: .* is string, expected an array; of text, set features",
        ),
        ({"expression": "array(1.5D)"}, r"features\.0\.expression is of type double, so that the id 123 would become"),
        ({"expression": "array(array(1))"}, r"is array<array<int>>, expected an array of single values"),
        ({"expression": "array(1)", "weights": "2"}, r"features\.0\.weights: '2' is int, expected an array"),
        ({}, r"features\.0\.expression: 'ids' names no existing column: ids"),
    ],
)
def test_what_is_no_array_of_ids_is_named(spark, settings, message):
    with pytest.raises(MamdrError, match=message):
        declared_features(spark.range(1), [Feature(name="ids", kind="bag", **settings)])


def test_ids_of_any_type_and_text_with_any_separator_become_text(spark):
    features = [
        Feature(name="numbers", kind="sequence", length=2, expression="array(id, null, 7, -1)"),
        Feature(name="dotted", kind="bag", length=2, expression="'a. b.. .c'", separator="."),
        Feature(name="single", kind="bag", expression="id", separator="."),
        Feature(name="heavy", kind="bag", expression="'a|b'", separator="|", weights="'1|0.5'"),
        Feature(name="absent", kind="bag", weights="absent_too", optional=True),
    ]
    (found,) = spark.range(5, 6).select(*declared_features(spark.range(5, 6), features)).collect()
    assert found.asDict() == {
        "numbers": ["7", "-1"],
        "dotted": ["a", " b"],
        "single": ["5"],
        "heavy": ["a", "b"],
        "heavy_weights": [1.0, 0.5],
        "absent": None,
        "absent_weights": None,
    }
