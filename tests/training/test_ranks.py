"""The same training on one process, on simulated ranks and on Horovod ranks in Spark."""

import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mamdr_core.engine.calibration import CELLS
from mamdr_core.learning.methods import METHODS
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.launch import LAUNCHERS, run_ranks
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.loading import Share
from mamdr_core.training.package import load_calibration
from mamdr_core.training.worker import train_rank
from tests.training.rank_tasks import assert_same, over_rows, parameters

pytestmark = pytest.mark.slow
ON_CLUSTER = "MAMDR_TEST_MASTER" in os.environ


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_measures_every_domain(make_task, method):
    task = make_task(1, method=method)
    result = train_rank(task, SingleProcess())
    assert result.rounds == (0 if method == "separate" else 8)
    assert (result.dr_passes > 0) == (method in ("separate", "finetune"))
    test = result.metrics["test"]
    assert test.rows.sum() == task.pinned.counts["test"].sum()
    assert 0.4 < test.mean_auc() < 1
    assert test.oracle_auc.nanmean() > test.mean_auc()
    assert result.rows_descended >= 2 * task.pinned.counts["train"].sum()
    saved = parameters(task)
    assert any(name.startswith("theta_") for name in saved) == (method in ("separate", "dr", "mamdr", "finetune"))
    assert any(name.startswith("mixed-") for name in saved) == (method == "mixed")


@pytest.mark.cluster
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launched_ranks_give_what_the_same_ranks_give_in_one_process(spark, make_task, launcher):
    """Of three ranks the last owns no domain, and still takes part in every collective. A cluster has two slots.

    Those of Horovod train whole tables, then sharded ones.
    """
    ranks, owner = (2, None) if launcher == "torch" or ON_CLUSTER else (3, [0, 0, 1, 1, 0])
    simulated, launched = (
        [make_task(ranks, owner), over_rows(make_task(ranks, owner, tables="sharded"))][: 1 + (launcher == "horovod")]
        for _ in range(2)
    )

    def train(collective):
        return [train_rank(task, collective) for task in launched]

    found = run_ranks(spark, train, ranks, start_timeout=120, launcher=launcher)
    assert len(found) == ranks
    for task, again, *results in zip(simulated, launched, *found, strict=True):
        expected = run_simulated(partial(train_rank, task), ranks)
        assert {result.rounds for result in results} == {expected[0].rounds}
        auc = [result.metrics["test"].auc for result in (results[0], expected[0])]
        torch.testing.assert_close(*auc, rtol=0, atol=2e-3, equal_nan=True)
        assert_same(parameters(again), parameters(task))
        files = list(Path(task.package).glob("specific-*"))
        assert files
        for file in files:
            assert_same(load_file(Path(again.package) / file.name), load_file(file))


@pytest.fixture
def two_threads():
    """A process of `make test` has one; a user's has several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["joint", "mamdr"])
def test_two_identical_runs_on_two_threads_are_the_same_bit_for_bit(make_task, two_threads, method):
    """With batches large enough for torch to divide them among threads."""
    tasks = [make_task(1, method=method, batch_size=4096) for _ in range(2)]
    for task in tasks:
        train_rank(task, SingleProcess())
    assert_same(parameters(tasks[0]), parameters(tasks[1]), exactly=True)


def test_theta_i_does_not_depend_on_the_number_of_ranks_given_theta_s(make_task):
    """With an inner rate of zero theta_S stays at its start; DR then sees the same rows and draws everywhere."""
    tasks = []
    for ranks in (1, 2):
        task = make_task(ranks, patience=99)
        inner = replace(task.config.train.inner, lr=0.0)
        task = replace(task, config=replace(task.config, train=replace(task.config.train, inner=inner)))
        run_simulated(partial(train_rank, task), ranks)
        tasks.append(parameters(task))
    assert_same(tasks[0], tasks[1])


@pytest.mark.parametrize("method", ["mamdr", "finetune"])
def test_rows_in_a_memory_mapped_file_train_what_rows_in_memory_train(make_task, tmp_path, method):
    tasks = [make_task(2, method=method, host_memory=bound, scratch=str(tmp_path)) for bound in (0.0, 1e-6)]
    results = [run_simulated(partial(train_rank, task), 2) for task in tasks]
    for split, measured in results[0][0].metrics.items():
        mapped = results[1][0].metrics[split]
        for own, other in (
            (measured, mapped),
            (measured.detail, mapped.detail),
            (measured.detail.cells, mapped.detail.cells),
        ):
            figures = {name: figure for name, figure in vars(own).items() if isinstance(figure, torch.Tensor)}
            assert figures
            for name, figure in figures.items():
                torch.testing.assert_close(vars(other)[name], figure, rtol=0, atol=0, equal_nan=True)
    assert_same(parameters(tasks[0]), parameters(tasks[1]), exactly=True)
    assert not list(tmp_path.iterdir())


def test_the_fast_engine_trains_what_the_eager_one_trains(make_task, traced_steps):
    """Two ranks, four rounds of steps in fp32, theta_i over embedding rows too.

    Backend aot_eager generates no code; test_fast and test_several cover code generation.
    """
    tasks, results = [], []
    for engine in ("eager", "fast"):
        task = make_task(2, engine=engine, epochs=1, validate_every=4)
        train = replace(task.config.train, dr=replace(task.config.train.dr, rows="touched"))
        tasks.append(replace(task, config=replace(task.config, train=train)))
        results.append(run_simulated(partial(train_rank, tasks[-1]), 2))
    assert [result[0].engine for result in results] == ["eager", "fast"]
    assert results[1][0].data_wait_seconds > 0
    assert results[0][0].rows_descended == results[1][0].rows_descended
    found, expected = parameters(tasks[1]), parameters(tasks[0])
    assert found.keys() == expected.keys()
    for name, values in expected.items():  # Adam's first step is as long whatever the gradient: 0 +- rounding matters
        assert (found[name] - values).norm() <= 1e-3 * values.norm(), name
    auc = [result[0].metrics["val"].auc for result in results]
    torch.testing.assert_close(auc[1], auc[0], rtol=0, atol=1e-3, equal_nan=True)


def test_dr_once_theta_s_has_settled_leaves_theta_s_as_dn_alone_made_it(make_task):
    """On two ranks, one of which owns no domain; it stops by its own patience, and theta_i is no worse than none."""
    settled = make_task(2, [1] * 5, method="mamdr")
    dr = replace(settled.config.train.dr, schedule="settled", epochs=3, patience=1)
    settled = replace(settled, config=replace(settled.config, train=replace(settled.config.train, dr=dr)))
    results = run_simulated(partial(train_rank, settled), 2)
    alone = make_task(2, [1] * 5, method="dn")
    (plain, _) = run_simulated(partial(train_rank, alone), 2)
    assert 1 <= results[0].dr_passes <= 3
    assert (results[0].rounds, results[0].epochs) == (plain.rounds, plain.epochs + results[0].dr_passes)
    found, expected = parameters(settled), parameters(alone)
    assert_same({name: found[name] for name in expected}, expected, exactly=True)
    assert results[0].metrics["val"].mean_auc() >= plain.metrics["val"].mean_auc()


def test_theta_i_in_a_file_is_theta_i_in_memory(make_task, tmp_path):
    """Bit for bit, through early stop, which goes back to a best that was kept aside; nothing stays in the folder."""
    tasks = [make_task(2, patience=1, specific_memory=bound, scratch=str(tmp_path)) for bound in (1.0, 1e-9)]
    results = [run_simulated(partial(train_rank, task), 2) for task in tasks]
    assert_same(parameters(tasks[0]), parameters(tasks[1]), exactly=True)
    assert results[0][0].specific_bytes == results[1][0].specific_bytes > 0
    assert results[0][0].specific_row_bytes == 5 * 4 * 4 + 5 * 8  # each domain's embedding row and its id
    assert not list(tmp_path.iterdir())


def test_only_rank_0_returns_what_grows_with_domains(make_task):
    """The driver collects the results of all ranks."""
    sizes = []
    for domains in (5, 10_000):
        task = make_task(2, method="dn", epochs=1)
        more = domains - 5  # without rows
        pinned = replace(
            task.pinned,
            domain_ids=(*task.pinned.domain_ids, *(f"empty {number}" for number in range(more))),
            counts={split: np.pad(counts, (0, more)) for split, counts in task.pinned.counts.items()},
            sizes={**task.pinned.sizes, "domain": domains},
        )
        task = replace(task, pinned=pinned, owner=np.pad(task.owner, (0, more), constant_values=1))
        first, other = run_simulated(partial(train_rank, task), 2)
        assert len(first.metrics["test"].auc) == domains
        assert first.curve
        figures, cells = 3 * (6 + 8) * domains, 3 * 2 * CELLS  # of three splits
        assert len(pickle.dumps(first.metrics)) < 8 * (figures + cells) + 10_000
        sizes.append(len(pickle.dumps(other)))
    assert (other.metrics, other.curve) == ({}, [])
    assert max(sizes) < min(sizes) + 100 < 2000


def test_a_precision_that_the_engine_has_not_is_an_error(make_task):
    with pytest.raises(MamdrError, match=r"train\.precision bf16 needs the fast engine, and the eager one runs"):
        train_rank(make_task(1, precision="bf16"), SingleProcess())


def test_methods_that_combine_gradients_refuse_sharded_tables(make_task):
    message = (
        r"^train\.method joint_data_parallel keeps Adam's moments of whole tables: set train\.tables to replicated$"
    )
    with pytest.raises(MamdrError, match=message):
        train_rank(make_task(1, method="joint_data_parallel", tables="sharded"), SingleProcess())


def test_a_run_that_diverges_names_the_domain_by_its_id(make_task):
    task = make_task(1, method="dn")
    inner = replace(task.config.train.inner, lr=1e30)
    task = replace(task, config=replace(task.config, train=replace(task.config.train, inner=inner)))
    with pytest.raises(MamdrError, match=r"^the loss of domain '.*' is not finite at step \d+, batch \d+ of visit"):
        train_rank(task, SingleProcess())
    skipping = replace(task, config=replace(task.config, train=replace(task.config.train, on_nan="skip")))
    assert train_rank(skipping, SingleProcess()).skipped_steps > 0


def test_the_mixed_model_does_not_depend_on_the_number_of_ranks(make_task):
    """Where theta_S stays as it was drawn; the sums of several ranks are rounded otherwise."""
    results = []
    for ranks in (1, 2):
        task = make_task(ranks, method="mixed")
        train = replace(task.config.train, inner=replace(task.config.train.inner, lr=0.0))
        task = replace(task, config=replace(task.config, train=train))
        results.append(run_simulated(partial(train_rank, task), ranks)[0])
    alone, shared = results
    assert alone.specific_bytes == shared.specific_bytes
    assert [each.round for each in alone.curve] == [each.round for each in shared.curve]
    for split, measured in alone.metrics.items():
        torch.testing.assert_close(shared.metrics[split].logloss, measured.logloss, rtol=0, atol=1e-4)
        torch.testing.assert_close(shared.metrics[split].auc, measured.auc, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("rows", "start"), [("touched", "zeros"), ("none", "random")])
def test_the_scope_and_start_of_theta_i_are_options(make_task, rows, start):
    task = make_task(1, epochs=1, validate_every=4)  # the last round, which has met all rows, is the best
    dr = replace(task.config.train.dr, rows=rows, start=start)
    task = replace(task, config=replace(task.config, train=replace(task.config.train, dr=dr)))
    train_rank(task, SingleProcess())
    saved = load_file(Path(task.package) / "specific-00000-00000.safetensors")
    assert ("user.ids" in saved) == (rows == "touched")
    if rows == "touched":
        train = Share(task.pinned, task.config.features, np.ones(5, dtype=bool)).columns("train")
        mine = saved["user.ids"][saved["user.owner"] == 2]
        own = train.ids["user"][train.offsets[2] : train.offsets[3]].long()
        assert set(mine.tolist()) == set(own.tolist())
    assert (saved["dense"].abs().max() > 0.1) == (start == "random")


def test_a_rank_that_misses_a_row_ends_the_run_with_one_line(spark, make_task):
    task = make_task(2, owner=[0, 0, 0, 0, 1])
    more = {**task.pinned.counts, "train": task.pinned.counts["train"] + np.array([0, 0, 0, 0, 1])}
    task = replace(task, pinned=replace(task.pinned, counts=more))  # rank 1 misses a row; rank 0 waits for it
    with pytest.raises(MamdrError, match=r"^read \d+ train rows of examples version \d+, expected"):
        run_ranks(spark, partial(train_rank, task), 2, start_timeout=120)


@pytest.mark.cluster
def test_too_few_slots_are_an_error_before_launch(spark):
    message = r"train\.ranks is 9: need 9 slots, have [23](; .*\(--master 'local\[9\]'\)| of spark://.*)$"
    with pytest.raises(MamdrError, match=message):
        run_ranks(spark, lambda collective: None, 9, start_timeout=5)


def test_the_calibration_of_a_run_does_not_depend_on_its_ranks_and_leaves_aucs(make_task):
    """As far as its parameters do not."""
    tasks = [make_task(ranks, method="joint", epochs=1, calibration="platt") for ranks in (1, 2)]
    alone, together = train_rank(tasks[0], SingleProcess()), run_simulated(partial(train_rank, tasks[1]), 2)
    for result in (alone, together[0]):
        auc = [measured.auc.nan_to_num(-1) for measured in (result.metrics["test"], result.uncalibrated)]
        assert torch.equal(*auc)
        pcoc = [measured.overall()["pcoc"] for measured in (result.metrics["test"], result.uncalibrated)]
        assert pcoc[0] != pcoc[1]
        assert abs(pcoc[0] - 1) < 0.15
    assert together[1].uncalibrated is None
    for task in tasks:
        calibration = load_calibration(task.package)
        assert len(calibration.slope_K) == len(task.pinned.domain_ids) + 1
        assert (calibration.slope_K > 0).all()
