"""Evaluation in parts of bounded rows measures what it measures at once."""

import numpy as np
import pytest
import torch

from mamdr_core.config.engine import MetricsSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training import evaluation
from tests.engine.small_models import random_columns, small_engine


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_figures_do_not_depend_on_the_rows_measured_at_once(monkeypatch, most):
    counts = [3, 0, 40, 1, 7, 0]
    engine, shared = small_engine(len(counts))
    columns = random_columns(counts)
    columns.true_probability = torch.rand(len(columns), dtype=torch.float64)
    specific = {2: Change(torch.full_like(shared.dense, 0.3))}
    parts = [torch.arange(start, stop) for start, stop in zip(columns.offsets[:-1], columns.offsets[1:], strict=True)]
    logits = [engine.predict(Theta(shared, specific.get(d)), Visit(columns, rows)) for d, rows in enumerate(parts)]
    of_users = (columns.ids["user"], MetricsSettings(cutoffs=(1, 3)))
    expected = domain_metrics(torch.cat(logits), columns.labels, columns.offsets, columns.true_probability, *of_users)
    monkeypatch.setattr(evaluation, "PART_ROWS", most)
    found = evaluation.evaluate_columns(engine, shared, specific, columns, detail=of_users[1])
    for name in ("rows", "clicks", "auc", "logloss", "mean_prediction", "oracle_auc"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    assert evaluation.evaluate_columns(engine, shared, specific, columns).detail is None
    np.testing.assert_allclose(found.detail.figures, expected.detail.figures, rtol=1e-4)
    assert found.overall()["calibration_error"] == pytest.approx(expected.overall()["calibration_error"], abs=1e-4)
    with pytest.raises(MamdrError, match="'session', which these examples lack: expected one of user"):
        evaluation.evaluate_columns(engine, shared, specific, columns, detail=MetricsSettings(group="session"))
    assert (
        expected.auc[2]
        != domain_metrics(
            engine.predict(Theta(shared), Visit(columns, torch.arange(len(columns)))),
            columns.labels,
            columns.offsets,
            None,
        ).auc[2]
    )


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_calibrated_figures_are_those_of_calibrated_logits(kind):
    counts = [300, 0, 400, 20]
    engine, shared = small_engine(len(counts))
    columns = random_columns(counts)
    columns.labels = (torch.rand(len(columns), generator=torch.Generator().manual_seed(1)) < 0.2).float()
    found = evaluation.calibrate(engine, shared, {}, columns, SingleProcess(), kind=kind)
    detail = MetricsSettings(cutoffs=(1,))
    before = evaluation.evaluate_columns(engine, shared, {}, columns, detail=detail)
    after = evaluation.evaluate_columns(engine, shared, {}, columns, detail=detail, calibration=found)
    assert torch.equal(before.auc.nan_to_num(-1), after.auc.nan_to_num(-1))
    assert abs(after.overall()["pcoc"] - 1) < 0.01 < abs(before.overall()["pcoc"] - 1)
    assert after.overall()["calibration_error"] < before.overall()["calibration_error"]
    logits = engine.predict(Theta(shared), Visit(columns, torch.arange(len(columns))))
    domain = columns.ids["domain"].long() - 1
    assert (found.curve is not None) == (kind == "isotonic")
    curved = found.curve.apply(logits) if found.curve else logits
    expected = found.slope_K[domain + 1] * curved + found.shift_K[domain + 1]
    assert float((after.mean_prediction * after.rows).nan_to_num(0).sum()) == pytest.approx(
        float(expected.sigmoid().sum())
    )
