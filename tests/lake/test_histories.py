"""Histories of clicks: without a time, of declared days alone, without retired domains and items without an index."""

from datetime import date, datetime

import pytest

from mamdr_core.config.job_config import with_values
from mamdr_core.lake.examples.job import build_examples
from schemas import TABLES
from tests.lake.stored import commit, rows_of

pytestmark = pytest.mark.slow

HISTORY = {"kind": "sequence", "table": "item", "history": True}
EVER, RECENT = "ever", "recent"
FEATURES = [
    {"name": EVER, "length": 9, "history_days": 800_000, **HISTORY},
    {"name": RECENT, "length": 2, "history_days": 1, **HISTORY},
]
SINCE = {"since": "2026-01-02", "items": {"min_count": 2}, "split": {"smallest_domain": 1}, "shards": {"count": 1}}
CLICKS = {
    "before since": ("a", "i1", "d", 1, None, "2026-01-01"),
    "first moment": ("a", "i2", "d", 1, "2026-01-02 00:00:00", "2026-01-02"),
    "shown, no time": ("a", "i3", "d", 0, None, "2026-01-02"),
    "clicked, no time": ("a", "i3", "d", 1, None, "2026-01-02"),
    "retired": ("a", "i5", "old", 1, "2026-01-02 05:00:00", "2026-01-02"),
    "retired again": ("b", "i5", "old", 1, "2026-01-02 05:00:00", "2026-01-02"),
    "retired, live item": ("a", "i4", "old", 1, "2026-01-02 05:30:00", "2026-01-02"),
    "rare item": ("a", "rare", "d", 1, "2026-01-02 06:00:00", "2026-01-02"),
    "last moment": ("a", "i1", "d", 0, "2026-01-02 23:59:59.999999", "2026-01-02"),
    "next day, no time": ("a", "i4", "e", 0, None, "2026-01-03"),
    "next day": ("a", "i1", "d", 1, "2026-01-03 10:00:00", "2026-01-03"),
    "two days later": ("a", "i2", "d", 0, "2026-01-04 00:00:00", "2026-01-04"),
    "another user": ("b", "i4", "d", 1, None, "2026-01-04"),
}
"""Rows of clicks: user, item, domain, label, time, and day."""
WANTED = {
    "first moment": ([], []),
    "shown, no time": ([], []),
    "clicked, no time": ([], []),
    "rare item": (["i2"], ["i2"]),
    "last moment": (["i2"], ["i2"]),
    "next day, no time": (["i2", "i3"], ["i2", "i3"]),
    "next day": (["i2", "i3"], ["i2", "i3"]),
    "two days later": (["i2", "i3", "i1"], ["i1"]),
    "another user": ([], []),
}
"""The histories without the retired domain: a row without a time is at the beginning of its day, a click at its end."""
ALL = {
    **WANTED,
    "retired": (["i2"], ["i2"]),
    "retired again": ([], []),
    "retired, live item": (["i2", "i5"], ["i2", "i5"]),
    "rare item": (["i2", "i5", "i4"], ["i5", "i4"]),
    "last moment": (["i2", "i5", "i4"], ["i5", "i4"]),
    "next day, no time": (["i2", "i5", "i4", "i3"], ["i4", "i3"]),
    "next day": (["i2", "i5", "i4", "i3"], ["i4", "i3"]),
    "two days later": (["i2", "i5", "i4", "i3", "i1"], ["i1"]),
    "another user": (["i5"], []),
}
"""The histories before the domain is retired."""


POSITIVES = {
    ("b", "early", "d", "2026-01-01 10:00:00", "2026-01-01"): None,
    ("a", "i9", "old", "2026-01-02 07:00:00", "2026-01-02"): None,
    ("a", "i1", "d", None, "2026-01-03"): None,
    ("a", "i1", "d", "2026-01-02 10:00:00", "2026-01-02"): ["i2"],
    ("a", "i2", "d", "2026-01-02 09:00:00", "2026-01-02"): [],
    ("b", "i2", "d", None, "2026-01-02"): [],
    ("b", "i3", "d", "2026-01-02 08:00:00", "2026-01-02"): [],
    ("b", "i1", "d", "2026-01-03 08:00:00", "2026-01-03"): ["i3", "i2"],
}
"""Clicks of a log without impressions, and the history of each that is an example: of a pair the earliest is."""


def file_clicks(root, rows):
    """File rows of clicks, each (user, item, domain, label, time, day)."""
    clicks = [dict(zip(("user", "item", "domain", "label", "event_time", "ds"), row, strict=True)) for row in rows]
    for row in clicks:
        row["event_time"] = row["event_time"] and datetime.fromisoformat(f"{row['event_time']}+00:00")
        row |= {"load": 0, "ds": date.fromisoformat(row["ds"])}
    commit(root, TABLES["clicks"], clicks)


def ids_of(root, table):
    """Ids by index; -1 is the item that has none."""
    return {row["index"]: row["id"] for row in rows_of(root, table)} | {-1: "rare"}


def examples_of(root, version, *features):
    """Examples by raw ids: (user, item, domain, label, day) to the histories of each feature."""
    users, items, domains = (ids_of(root, table) for table in ("users", "items", "domains"))
    found = {}
    for row in rows_of(root, "examples", version):
        key = users[row["user"]], items[row["item"]], domains[row["domain"]], row["label"], str(row["ds"])
        assert key not in found
        found[key] = tuple([items[index] for index in row[feature]] for feature in features)
    return found


def test_a_history_has_earlier_clicks_of_declared_days_and_active_domains(spark, make_config, lake_root):
    file_clicks(lake_root, CLICKS.values())
    keys = {name: (*row[:4], row[5]) for name, row in CLICKS.items()}
    config = make_config(features=FEATURES, examples=SINCE)
    before = build_examples(spark, config)
    wanted = {keys[name]: histories for name, histories in ALL.items()}
    assert examples_of(lake_root, before["examples_version"], EVER, RECENT) == wanted
    after = build_examples(spark, with_values(config, {"examples.retired": ["old"]}))
    assert (after["rebuilt"], after["items"]) == ("examples.retired changed", 5), "a retired item keeps its index"
    wanted = {keys[name]: histories for name, histories in WANTED.items()}
    assert examples_of(lake_root, after["examples_version"], EVER, RECENT) == wanted


def test_negatives_and_histories_use_declared_days_and_a_pairs_earliest_click(spark, make_config, lake_root):
    file_clicks(lake_root, [(*row[:3], 1, *row[3:]) for row in POSITIVES])
    negatives = {"kind": "in_domain", "ctr_ratio": 0.5}
    examples = {**SINCE, "items": {}, "retired": ["old"], "negatives": negatives}
    built = build_examples(spark, make_config(features=FEATURES[:1], examples=examples))
    assert (built["examples"], built["items"], built["negatives_missing"]) == (6, 3, 9)
    found = examples_of(lake_root, built["examples_version"], EVER)
    negative = [(key, history) for key, (history,) in found.items() if not key[3]]
    # The one pair of a user and an item that was not clicked takes the day and history of a click of its user.
    assert negative[0] in [(("a", "i3", "d", 0, "2026-01-02"), history) for history in ([], ["i2"])]
    positives = {(*row[:3], 1, row[4]): (history,) for row, history in POSITIVES.items() if history is not None}
    assert {key: found[key] for key in found if key[3]} == positives
