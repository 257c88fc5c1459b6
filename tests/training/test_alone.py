"""A network that adds much to a mixed model is also trained without it, and the better of the two is kept."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.training.checkpoint.checkpoints import find_checkpoint
from mamdr_core.training.worker import train_rank
from tests.training.rank_tasks import assert_same, parameters
from tests.training.test_checkpoints import assert_same_result, place, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
ALWAYS = MixedSettings(alone_above=0.0)


@pytest.fixture
def misled(monkeypatch):
    """The mixed model predicts the opposite of what it has learned, so that the network on top of it cannot be good."""
    predict = MixedModel.predict
    monkeypatch.setattr(MixedModel, "predict", lambda self, columns: -predict(self, columns))


def test_a_network_that_is_better_alone_is_what_joint_training_gives(make_task, misled):
    task, joint = make_task(1, method="mixed", mixed=ALWAYS), make_task(1, method="joint")
    found, expected = (train_rank(each, SingleProcess()) for each in (task, joint))
    assert (found.specific_kind, found.specific_bytes, found.variances) == ("none", 0, {})
    assert_same(parameters(task), parameters(joint), exactly=True)
    assert torch.equal(found.metrics["test"].auc, expected.metrics["test"].auc)
    assert found.best_round == 8 + expected.best_round
    assert [point.round for point in found.curve] == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert [point.epoch for point in found.curve] == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert found.epochs == 4
    alone = found.curve[5:]
    assert [point.val_auc for point in alone] == [point.val_auc for point in expected.curve]
    assert max(point.val_auc for point in found.curve[:5]) < max(point.val_auc for point in alone)


def test_on_the_mixed_model_the_network_is_kept_where_it_is_better(make_task):
    usual, raced = (make_task(1, method="mixed", mixed=mixed) for mixed in (MixedSettings(alone_above=1.0), ALWAYS))
    expected, found = (train_rank(task, SingleProcess()) for task in (usual, raced))
    assert (expected.rounds, found.rounds) == (8, 16)
    assert_same(parameters(raced), parameters(usual), exactly=True)
    assert (found.specific_kind, found.best_round) == ("mixed", expected.best_round)
    assert torch.equal(found.metrics["test"].auc, expected.metrics["test"].auc)
    assert not any(point.best for point in found.curve[len(expected.curve) :])


@pytest.mark.parametrize(
    ("ranks", "tables", "alone"), [(1, "replicated", True), (1, "replicated", False), (2, "sharded", True)]
)
def test_stopped_in_either_training_a_run_resumes_bit_for_bit(
    make_task, request, monkeypatch, place, ranks, tables, alone  # noqa: F811
):  # fmt: skip
    """Whichever of the two networks is kept in the end."""
    if alone:
        request.getfixturevalue("misled")
    undisturbed, stopped = (make_task(ranks, method="mixed", mixed=ALWAYS, tables=tables) for _ in range(2))
    expected = run_simulated(partial(train_rank, undisturbed), ranks)[0]
    assert (expected.rounds, expected.specific_kind) == (16, "none" if alone else "mixed")
    for stop_after in (4, 2, 3):  # after rounds 5, 8 and 12: in each training, and at the end of the first
        run(stopped, ranks, place, monkeypatch, stop_after)
        place = find_checkpoint(Path(place.folder))
    found = run(stopped, ranks, place)
    assert_same(parameters(stopped), parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)


def test_a_run_whose_parent_kept_no_mixed_model_starts_cold_and_decides_anew(make_task, misled):
    task, child = (make_task(1, method="mixed", mixed=ALWAYS) for _ in range(2))
    expected = train_rank(task, SingleProcess())
    found = train_rank(replace(child, parent=task.package), SingleProcess())
    assert found.specific_kind == "none"
    assert_same(parameters(child), parameters(task), exactly=True)
    assert_same_result(found, expected)
