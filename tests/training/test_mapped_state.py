"""State of tables that is memory-mapped trains what state in memory trains, bit for bit, on two ranks."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.job_config import Config
from mamdr_core.config.learning import DRSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.config.training import CheckpointSettings, TrainSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.parameter_state import held_rows
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.mapped_state import MappedState
from mamdr_core.training.building import make_learner
from mamdr_core.training.checkpoint import checkpoints
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, Checkpoints, find_checkpoint
from mamdr_core.training.choices import Choices
from mamdr_core.training.trainer import Trainer

TRAIN = TrainSettings(
    batch_size=64, epochs=3, rounds_per_epoch=4, validate_every=1, patience=2, engine="eager",
    dr=DRSettings(epochs=2, batch_size=64, k=0), checkpoint=CheckpointSettings(minutes=0),
)  # fmt: skip
USERS = 200


class StopAfter(StopRequest):
    """Asks to stop after a number of rounds."""

    reason = "the test"

    def __init__(self, rounds):
        super().__init__()
        self._left = rounds

    def is_set(self):
        self._left -= 1
        return self._left < 0


def columns_of(rank, rows, generator):
    """Rows of two domains, which are the rank's."""
    domain = torch.arange(rows) * 2 // rows + 2 * rank
    user = torch.randint(1, USERS + 1, (rows,), generator=generator).int()
    ids = {"user": user, "item": torch.ones(rows).int(), "domain": (domain + 1).int()}
    labels = torch.randint(0, 2, (rows,), generator=generator).float()
    return Columns(ids, torch.zeros(rows, 0), labels, offsets_of(torch.bincount(domain, minlength=4)))


def train(settings, folder, maps_state, place=None, rounds=1_000_000):
    """Train on two ranks, and stop after a number of rounds; returns by rank what was found."""
    config = Config(train=replace(settings, scratch=str(folder)), model=ModelSettings(embedding_dim=8, hidden=(8,)))
    generator = torch.Generator().manual_seed(1)
    splits = [{s: columns_of(r, n, generator) for s, n in (("train", 800), ("val", 400))} for r in range(2)]
    counts = sum(own["train"].counts.numpy() for own in splits)
    sizes = {"user": USERS, "item": 1, "domain": 4}
    pinned = SimpleNamespace(sizes=sizes, counts={"train": counts}, domain_ids=("x",) * 4, numeric={})
    share = SimpleNamespace(vector_shapes=lambda trainable: {}, vectors=lambda trainable: {})

    def task(collective):
        columns, own = splits[collective.rank], np.arange(4) // 2 == collective.rank
        choices = Choices(torch.device("cpu"), "eager")
        learner = make_learner(
            config, pinned, own, collective, share, columns["train"], choices, maps_state=maps_state
        )  # fmt: skip
        assert learner.state_memory.mapped == maps_state
        of_run = Checkpoints(place, settings.checkpoint, collective, StopAfter(rounds))
        trainer = Trainer(
            settings, learner, find_method(settings.method), counts, own, collective, columns["val"], Arrays(), Clock(),
            of_run,
        )  # fmt: skip
        outcome = trainer.train()
        dense = {f"theta_{domain}": learner.specific[domain].dense for domain in learner.specific}
        tensors = {"dense": learner.shared.dense, **held_rows(learner.shared), **dense}
        return outcome.rounds, outcome.best_round, [each.val_auc for each in outcome.curve], tensors

    return run_simulated(task, 2)


def assert_equal(found, expected):
    for own, wanted in zip(found, expected, strict=True):
        assert own[:3] == wanted[:3]
        assert own[3].keys() == wanted[3].keys()
        assert all(torch.equal(own[3][name], values) for name, values in wanted[3].items())


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("mamdr", {}),
        ("dn", {"tables": "sharded"}),
        ("dn", {"outer": OuterSettings(optimizer="nesterov")}),
        ("pcgrad", {"inner": InnerSettings(sparse_optimizer="adagrad")}),
        ("reptile", {}),
        ("joint", {}),
    ],
)
def test_mapped_state_trains_what_state_in_memory_trains(tmp_path, method, change):
    """Through early stop, which goes back to a best that was kept aside; nothing stays in the folder."""
    settings = replace(TRAIN, method=method, **change)
    expected, found = (train(settings, tmp_path, maps) for maps in (False, True))
    assert expected[0][1] < expected[0][0]  # the best is not the last
    assert_equal(found, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_room", [True, False])
def test_a_stopped_run_resumes_with_mapped_state(tmp_path, monkeypatch, has_room):
    """Whether checkpoints copy the state or memory has no room for that."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    expected = train(replace(TRAIN, method="mamdr"), folder, maps_state=False)
    if not has_room:
        monkeypatch.setattr(checkpoints, "available_memory", lambda: 0)
    settings = replace(TRAIN, method="mamdr", checkpoint=CheckpointSettings(rounds=1, minutes=0))
    place = CheckpointLocation(str(tmp_path / "checkpoints"))
    for rounds in (2, 3):
        with pytest.raises(StoppedError):
            train(settings, folder, True, place, rounds)
        place = find_checkpoint(Path(place.folder))
        assert place.newest
    assert_equal(train(settings, folder, True, place), expected)
    assert not list(folder.iterdir())


def test_a_folder_without_space_is_an_error_that_states_what_to_do():
    with pytest.raises(
        MamdrError, match=r"train\.scratch: cannot allocate .* raise train\.table_memory, or set train\.tables"
    ):
        MappedState("/nowhere/at/all").zeros_like(torch.zeros(3, 2))
    copied = MappedState().copy(torch.arange(6.0).view(3, 2))
    assert copied.add_(1).tolist() == [[1, 2], [3, 4], [5, 6]]
