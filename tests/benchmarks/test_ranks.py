"""The benchmark of ranks trains as the product does, on equally many rows whatever the number of ranks."""

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mamdr_core.config.job_config import with_values
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import METHODS
from mamdr_core.models.structures import build_model
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.placement import place_domains
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_store
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.rounds import make_rounds

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = {
    "synthetic.rows": 2400, "synthetic.users": 80, "synthetic.items": 40, "synthetic.domains": 9,
    "model.hidden": [8], "train.epochs": 2, "train.rounds_per_epoch": 4, "train.batch_size": 64,
}  # fmt: skip
EPOCHS = SMALL["train.epochs"]


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the benchmarks, which are scripts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.fixture
def log(load):
    return load("ranks_worlds").draw_log("conflict_1", 7, SMALL)


def one_process(log, config) -> tuple[float, float]:
    """Validation and test AUC of a plain loop over all rounds that keeps the best theta_S."""
    settings, train = config.train, log.columns["train"]
    module = build_model(config.model, log.inputs, settings.seed)
    engine = EagerEngine(module, log.inputs.tables, log.frozen, settings.batch_size)
    shared = initial_shared(module, log.inputs.tables, settings.seed)
    method = METHODS[settings.method]
    learner = Learner(
        engine=engine,
        train=train,
        supports=None,
        shared=shared,
        specific=make_store(settings, shared.dense, []),
        average=partial(mean_change, SingleProcess()),
        settings=method.settle(settings.learning),
        seed=settings.seed,
    )
    update, best = method.shared(learner), (-1.0, -1.0)
    plan = RoundPlan(train.counts.numpy(), settings.rounds_per_epoch, settings.smallest_slice, settings.seed)
    for epoch in range(EPOCHS):
        for round_ in make_rounds(plan, epoch, train, 0, Arrays(), mixes=method.mixes):
            update(round_)
            found = [
                evaluate_columns(engine, learner.shared, {}, log.columns[split]).mean_auc() for split in ("val", "test")
            ]
            best = max(best, tuple(found), key=lambda aucs: aucs[0])
    return best


@pytest.mark.parametrize("method", ["dn", "joint", "joint_data_parallel"])
def test_one_rank_trains_as_one_process_does(load, log, method):
    config = with_values(log.config, {"train.method": method})
    found = load("ranks_training").train_ranks(log, config, 1)
    assert (found.val_auc, found.test_auc) == one_process(log, config)
    assert 0 < found.best <= 1


@pytest.mark.parametrize("method", ["dn", "joint", "joint_data_parallel"])
def test_all_numbers_of_ranks_and_both_placements_descend_on_equally_many_rows(load, log, method):
    train_ranks = load("ranks_training").train_ranks
    config = with_values(log.config, {"train.method": method})
    rows = {train_ranks(log, config, ranks, reshuffles).rows for ranks in (1, 2, 5) for reshuffles in (False, True)}
    assert rows == {EPOCHS * len(log.columns["train"])}


def test_reshuffled_ranks_differ_from_static_ones_from_the_second_epoch_on(load, log):
    train_ranks = load("ranks_training").train_ranks
    rates = {"train.inner.lr": 0.01, "train.outer.optimizer": "sgd", "train.outer.beta": 1.0}  # the last epoch is best
    for epochs in (1, 3):
        config = with_values(log.config, {"train.method": "dn", "train.epochs": epochs, **rates})
        static, reshuffled = (train_ranks(log, config, 3, reshuffles).val_auc for reshuffles in (False, True))
        assert (static == reshuffled) == (epochs == 1)


def test_rates_are_scaled_by_the_number_of_ranks(load):
    bench = load("bench_ranks")
    trials = [bench.Trial("conflict_1", "dn sgd", point, "static", 4, 0, 200) for point in ("default", *bench.SCALED)]
    assert [bench.rates_of(trial)["train.outer.beta"] for trial in trials] == [0.7, 4 * 0.7, 0.7]
    change = Change(torch.ones(2), {"user": Rows(torch.tensor([3]), torch.ones(1, 2))})
    scaled = load("ranks_training").mean_of_ranks(SingleProcess(), 4.0, change, 5.0)
    assert scaled.dense.tolist() == [4, 4]
    assert scaled.rows["user"].values.tolist() == [[1, 1]]


def test_a_reshuffled_placement_is_new_in_every_epoch_and_as_even(load):
    placement_of = load("ranks_training").placement_of
    counts_n = np.random.default_rng(0).integers(20, 400, 60)
    placed = placement_of(counts_n, 4, 3, True)
    first, second, third = (placed(epoch) for epoch in range(3))
    assert (first == place_domains(counts_n, 4)).all()
    assert (second == placement_of(counts_n, 4, 3, True)(1)).all()
    assert (placement_of(counts_n, 4, 3, False)(2) == first).all()
    for one, other in ((first, second), (second, third)):
        assert (one != other).sum() > 10
    for owner_n in (first, second, third):
        rows_W = np.bincount(owner_n, counts_n, minlength=4)
        assert rows_W.max() < 1.1 * rows_W.mean()


@pytest.mark.parametrize(
    ("kind", "shares"), [("conflict_1", (0.6, 0.2, 0.2)), ("production", (18 / 21, 1 / 21, 2 / 21))]
)
def test_a_log_has_every_row_in_one_split(load, kind, shares):
    log = load("ranks_worlds").draw_log(kind, 7, {name: SMALL[name] for name in SMALL if name.startswith("synthetic")})
    sizes = np.array([len(log.columns[split]) for split in ("train", "val", "test")])
    assert sizes.sum() == 2400
    assert sizes / 2400 == pytest.approx(shares, abs=0.04)
    keys = [
        set(zip(*(own.ids[of].tolist() for of in ("user", "item", "domain")), strict=True))
        for own in log.columns.values()
    ]
    assert kind == "production" or not keys[0] & (keys[1] | keys[2])


def test_the_table_pairs_seeds(load, tmp_path, monkeypatch, capsys):
    bench, training = load("bench_ranks"), load("ranks_training")
    aucs = {(1, 0): 0.70, (1, 1): 0.60, (4, 0): 0.68, (4, 1): 0.56}
    monkeypatch.setattr(bench, "run_trial", lambda at: training.Trained(0.6, aucs[at.ranks, at.seed], 1.0, 100, 1.0))
    arguments = ["--kinds", "conflict_1", "--labels", "dn sgd", "--ranks", "4", "1", "--json", str(tmp_path / "runs")]
    bench.main([*arguments, "--seeds", "0"])
    monkeypatch.setattr(bench, "run_trial", lambda at: training.Trained(0.6, aucs[at.ranks, 1], 1.0, 100, 1.0))
    bench.main([*arguments, "--seeds", "0", "1"])  # seed 0 is read
    assert "| dn sgd | default | static | 0.6500 ± 0.0707 (2) | -0.0300 ± 0.0141 (2) |" in capsys.readouterr().out
