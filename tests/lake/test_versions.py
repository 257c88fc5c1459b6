"""A version of the examples is pinned with the vocabularies that it was encoded by, whatever was built since."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from delta.tables import DeltaTable

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.examples.versions import versions_of
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.runs import fingerprint_of
from tests.lake.stored import state_of, write_clicks

pytestmark = pytest.mark.slow


def rows(day, users):
    return [(f"u{n % users}", f"i{n % 11}", f"d{n % 3}", n % 3 % 2, f"2026-01-0{day}") for n in range(120)]


def built(spark, config, *days):
    write_clicks(config.lake.root, [row for day, users in days for row in rows(day, users)])
    return build_examples(spark, config)["examples_version"]


def test_a_day_is_pinned_again_as_it_was_after_later_days_were_built(spark, make_config, lake_root):
    config = make_config()
    first = built(spark, config, (1, 20))
    _, newest, _ = prepare_examples(spark, config)
    spark.sql(f"ALTER TABLE delta.`{lake_root}/examples` SET TBLPROPERTIES ('note' = 'a commit without rows')")
    second = built(spark, config, (1, 20), (2, 35))
    assert second == first + 2
    for version, users in ((first, 20), (first + 1, 20), (second, 35)):
        pinned_config = with_values(config, {"train.examples_version": version})
        _, pinned, _ = prepare_examples(spark, pinned_config)
        assert pinned.versions["examples"] == version
        assert pinned.sizes["user"] == users
        assert (fingerprint_of(pinned_config, pinned) == fingerprint_of(config, newest)) == (version == first)
    again = prepare_examples(spark, with_values(config, {"train.examples_version": first}))[1]
    assert (again.versions, again.sizes, again.domain_ids) == (newest.versions, newest.sizes, newest.domain_ids)
    assert [file.url for file in again.files] == [file.url for file in newest.files]


def test_a_version_whose_files_were_removed_is_a_clear_error(spark, make_config, lake_root):
    config = make_config()
    version = built(spark, config, (1, 20))
    old = state_of(lake_root, "examples").files
    built(spark, config, (1, 25))
    for file in old:
        Path(lake_root, "examples", unquote(file)).unlink()
    with pytest.raises(MamdrError, match=rf"examples version {version} of .* its files were removed"):
        prepare_examples(spark, with_values(config, {"train.examples_version": version}))


def test_a_version_that_cannot_be_pinned_is_a_clear_error(spark, make_config, lake_root):
    config = make_config()
    with pytest.raises(MamdrError, match=r"no table examples yet: run jobs/build_examples\.py first"):
        prepare_examples(spark, with_values(config, {"train.examples_version": 1}))
    version = built(spark, config, (1, 20))
    with pytest.raises(MamdrError, match=rf"has no version 99, {version} is newest"):
        prepare_examples(spark, with_values(config, {"train.examples_version": 99}))
    lake, city = Lake(spark, lake_root), Feature(name="city", kind="categorical")
    with pytest.raises(MamdrError, match="was built without vocabulary_city"):
        versions_of(lake, (city,), version)
    lake.overwrite("examples", lake.read("examples").limit(5), {"job": "another"})
    assert versions_of(lake, (), version + 1)["users"] == lake.version("users")
    DeltaTable.forPath(spark, f"{lake_root}/examples").delete()
    with pytest.raises(MamdrError, match="has no row to train on"):
        prepare_examples(spark, with_values(config, {"train.examples_version": version + 2}))
