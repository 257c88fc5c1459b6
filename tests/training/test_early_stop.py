"""Early stop keeps the best parameters."""

import torch

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.slots import MemorySlots
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.training.early_stop import EarlyStop

STORE = SpecificStore([], MemorySlots(torch.zeros(1)), torch.zeros(1))


def test_training_stops_after_patience_and_the_best_is_kept():
    stop = EarlyStop(patience=2)
    stopped = [
        stop.validated(auc, number, Shared(torch.tensor([float(number)]), {}), STORE)
        for number, auc in enumerate([0.5, 0.7, 0.6, 0.7])
    ]
    assert stopped == [False, False, False, True]
    assert (stop.best, stop.best_round, stop.shared.dense.item()) == (0.7, 1, 1.0)


def test_without_a_measurable_domain_the_last_parameters_are_kept():
    stop = EarlyStop(patience=1)
    for number in range(3):
        assert not stop.validated(float("nan"), number, Shared(torch.tensor([float(number)]), {}), STORE)
    assert stop.shared.dense.item() == 2.0
