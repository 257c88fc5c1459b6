"""A published split, train in one file and test in another, goes from the log to the examples as it is."""

from collections import Counter

import pytest

from mamdr_core.config.lake import SplitSettings
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError
from tests.lake.stored import rows_of, stored

SPLIT = "case fold when 1 then 'train' when 2 then 'val' when 3 then 'test' else fold end"
WEIGHT = (
    "case i when 'less' then '-1' when 'nan' then 'nan' when 'inf' then 'inf' when 'words' then 'much' "
    "when 'i3' then '0.25' end"
)
GIVEN = {"split": {"kind": "given"}, "shards": {"count": 2}}
ROWS = [(f"u{n % 7}", f"i{n}", f"d{n % 2}", 1 if n < 40 else 2 + n % 2) for n in range(60)]
"""User, item, domain, fold: each item once, so that a row is known by it."""


def write_csv(folder, name, rows):
    (folder / name).write_text("".join(",".join(map(str, row)) + "\n" for row in [("u", "i", "d", "fold"), *rows]))
    return str(folder / name)


def ids_of(root, name):
    return {row["index"]: row["id"] for row in rows_of(root, f"{name}s")}


def splits_of(root):
    """How many clicks there are by item and split."""
    items = ids_of(root, "item")
    return Counter((items[row["item"]], row["split"]) for row in rows_of(root, "examples") if row["label"])


def expected(rows):
    return Counter((item, {1: "train", 2: "val", 3: "test"}[fold]) for _, item, _, fold in rows)


@pytest.mark.slow
def test_rows_keep_given_split_and_weight_and_negatives_follow_their_positives(spark, make_config, lake_root, tmp_path):
    columns = {"user": "u", "item": "i", "domain": "d", "label": "", "event_time": ""}

    def config_of(path, **examples):
        source = {"format": "csv", "options": {"header": True}}
        weight = WEIGHT if examples.pop("weighed", True) else ""
        own = {**columns, "split": examples.pop("expression", SPLIT), "weight": weight}
        return make_config(path, own, input=source, examples={**GIVEN, **examples})

    first = config_of(write_csv(tmp_path, "train.csv", ROWS[:40]))
    assert ingest_clicks(spark, first)["clicks"] == 40
    assert build_examples(spark, first)["train_rows"] == 40

    wrong = [("u1", "other", "d0", "x"), ("u1", "blank", "d0", ""), ("u1", "capital", "d0", "TEST")]
    wrong += [("u1", item, "d0", 1) for item in ("less", "nan", "inf", "words")]  # their weights are
    second = config_of(write_csv(tmp_path, "rest.csv", [*ROWS[40:], *wrong]))
    assert ingest_clicks(spark, second)["rejected_by_rule"] == {"split_known": 3, "weight_valid": 4}
    built = build_examples(spark, second)  # adds the second file's rows alone
    assert (built["encoded_rows"], built["rebuilt"]) == (20, "")
    assert splits_of(lake_root) == expected(ROWS)

    # The first file again, corrected: its rows are replaced, in their new splits.
    corrected = [(*row[:3], 3) if number < 5 else row for number, row in enumerate(ROWS[:40])]
    again = config_of(write_csv(tmp_path, "train.csv", corrected))
    ingest_clicks(spark, again)
    built = build_examples(spark, again)
    assert (built["encoded_rows"], built["rebuilt"], built["test_rows"]) == (40, "", 15)
    assert splits_of(lake_root) == expected([*corrected, *ROWS[40:]])

    built = build_examples(spark, config_of("", negatives={"kind": "in_domain", "ctr_ratio": 0.5}))
    assert built["negatives"] == 120
    assert splits_of(lake_root) == expected([*corrected, *ROWS[40:]])
    pairs = Counter((user, domain, fold) for user, _, domain, fold in [*corrected, *ROWS[40:]])
    given = {(user, domain, {1: "train", 2: "val", 3: "test"}[fold]) for user, domain, fold in pairs}
    examples = rows_of(lake_root, "examples")
    weights = Counter((row["label"], row["sample_weight"]) for row in examples)
    assert weights == {(1, 0.25): 1, (1, None): 59, (0, None): 120}
    users, domains = ids_of(lake_root, "user"), ids_of(lake_root, "domain")
    drawn = {(users[row["user"]], domains[row["domain"]], row["split"]) for row in examples if not row["label"]}
    assert drawn <= given
    assert {split for _, _, split in drawn} == {"train", "val", "test"}

    built = build_examples(spark, config_of("", weighed=False))
    assert built["rebuilt"].startswith("examples.negatives, input.columns.weight changed")
    assert "sample_weight" not in stored(lake_root, "examples").column_names

    # Rows that were filed without a split cannot be built.
    other = config_of(write_csv(tmp_path, "more.csv", [("u1", "more", "d0", 1)]), split={}, expression="")
    ingest_clicks(spark, other)
    with pytest.raises(MamdrError, match=r"given, and 1 of 61 clicks have no split: ingest again .*more\.csv"):
        build_examples(spark, config_of(""))


def test_what_does_not_go_together_with_a_given_split_is_an_error(make_config):
    for settings in ({"fractions": (0.8, 0.1, 0.1)}, {"val_from": "2026-01-01"}):
        with pytest.raises(ValueError, match="leave out fractions and dates"):
            SplitSettings(kind="given", **settings)
    with pytest.raises(ValueError, match="val_days and test_days are for a time split"):
        SplitSettings(kind="given", val_days=1)
    with pytest.raises(MamdrError, match=r"examples.split.kind is given: set input.columns.split"):
        ingest_clicks(None, make_config(examples=GIVEN))
