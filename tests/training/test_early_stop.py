"""Early stop keeps the best parameters."""

from types import SimpleNamespace

import torch

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.state_memory import IN_MEMORY
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.training.early_stop import EarlyStop


def parameters():
    store = SpecificStore([], MemoryBuffer(torch.zeros(1)), torch.zeros(1))
    return SimpleNamespace(shared=Shared(torch.zeros(1), {}), specific=store, state_memory=IN_MEMORY)


def record(stop, auc, number):
    stop.parameters.shared = Shared(torch.tensor([float(number)]), {})
    return stop.record(auc, number)


def test_training_stops_after_patience_and_the_best_is_kept():
    stop = EarlyStop(patience=2, parameters=parameters())
    stopped = [record(stop, auc, number) for number, auc in enumerate([0.5, 0.7, 0.6, 0.7])]
    assert stopped == [False, False, False, True]
    assert (stop.best, stop.best_round, stop.shared.dense.item()) == (0.7, 1, 1.0)
    stop.restore_best()
    assert stop.parameters.shared.dense.item() == 1.0


def test_a_network_that_has_not_begun_to_learn_is_not_stopped():
    """Fresh parameters reach .499 by chance, and training takes a few validations to get there."""
    stop = EarlyStop(patience=2, parameters=parameters())
    aucs = [0.499, 0.48, 0.47, 0.48, 0.505, 0.5, 0.502, 0.6, 0.59, 0.59]
    assert [record(stop, auc, number) for number, auc in enumerate(aucs)] == [False] * 9 + [True]


def test_an_early_stop_resumes_where_it_was():
    stop, resumed = (EarlyStop(patience=2, parameters=parameters()) for _ in range(2))
    resumed.load_state_dict(stop.state_dict())
    assert resumed.shared is None
    for number, auc in enumerate([0.7, 0.6]):
        record(stop, auc, number)
    resumed.load_state_dict(stop.state_dict())
    assert (resumed.best, resumed.best_round, resumed.shared.dense.item()) == (0.7, 0, 0.0)
    assert record(resumed, 0.6, 2)


def test_without_a_measurable_domain_the_last_parameters_are_kept():
    stop = EarlyStop(patience=1, parameters=parameters())
    for number in range(3):
        assert not record(stop, float("nan"), number)
    assert stop.shared.dense.item() == 2.0


def test_the_best_is_a_copy_only_where_theta_s_moves():
    for moves in (True, False):
        stop = EarlyStop(1, parameters(), moves_shared=moves)
        stop.record(0.6, 1)
        assert (stop.shared is stop.parameters.shared) == (not moves)


def test_a_snapshot_need_not_copy_the_best_which_a_better_one_leaves_unchanged():
    stop = EarlyStop(1, parameters())
    record(stop, 0.6, 1)
    state = stop.state_dict()
    assert state.constant == {"shared.dense"}
    record(stop, 0.7, 2)
    assert (state.same["shared.dense"].item(), stop.shared.dense.item()) == (1.0, 2.0)
