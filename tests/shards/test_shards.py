"""Reading a pinned version: each of its rows once, in an order that does not depend on files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.shards.petastorm_reader import unischema
from mamdr_core.shards.pinned import pin_examples
from schemas import TABLES

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_two_ranks_read_every_row_of_the_pinned_version_exactly_once(spark, trained_config):
    pinned = pin_examples(spark, trained_config.lake.root, trained_config.features)
    first = np.array([True, False, True, False, True])
    parts = [Share(pinned, trained_config.features, own).columns("train") for own in (first, ~first)]
    whole = Share(pinned, trained_config.features, np.ones(5, dtype=bool)).columns("train")
    assert [len(part) for part in parts] == [pinned.counts["train"][own].sum() for own in (first, ~first)]
    test = pin_examples(spark, trained_config.lake.root, trained_config.features, pinned.versions, splits=["test"])
    assert [file.url for file in test.files] == [file.url for file in pinned.files if file.split == "test"]
    assert {split: counts.tolist() for split, counts in test.counts.items()} == {"test": pinned.counts["test"].tolist()}
    assert (test.numeric, test.sizes) == ({}, pinned.sizes)
    rows = slice(int(whole.offsets[1]), int(whole.offsets[2]))
    other = slice(int(parts[1].offsets[1]), int(parts[1].offsets[2]))
    for name in whole.ids:
        assert torch.equal(whole.ids[name][rows], parts[1].ids[name][other])
    examples = Lake(spark, trained_config.lake.root).read("examples").where("split = 'train'").toPandas()
    assert sorted(whole.ids["user"].tolist()) == sorted((examples["user"] + 1).tolist())
    assert whole.labels.sum().item() == examples["label"].sum()
    assert abs(whole.numeric.mean().item()) < 1e-4
    assert whole.numeric.std().item() == pytest.approx(1, abs=1e-2)


def test_a_rebuild_with_more_shards_changes_no_row_and_old_versions_remain(spark, trained_config):
    before = pin_examples(spark, trained_config.lake.root, trained_config.features)
    everything = np.ones(5, dtype=bool)
    old = Share(before, trained_config.features, everything).columns("val")
    shards = replace(trained_config.examples.shards, count=5)
    build_examples(spark, replace(trained_config, examples=replace(trained_config.examples, shards=shards)))
    after = pin_examples(spark, trained_config.lake.root, trained_config.features)
    assert after.versions["examples"] > before.versions["examples"]
    assert len(after.files) > len(before.files)
    for pinned in (before, after):
        read = Share(pinned, trained_config.features, everything).columns("val")
        assert all(torch.equal(read.ids[name], old.ids[name]) for name in old.ids)
        assert torch.equal(read.labels, old.labels)


def test_missing_rows_are_an_error(spark, trained_config):
    pinned = pin_examples(spark, trained_config.lake.root, trained_config.features)
    some = replace(pinned, files=tuple(file for file in pinned.files if file.split != "test")[:1])
    with pytest.raises(MamdrError, match=r"read \d+ train rows of examples version \d+, expected"):
        Share(some, trained_config.features, np.ones(5, dtype=bool)).columns("train")


def test_vectors_are_in_the_rows_of_their_indices_and_row_zero_is_unknown(spark, trained_config):
    pinned = pin_examples(spark, trained_config.lake.root, trained_config.features)
    vectors = Share(pinned, trained_config.features, np.ones(5, dtype=bool)).vectors()
    assert vectors["user_vector"].shape == (pinned.sizes["user"] + 1, 6)
    assert not vectors["item_vector"][0].any()
    lake = Lake(spark, trained_config.lake.root)
    row = lake.read("user_features").where("index = 7").first()
    assert vectors["user_vector"][8].tolist() == pytest.approx(row["vector"])


def test_the_petastorm_schema_follows_the_declared_table():
    schema = unischema(TABLES["user_features"], ["index", "vector"])
    assert schema.fields["index"].numpy_dtype is np.int32
    assert schema.fields["vector"].shape == (None,)
    with pytest.raises(KeyError):
        unischema(TABLES["examples"], ["userr"])
