"""Checkpoints: a run that is stopped anywhere and goes on is the undisturbed one, on as many ranks or others."""

import itertools
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mamdr_core.config.engine import InnerSettings
from mamdr_core.config.lr_schedule import LrSchedule
from mamdr_core.config.models import STARSettings
from mamdr_core.config.training import CheckpointSettings
from mamdr_core.learning.methods import METHODS
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.training.checkpoint import checkpoints as module
from mamdr_core.training.checkpoint.checkpoints import CheckpointLocation, Checkpoints, find_checkpoint
from mamdr_core.training.files.manifest import MANIFEST
from mamdr_core.training.worker import train_rank
from tests.training.rank_tasks import assert_same, parameters

pytestmark = pytest.mark.slow
EVERY_ROUND = CheckpointSettings(rounds=1, minutes=0, keep=99)


class StopAfter:
    """Asks to stop after so many looks, one a round."""

    reason = "the test"

    def __init__(self, rounds):
        self.left = rounds

    def is_set(self):
        self.left -= 1
        return self.left < 0

    def set(self):
        raise AssertionError


@pytest.fixture
def place(tmp_path):
    return CheckpointLocation(str(tmp_path / "checkpoints"))


def run(task, ranks, place, monkeypatch=None, stop_after=None, reported="--resume continues"):
    """Train as that many ranks of one process, with checkpoints; if stopped, the error must match `reported`."""
    settings = replace(task.config.train, checkpoint=EVERY_ROUND)
    task = replace(task, config=replace(task.config, train=settings), checkpoints=place)
    if stop_after is not None:
        with monkeypatch.context() as patch:
            patch.setattr("mamdr_core.training.worker.StopRequest", lambda file: StopAfter(stop_after))
            with pytest.raises(StoppedError, match=reported):
                run_simulated(partial(train_rank, task), ranks)
        return None
    if ranks == 1:
        return train_rank(task, SingleProcess())
    return run_simulated(partial(train_rank, task), ranks)[0]


def assert_same_result(found, expected):
    for split, metrics in expected.metrics.items():
        assert torch.equal(found.metrics[split].auc.nan_to_num(-1), metrics.auc.nan_to_num(-1))
    names = ("epochs", "rounds", "best_round", "dr_passes", "rows_descended", "skipped_steps")
    assert [getattr(found, name) for name in names] == [getattr(expected, name) for name in names]
    seconds = [validation.seconds for validation in found.curve]
    assert seconds == sorted(seconds)
    assert [replace(each, seconds=0) for each in found.curve] == [replace(each, seconds=0) for each in expected.curve]


@pytest.mark.parametrize(
    ("method", "schedule"), [*((method, "settled") for method in METHODS), ("dr", "rounds"), ("mamdr", "rounds")]
)
def test_stopped_and_resumed_every_method_gives_the_undisturbed_run_bit_for_bit(
    make_task, monkeypatch, place, method, schedule
):  # fmt: skip
    """The other methods have no DR, or settle its schedule themselves. Steps have every option but one."""
    rates = LrSchedule(warmup_rounds=2, decay="cosine", rates="both")

    def make():
        inner = InnerSettings(sparse_optimizer="adagrad", sparse_lr=0.01, clip_norm=1.0, embedding_l2=1e-3)
        task = make_task(1, method=method, lr_schedule=rates, inner=inner)
        dr = replace(task.config.train.dr, schedule=schedule, every=3 if schedule == "rounds" else 1, epochs=3)
        return replace(task, config=replace(task.config, train=replace(task.config.train, dr=dr)))

    undisturbed, stopped = make(), make()
    expected = train_rank(undisturbed, SingleProcess())
    last = (8 if METHODS[method].shared else 0) + expected.dr_passes
    for stop_after in (0, 2, 1):  # rounds between a start and a stop: mid-epoch, mid-DR, in the settled stage
        if stop_after + 1 < last:
            run(stopped, 1, place, monkeypatch, stop_after)
            place = find_checkpoint(Path(place.folder))
    found = run(stopped, 1, place)
    assert_same(parameters(stopped), parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)


@pytest.mark.parametrize(("method", "ranks"), [("joint", 1), ("mamdr", 1), ("dn", 2)])
def test_statistics_by_domain_resume_bit_for_bit(
    make_task, monkeypatch, place, method, ranks
):  # fmt: skip
    def make():
        task = make_task(ranks, method=method)
        star = STARSettings(normalization="partitioned")
        return replace(task, config=replace(task.config, model=replace(task.config.model, name="star", star=star)))

    undisturbed, stopped = make(), make()
    expected = run(undisturbed, ranks, None)
    for stop_after in (0, 2, 3):  # the first before any validation
        run(stopped, ranks, place, monkeypatch, stop_after)
        place = find_checkpoint(Path(place.folder))
    found = run(stopped, ranks, place)
    saved = parameters(stopped)
    assert_same(saved, parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)
    counts = stopped.pinned.counts["train"]
    assert saved["normalization.count"].flatten().tolist() == [counts.sum(), *counts]


@pytest.mark.parametrize("table_memory", [1.0, 1e-9])
def test_checkpoints_without_room_for_copies_are_written_at_once(
    make_task, monkeypatch, place, tmp_path, table_memory
):  # fmt: skip
    """With 0 bytes available nothing is copied; the run and what it resumes from, mapped or not, are the same."""
    undisturbed = make_task(1, method="mamdr", table_memory=1.0)
    stopped = make_task(1, method="mamdr", table_memory=table_memory, scratch=str(tmp_path))
    expected = run(undisturbed, 1, None)
    monkeypatch.setattr(module, "available_memory", lambda: 0)
    run(stopped, 1, place, monkeypatch, 3)
    found = run(stopped, 1, find_checkpoint(Path(place.folder)))
    assert_same(parameters(stopped), parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)


@pytest.mark.parametrize(
    ("method", "tables"),
    [
        *((method, "replicated") for method in ("mamdr", "joint_data_parallel")),
        ("mamdr", "sharded"),
        ("mixed", "sharded"),
    ],
)
def test_stopped_and_resumed_two_ranks_give_the_undisturbed_run_bit_for_bit(
    make_task, monkeypatch, place, method, tables
):  # fmt: skip
    undisturbed, stopped = (make_task(2, method=method, tables=tables, balance_ranks=True) for _ in range(2))
    expected = run_simulated(partial(train_rank, undisturbed), 2)[0]
    for stop_after in (2, 3):
        run(stopped, 2, place, monkeypatch, stop_after)
        place = find_checkpoint(Path(place.folder))
    found = run(stopped, 2, place)
    assert_same(parameters(stopped), parameters(undisturbed), exactly=True)
    assert_same_result(found, expected)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_a_run_resumes_with_other_numbers_of_ranks(make_task, monkeypatch, place, tables):
    """With an inner rate of zero theta_S stays, and theta_i is what it would be on any ranks: 1, then 3, then 2."""
    tasks = {ranks: make_task(ranks, tables=tables) for ranks in (1, 2, 3)}
    frozen = {
        ranks: replace(
            task,
            config=replace(
                task.config,
                train=replace(task.config.train, inner=replace(task.config.train.inner, lr=0.0)),
            ),
        )
        for ranks, task in tasks.items()
    }
    expected_task = replace(frozen[1], package=frozen[1].package + "-undisturbed")
    expected = train_rank(expected_task, SingleProcess())
    for ranks, stop_after in ((1, 1), (3, 2)):
        run(frozen[ranks], ranks, place, monkeypatch, stop_after)
        place = find_checkpoint(Path(place.folder))
    found = run(frozen[2], 2, place)
    assert_same(parameters(frozen[2]), parameters(expected_task))
    assert found.rounds == expected.rounds
    assert found.rows_descended == expected.rows_descended
    torch.testing.assert_close(found.metrics["test"].auc, expected.metrics["test"].auc, rtol=0, atol=2e-3)


def test_a_checkpoint_holds_theta_s_and_the_optimizers_whatever_the_ranks(make_task, monkeypatch, place):
    """theta_S trained on 3 ranks goes on on one, and differs from the undisturbed run by the averaging alone."""
    task = make_task(3)
    run(task, 3, place, monkeypatch, 3)
    alone = make_task(1)
    found = run(alone, 1, find_checkpoint(Path(place.folder)))
    expected = train_rank(make_task(1), SingleProcess())
    assert found.rounds == expected.rounds == 8
    assert abs(found.metrics["test"].mean_auc() - expected.metrics["test"].mean_auc()) < 0.05


def damage_newest(folder):
    """Damage the newest checkpoint and make the one before it an unfinished one; returns the newest number."""
    newest = find_checkpoint(folder).newest  # fewer than rounds, where writing one takes longer than a round
    assert newest >= 4
    damaged = folder / str(newest) / "shared.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    (folder / str(newest - 1) / MANIFEST).unlink()
    return newest


def test_the_newest_are_kept_and_a_damaged_or_unfinished_one_is_passed_over(make_task, monkeypatch, place, caplog):
    folder = Path(place.folder)
    run(make_task(1), 1, place, monkeypatch, 5)
    newest = damage_newest(folder)
    found = find_checkpoint(folder)
    assert (found.newest, found.next_number) == (newest - 2, newest + 1)
    assert f"{newest}: file shared.safetensors is damaged" in caplog.text
    for number in range(1, newest - 1):
        shutil.rmtree(folder / str(number))
    assert find_checkpoint(folder).newest is None


def test_damaged_and_unfinished_ones_do_not_count_as_kept(make_task, monkeypatch, place):
    folder = Path(place.folder)
    run(make_task(1), 1, place, monkeypatch, 5)
    newest = damage_newest(folder)
    kept = Checkpoints(find_checkpoint(folder), CheckpointSettings(keep=2), SingleProcess(), StopRequest())
    kept.remove_others(folder)
    assert sorted(int(child.name) for child in folder.iterdir()) == [newest - 3, newest - 2]


def test_only_as_many_as_asked_for_are_kept(make_task, place):
    task = make_task(1)
    settings = replace(task.config.train, checkpoint=CheckpointSettings(rounds=2, minutes=0, keep=2))
    train_rank(replace(task, config=replace(task.config, train=settings), checkpoints=place), SingleProcess())
    left = sorted(int(child.name) for child in Path(place.folder).iterdir())
    assert left[-2:] == list(range(left[-2], left[-2] + 2))
    assert len([number for number in left if (Path(place.folder) / str(number) / MANIFEST).exists()]) <= 2


def test_a_disk_that_is_full_costs_a_checkpoint_and_not_the_run(make_task, monkeypatch, place, caplog):
    """One of two ranks cannot write its second checkpoint: it is dropped, the first and the third are there."""
    calls = itertools.count()
    real = module.write

    def write(folder, rank, snapshot):
        if next(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(folder, rank, snapshot)

    monkeypatch.setattr(module, "write", write)
    run(make_task(2), 2, place, monkeypatch, 4)
    assert "could not be written, the previous one is kept: rank" in caplog.text
    assert "No space left on device" in caplog.text
    complete = [child.name for child in Path(place.folder).iterdir() if (child / MANIFEST).exists()]
    assert "2" not in complete
    assert len(complete) >= 2


def test_what_a_rank_that_is_ahead_has_begun_stays(make_task, monkeypatch, place):
    """Rank 1 begins a checkpoint while rank 0 still completes the previous one and removes what is old."""
    folder = Path(place.folder)
    run(make_task(1), 1, place, monkeypatch, 3)
    at = find_checkpoint(folder)
    ahead = folder / str(at.next_number + 1)
    ahead.mkdir()
    (ahead / "rows-00001.safetensors").touch()
    kept = Checkpoints(at, CheckpointSettings(keep=1), SingleProcess(), StopRequest())
    kept.remove_others(folder)
    assert sorted(folder.iterdir()) == sorted([folder / str(at.newest), ahead])
    assert list(ahead.iterdir())


def test_a_run_stopped_without_a_checkpoint_does_not_claim_to_be_resumable(make_task, monkeypatch, place):
    def write(folder, rank, snapshot):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write", write)
    run(make_task(1), 1, place, monkeypatch, 1, reported=r"after round \d+$")


def test_a_checkpoint_whose_manifest_lists_nothing_is_an_error(make_task, monkeypatch, place):
    run(make_task(1), 1, place, monkeypatch, 1)
    (Path(place.folder) / "1" / MANIFEST).write_text("{}")
    with pytest.raises(MamdrError, match="cannot be read"):
        module.check_integrity(Path(place.folder) / "1", "checkpoint")
