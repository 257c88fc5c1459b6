"""Early stop keeps the best parameters."""

import torch

from mamdr_core.engine.parameters import Shared
from mamdr_core.training.early_stop import EarlyStop


def test_training_stops_after_patience_and_the_best_is_kept():
    stop = EarlyStop(patience=2)
    stopped = [
        stop.validated(auc, number, Shared(torch.tensor([float(number)]), {}), {})
        for number, auc in enumerate([0.5, 0.7, 0.6, 0.7])
    ]
    assert stopped == [False, False, False, True]
    assert (stop.best, stop.best_round, stop.shared.dense.item()) == (0.7, 1, 1.0)


def test_without_a_measurable_domain_the_last_parameters_are_kept():
    stop = EarlyStop(patience=1)
    for number in range(3):
        assert not stop.validated(float("nan"), number, Shared(torch.tensor([float(number)]), {}), {})
    assert stop.shared.dense.item() == 2.0
