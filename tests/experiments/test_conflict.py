"""conflict in Spark: gradient conflict of a run before and after rounds of DN, for all pairs and for a sample."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.experiments.conflict import measure_conflict
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.driver import train_mamdr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(spark, experiment_config):
    """A trained run, and few rounds."""
    run = train_mamdr(spark, with_values(experiment_config, {"train.method": "joint"}))
    return with_values(experiment_config, {"conflict.run_id": run["run_id"], "conflict.dn_rounds": 6})


@pytest.fixture(scope="module")
def figures(spark, config):
    """Result of measuring all pairs."""
    return measure_conflict(spark, config)


def test_all_pairs_of_a_run_are_recorded_before_and_after(spark, config, figures):
    assert (figures["domains"], figures["pairs"], figures["pairs_total"]) == (5, 10, 10)
    lake = Lake(spark, config.lake.root)
    rows = {row["stage"]: row for row in lake.read("conflicts").collect()}
    assert set(rows) == {"before", "after"}
    for stage, row in rows.items():
        pairs = lake.read("domain_conflicts").where(F.col("stage") == stage).collect()
        assert len(pairs) == row["pairs"] == 10
        cosines = np.array([pair["cosine"] for pair in pairs])
        assert row["mean_cosine"] == pytest.approx(cosines.mean(), abs=1e-12)
        assert row["std_error"] == 0.0
        assert row["negative_share"] == (cosines < 0).mean()
        assert row["cosine_quantiles"]["0.5"] == pytest.approx(np.median(cosines), abs=1e-12)
        assert figures[stage]["mean_cosine"] == row["mean_cosine"]
        assert {pair["domain_id"] for pair in pairs} < {f"d{n}" for n in range(5)}
    assert rows["before"]["mean_cosine"] != rows["after"]["mean_cosine"]


def test_the_heat_map_is_written_to_the_reports_of_the_run(config, figures):
    (path,) = figures["figures"]
    assert Path(path) == Path(config.lake.root, "reports", figures["run_id"], "conflict.svg")
    text = Path(path).read_text()
    assert all(f"<!-- {label} -->" in text for label in ("before", "after", "d0", "d4", "cosine of gradients"))


def test_measuring_a_run_again_is_deterministic_and_replaces_its_rows(spark, config, figures):
    assert measure_conflict(spark, config) == figures
    lake = Lake(spark, config.lake.root)
    assert (lake.read("conflicts").count(), lake.read("domain_conflicts").count()) == (2, 20)


def test_compiled_rounds_give_the_same_figures(spark, config, figures, traced_steps):
    """Backend aot_eager generates no code; test_fast and test_several cover code generation."""
    found = measure_conflict(spark, with_values(config, {"train.engine": "fast"}))
    for stage in ("before", "after"):
        assert found[stage] == pytest.approx(figures[stage], abs=1e-5)
    assert found["after"] != found["before"]


def test_a_sample_of_pairs_states_its_error_and_has_the_same_cosines(spark, config, figures):
    lake = Lake(spark, config.lake.root)
    whole = {
        (row["domain"], row["other"]): row["cosine"]
        for row in lake.read("domain_conflicts").where("stage = 'before'").collect()
    }
    result = measure_conflict(spark, with_values(config, {"conflict.max_pairs": 4, "conflict.dn_rounds": 0}))
    assert (result["pairs"], result["pairs_total"], result["figures"]) == (4, 10, [])
    assert "after" not in result
    row = lake.read("conflicts").first()
    pairs = lake.read("domain_conflicts").collect()
    assert (lake.read("conflicts").count(), len(pairs), row["stage"]) == (1, 4, "before")
    for pair in pairs:
        assert pair["cosine"] == pytest.approx(whole[pair["domain"], pair["other"]], abs=1e-6)
    cosines = np.array([pair["cosine"] for pair in pairs])
    assert row["std_error"] == pytest.approx(cosines.std(ddof=1) * (0.6 / 4) ** 0.5, abs=1e-12)


def test_an_unknown_run_is_a_clear_error(spark, config):
    with pytest.raises(MamdrError, match="has no run nothing"):
        measure_conflict(spark, with_values(config, {"conflict.run_id": "nothing"}))
