"""The method mixed from end to end: what a run reports, records, saves, and what its package predicts elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pyspark.sql import functions as F

from mamdr_core.config.job_config import with_values
from mamdr_core.experiments.feature_importance import measure_features
from mamdr_core.lake.core.tables import Lake
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.exporting import export_model
from mamdr_core.serving.scoring import score
from mamdr_core.training.building import make_engine
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.evaluation import predict_domains
from mamdr_core.training.trained_run import open_trained

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(trained_config):
    return with_values(trained_config, {"train.method": "mixed"})


@pytest.fixture(scope="module")
def figures(spark, config):
    """What one run on one rank reports."""
    return train_mamdr(spark, config)


def test_a_run_reports_its_figures_and_first_validates_the_mixed_model_alone(spark, config, figures):
    assert (figures["method"], figures["domains"], figures["domains_measured"]) == ("mixed", 5, 5)
    assert figures["epochs"] == 2
    assert 0.55 < figures["test_auc"] < 1
    assert 0.5 < figures["val_auc"] < 1
    assert figures["seconds"]["mixed"] > 0
    assert figures["specific_bytes"] > 5 * 20 * 4  # w_i over 1 + 3 * 6 + 1 entries of five domains at least
    curve = Lake(spark, config.lake.root).read("training_curves").where(F.col("run_id") == figures["run_id"])
    row = Lake(spark, config.lake.root).read("training_runs").where(F.col("run_id") == figures["run_id"]).first()
    assert row["specific_kind"] == figures["specific_kind"] == "mixed"
    assert row["variances"] == figures["variances"]
    effects = {"user", "item", "user_in_domain"}
    assert (
        effects
        < set(figures["variances"])
        == effects
        | {
            f"w.{name}"
            for name in ("bias", *(f"{of}.{n}" for of in ("user*item", "user_vector", "item_vector") for n in range(6)))
        }
        | {"w.numeric.0"}
    )
    rows = curve.orderBy("rows", "round").collect()
    assert [row["round"] for row in rows] == [0, 2, 4, 6, 8]
    assert (rows[0]["rows"], rows[0]["best"]) == (0, True)
    assert figures["val_auc"] == pytest.approx(max(row["val_auc"] for row in rows), abs=1e-12)


def test_evaluating_the_package_gives_the_figures_of_training(spark, config, figures):
    measured = evaluate_package(spark, replace(config, evaluate=replace(config.evaluate, run_id=figures["run_id"])))
    assert measured["auc"] == pytest.approx(figures["test_auc"], abs=1e-12)
    assert measured["weighted_auc"] == pytest.approx(figures["weighted_test_auc"], abs=1e-12)


def test_what_its_features_add_is_recorded_by_domain(spark, config, figures):
    """Labels of synthetic logs follow from the vectors; hours are noise."""
    asked = with_values(config, {"importance.run_id": figures["run_id"], "importance.repeats": 3})
    found = measure_features(spark, asked)
    assert (found["auc"], found["weighted_auc"]) == pytest.approx((figures["test_auc"], figures["weighted_test_auc"]))
    drops = {each["feature"]: each["drop"] for each in found["features"]}
    assert set(drops) == {"user", "item", "user_vector", "item_vector", "hour", "weekday"}
    assert found["features"][0]["drop"] == max(drops.values())
    assert min(drops["user_vector"], drops["item_vector"]) > 0.01 > abs(drops["hour"])
    table = Lake(spark, config.lake.root).read("feature_importance").where(F.col("run_id") == figures["run_id"])
    for feature, drop in drops.items():
        rows = table.where(F.col("feature") == feature).collect()
        (overall,) = [row for row in rows if row["domain"] is None]
        domains = [row for row in rows if row["domain"] is not None]
        assert len(domains) == found["domains_measured"] == 5
        assert overall["drop"] == pytest.approx(drop, abs=1e-12)
        assert np.mean([row["drop"] for row in domains]) == pytest.approx(drop, abs=1e-12)
        weights = [row["rows"] for row in domains]
        assert np.average([row["drop"] for row in domains], weights=weights) == pytest.approx(overall["weighted_drop"])
    again = measure_features(spark, with_values(asked, {"importance.features": ["hour"]}))
    assert again["features"] == [each for each in found["features"] if each["feature"] == "hour"]
    assert table.select("feature").distinct().collect() == [("hour",)]
    with pytest.raises(MamdrError, match=r"importance\.features: run .* has no feature 'price': expected some of user"):
        measure_features(spark, with_values(asked, {"importance.features": ["price"]}))


def test_scores_and_exported_files_are_the_predictions_of_evaluation(spark, config, figures, tmp_path):
    trained = open_trained(spark, config, figures["run_id"], ["test"])
    engine = make_engine(trained.config, trained.pinned, trained.share, trained.device)
    columns = trained.package.with_mixed_logits(trained.share.columns("test"), engine, trained.config.train.mixed)
    assert columns.base_logits.std() > 0.1
    logits = predict_domains(engine, trained.package.shared, {}, columns, range(5))
    scored = score(spark, with_values(config, {"score.run_id": figures["run_id"], "score.deviation": True}))
    assert scored["specific_rows"] == scored["rows"] == len(columns)
    batch = Lake(spark, config.lake.root).read("scores").where(F.col("batch") == figures["run_id"]).toPandas()
    place = {domain: number for number, domain in enumerate(trained.pinned.domain_ids)}
    batch = batch.assign(place=batch["domain"].map(place), number=batch["key"].astype("int64"))
    found = batch.sort_values(["place", "number"])["score"]
    np.testing.assert_allclose(found, logits.double().sigmoid().numpy(), rtol=0, atol=1e-6)
    deviation = batch["logit_deviation"]
    assert 0 < deviation.min() < deviation.max() < 3
    assert torch.isfinite(logits).all()
    values = {"export.run_id": figures["run_id"], "export.folder": str(tmp_path / "model")}
    exported = export_model(spark, with_values(config, values))
    assert set(exported["files"]) == {"model.pt2", "model.onnx", "signature.json"}
    assert exported["domains"] == 5
    assert max(exported["largest_difference"].values()) < 1e-5


def test_a_run_that_has_kept_no_mixed_model_is_read_as_a_run_of_joint(spark, config, monkeypatch):
    """Its mixed model predicts the opposite of what it has learned."""
    predict = MixedModel.predict
    monkeypatch.setattr(MixedModel, "predict", lambda self, columns: -predict(self, columns))
    config = with_values(config, {"train.mixed.alone_above": 0.0})
    figures = train_mamdr(spark, config)
    run_id = figures["run_id"]
    assert (figures["specific_kind"], figures["specific_bytes"], figures["variances"]) == ("none", 0, {})
    measured = evaluate_package(spark, with_values(config, {"evaluate.run_id": run_id}))
    assert measured["auc"] == pytest.approx(figures["test_auc"], abs=1e-12)
    scored = score(spark, with_values(config, {"score.run_id": run_id}))
    assert (scored["specific_rows"], scored["rows"]) == (0, measured["rows"])
    refit = with_values(config, {"train.warm_start": run_id, "train.only_domains": ["d0"]})
    with pytest.raises(MamdrError, match="kept its network without a mixed model, which was better"):
        train_mamdr(spark, refit)
