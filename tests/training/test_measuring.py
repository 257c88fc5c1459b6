"""A run measures the statistics of its model no more often, and of no more domains, than it needs."""

from dataclasses import replace

import pytest
import torch

from mamdr_core.config.models import STARSettings
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.training import trainer, worker
from mamdr_core.training.statistics import measure_statistics
from mamdr_core.training.worker import train_rank
from tests.training.rank_tasks import parameters

pytestmark = pytest.mark.slow


def star(task):
    """The task with a model that has statistics of domains."""
    model = replace(task.config.model, name="star", star=STARSettings(normalization="partitioned"))
    return replace(task, config=replace(task.config, model=model))


def test_without_theta_i_the_saved_statistics_are_those_of_the_best_validation(make_task, monkeypatch):
    predicted, evaluate = [], worker.evaluate_calibrated

    def record(*arguments, **options):
        predicted.append(arguments)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(worker, "evaluate_calibrated", record)
    monkeypatch.setattr(worker, "measure_statistics", None)
    train_rank(star(make_task(1, method="joint")), SingleProcess())
    engine, shared, _, train, *_ = max(predicted, key=lambda arguments: len(arguments[3]))
    saved = dict(shared.tables)
    measure_statistics(engine, shared, {}, train, SingleProcess())
    assert saved["normalization.count"][0].item() == len(train)
    for name, table in saved.items():
        assert torch.equal(shared.tables[name], table), name


def test_a_run_of_named_domains_measures_these_alone(make_task, monkeypatch):
    parent = star(make_task(1, method="mamdr"))
    train_rank(parent, SingleProcess())
    named = parent.pinned.domain_ids[2]
    child = replace(star(make_task(1, method="mamdr", only_domains=(named,))), parent=parent.package)
    measured = []

    def record(engine, shared, specific, train, collective):
        measured.append(train.occupied.tolist())
        measure_statistics(engine, shared, specific, train, collective)

    for module in (trainer, worker):
        monkeypatch.setattr(module, "measure_statistics", record)
    train_rank(child, SingleProcess())
    assert measured == [[2]] * len(measured)
    assert len(measured) > 2
    theirs, ours = parameters(parent), parameters(child)
    for name in ("count", "mean", "variance"):
        change = (ours[f"normalization.{name}"] - theirs[f"normalization.{name}"]).abs().amax(1)
        others = [row for row in range(1, len(change)) if row != 3]
        assert change[others].max() < 1e-6
        assert (change[3] > 1e-4) == (name == "mean")  # theta_i moves the embedding that all rows of the domain share
