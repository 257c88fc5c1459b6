"""Evaluation in parts of bounded rows measures what it measures at once."""

from dataclasses import astuple

import numpy as np
import torch

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.training import evaluation


class Echo:
    """An engine whose logits are a row's only numeric feature, less where theta_i is known."""

    def predict(self, theta, visit):
        return visit.columns.numeric[visit.rows, 0] - (2.0 if theta.specific is not None else 0.0)


def test_figures_do_not_depend_on_the_rows_measured_at_once(monkeypatch):
    counts = torch.tensor([3, 0, 40, 1, 7, 0])
    rows = int(counts.sum())
    domains = torch.repeat_interleave(torch.arange(6), counts)
    torch.manual_seed(0)
    columns = Columns(
        ids={"domain": domains.int() + 1},
        numeric=torch.randn(rows, 1),
        labels=torch.randint(0, 2, (rows,)).float(),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
        true_probability=torch.rand(rows, dtype=torch.float64),
    )
    logits = columns.numeric[:, 0] - 2.0 * (domains == 2)
    expected = domain_metrics(logits, columns.labels, columns.offsets, columns.true_probability)
    theta, specific = Shared(torch.zeros(1), {}), {2: Change(torch.zeros(1))}
    for most in (1, 4, 1000):
        monkeypatch.setattr(evaluation, "PART_ROWS", most)
        found = evaluation.evaluate_columns(Echo(), theta, specific, columns)
        for figure, wanted in zip(astuple(found), astuple(expected), strict=True):
            np.testing.assert_array_equal(figure, wanted)
