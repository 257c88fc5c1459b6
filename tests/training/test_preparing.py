"""What is made before a run where the lake does not have it."""

import pytest

from mamdr_core.config.job_config import parse_config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training import preparing


@pytest.mark.parametrize(("rate", "has_weights", "warns"), [(0.1, True, True), (1.0, True, False), (0.1, False, False)])
def test_weights_and_a_rate_of_negatives_together_are_warned_of(caplog, rate, has_weights, warns):
    preparing.warn_of_two_corrections(rate, has_weights)
    assert ("train.negative_rate is 0.1: " in caplog.text) == warns


@pytest.mark.slow
def test_a_lake_whose_tables_a_killed_job_left_without_rows_is_filled(spark, lake_root, monkeypatch):
    called = []
    for name in ("generate_logs", "ingest_clicks", "build_examples", "domain_stats"):
        monkeypatch.setattr(preparing, name, lambda spark, config, name=name: called.append(name))
    lake = Lake(spark, lake_root)
    config = parse_config({"lake": {"root": lake_root}, "synthetic": {"rows": 10}})
    for table in ("clicks", "examples"):
        lake.create(table)
        with pytest.raises(MamdrError, match="has no table"):
            preparing.prepare_examples(spark, config)
        assert called == ["generate_logs", "ingest_clicks", "build_examples", "domain_stats"]
        called.clear()
