"""Ids, names and paths with quotes, semicolons and ../ are data, or are refused."""

from dataclasses import replace

import pytest

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import load_config
from mamdr_core.lake.core.features import declared_clicks
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.lake.maintenance.job import maintain_lake
from mamdr_core.lake.views import create_views
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.resuming import find_unfinished

pytestmark = pytest.mark.slow
HOSTILE = ["../other", "a/../../b", "..", "x' OR 'a' = 'a", "'; DROP TABLE clicks; --", "`", "\\' OR 1=1 --"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_literal_is_the_text_that_it_was_made_of(spark, text):
    assert spark.sql(f"SELECT {literal(text)} AS found").first()["found"] == text


def test_a_lake_whose_path_is_strange_is_a_lake(spark, make_log, make_config, tmp_path):
    root = str(tmp_path / "it's a strange lake")
    config = make_config(make_log([("u", "i", "d", "1", "2026-01-01 10:00:00")]), lake={"root": root})
    ingest_clicks(spark, config)
    assert maintain_lake(spark, config)["tables"].keys() >= {"clicks", "loads"}
    create_views(Lake(spark, root))
    assert spark.sql("SELECT count(*) AS rows FROM clicks").first()["rows"] == 1


@pytest.mark.parametrize("names", [("age", "Age"), ("Label",)])
def test_features_whose_names_differ_from_others_in_case_alone_are_refused(names):
    features = [Feature(name=name, kind="numeric") for name in names]
    with pytest.raises(MamdrError, match=rf"features.{len(names) - 1}.name: '{names[-1]}' is taken"):
        declared_clicks(features)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "a\\b", "a\0"])
def test_a_path_below_the_root_stays_there(spark, lake_root, name):
    with pytest.raises(MamdrError, match="is not the name of a file or folder"):
        Lake(spark, lake_root).path_of("packages", name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_comparisons_and_sweeps_are_names(name):
    for key in ("compare.name", "sweep.name"):
        with pytest.raises(MamdrError, match=key):
            load_config(overrides=[f'{key}="{name}"' if "\\" not in name else f"{key}={name}"])


@pytest.mark.parametrize("run_id", HOSTILE)
def test_a_run_that_is_asked_for_by_a_hostile_id_is_not_there(spark, trained_config, run_id):
    Lake(spark, trained_config.lake.root).create("training_runs")
    config = replace(trained_config, evaluate=replace(trained_config.evaluate, run_id=run_id))
    with pytest.raises(MamdrError, match="has no run"):
        evaluate_package(spark, config)
    config = replace(trained_config, train=replace(trained_config.train, resume=run_id))
    with pytest.raises(MamdrError, match="has no run"):
        find_unfinished(spark, config)
