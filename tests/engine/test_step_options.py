"""Steps that clip, decay, regularise and move embedding rows by their own optimizer: plain torch's numbers."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_

from mamdr_core.config.engine import InnerSettings
from mamdr_core.config.learning import LearningSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Scope, Shared, Theta
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.step_options import StepOptions
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.models.tables import Table
from tests.engine.engines import DOMAINS, SCOPES, assert_same, columns_of, eager_engine, fast_engine, trajectories
from tests.engine.small_models import as_double, random_columns, small_engine

LR = 0.05
INNER = {
    "clipped": {"clip_norm": 0.02},
    "decayed": {"weight_decay": 0.3},
    "rows regularised": {"embedding_l2": 0.2},
    "rows by sgd": {"sparse_optimizer": "sgd", "sparse_lr": 0.7},
    "rows by adagrad": {"sparse_optimizer": "adagrad", "sparse_lr": 0.1},
    "rows by adam, slower": {"sparse_optimizer": "adam", "sparse_lr": 0.01},
    "all of it": {"clip_norm": 0.1, "weight_decay": 0.3, "embedding_l2": 0.2, "sparse_optimizer": "adagrad"},
}


def options_of(name: str) -> StepOptions:
    return StepOptions.of(InnerSettings(lr=LR, **INNER[name]))


def alternating_columns(rows: int = 16) -> Columns:
    """Every batch of four rows reads the same ids, so that lazy Adam is Adam."""
    columns = as_double(random_columns([rows]))
    for name in ("user", "item"):
        columns.ids[name] = (torch.arange(rows) % 2 + 1).int()
    return columns


class RowWiseAdagrad:
    """FBGEMM's: one sum of mean squares a row."""

    def __init__(self, tables, lr):
        self.tables, self.lr = tables, lr
        self.sums = [torch.zeros(len(table), dtype=table.dtype) for table in tables]

    @torch.no_grad()
    def step(self):
        for table, sums in zip(self.tables, self.sums, strict=True):
            sums += (table.grad**2).mean(1)
            table -= self.lr * table.grad / (sums.sqrt()[:, None] + 1e-8)


def descend_in_torch(engine: EagerEngine, shared: Shared, columns: Columns, inner: InnerSettings) -> list[torch.Tensor]:
    """Batches of four through torch's own optimizers, over dense embedding tables; theta~, dense first."""
    named = {name: each.clone().requires_grad_() for name, each in engine.flat.named(shared.dense).items()}
    tables = {name: table.clone().requires_grad_() for name, table in shared.tables.items()}
    weights, rows = list(named.values()), list(tables.values())
    if inner.optimizer == "adam":
        dense = torch.optim.AdamW(weights, lr=LR, weight_decay=inner.weight_decay)
    else:
        dense = torch.optim.SGD(weights, lr=LR)
    lr = LR if inner.sparse_lr is None else inner.sparse_lr
    sparse = {
        "adam": lambda: torch.optim.Adam(rows, lr=lr),
        "sgd": lambda: torch.optim.SGD(rows, lr=lr),
        "adagrad": lambda: RowWiseAdagrad(rows, lr),
    }[inner.sparse_optimizer or inner.optimizer]()
    for batch in torch.arange(len(columns)).split(4):
        fields = {name: table[columns.ids[name][batch].long()] for name, table in tables.items()}
        logits = functional_call(engine.flat.module, named, ({**fields, "numeric": columns.numeric[batch]},))
        loss = binary_cross_entropy_with_logits(logits, columns.labels[batch])
        for name, table in tables.items():
            loss = loss + inner.embedding_l2 / 2 * table[columns.ids[name][batch].long().unique()].square().sum()
        for each in (*weights, *rows):
            each.grad = None
        loss.backward()
        if inner.clip_norm:
            clip_grad_norm_([*weights, *rows], inner.clip_norm)
        if inner.optimizer == "sgd":
            with torch.no_grad():
                for each in weights:
                    each.mul_(1 - LR * inner.weight_decay)
        dense.step()
        sparse.step()
    return [torch.cat([each.detach().reshape(-1) for each in weights]), *(table.detach() for table in rows)]


@pytest.mark.parametrize("kind", ["eager", "fast"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", INNER)
def test_steps_equal_those_of_torchs_optimizers(name, optimizer, kind):
    columns, (eager, shared) = alternating_columns(), eager_engine(dropout=0.0)
    inner = InnerSettings(lr=LR, optimizer=optimizer, **INNER[name])
    engine = eager if kind == "eager" else fast_engine(dropout=0.0)
    engine.options = StepOptions.of(inner)
    expected = descend_in_torch(eager, shared, columns, inner)
    found = engine.descend(Theta(shared), [Visit(columns, torch.arange(len(columns)))], LR, optimizer)
    torch.testing.assert_close(shared.dense + found.dense, expected[0], rtol=0, atol=1e-9)
    for (table, start), wanted in zip(shared.tables.items(), expected[1:], strict=True):
        rows = found.rows[table]
        torch.testing.assert_close(start[rows.ids] + rows.values, wanted[rows.ids], rtol=0, atol=1e-9)
    plain = eager_engine(dropout=0.0)[0].descend(
        Theta(shared), [Visit(columns, torch.arange(len(columns)))], LR, optimizer
    )
    parts = [plain.dense - found.dense, *(plain.rows[each].values - found.rows[each].values for each in plain.rows)]
    assert max(part.abs().max() for part in parts) > 1e-3


@pytest.mark.parametrize("scopes", SCOPES)
@pytest.mark.parametrize("name", ["clipped", "rows by sgd", "all of it"])
def test_stacked_trajectories_are_clipped_separately(name, scopes):
    columns, (eager, shared) = columns_of(), eager_engine()
    eager.options = options_of(name)
    fast = fast_engine(options=options_of(name))
    thetas, visits = trajectories(columns, shared)
    given = (thetas, visits, LR, "adam", SCOPES[scopes], [11 + d for d in DOMAINS])
    for found, expected in zip(fast.descend_many(*given), eager.descend_many(*given), strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", ["rows by sgd", "rows by adam, slower", "all of it"])
def test_both_engines_carry_the_same_row_state(name, optimizer):
    columns, (eager, shared) = columns_of(), eager_engine()
    eager.options = options_of(name)
    fast = fast_engine(options=options_of(name))
    rules = {table.name: eager.options.rule(table, optimizer) for table in eager.trained_tables}
    states = [InnerState.zeros_like(shared, rules) for _ in range(2)]
    offsets = columns.offsets.tolist()
    for seed, domain in enumerate((4, 0, 2)):
        visits = [Visit(columns, torch.arange(*offsets[domain : domain + 2]))]
        expected = eager.descend(Theta(shared), visits, LR, optimizer, states[0], seed=seed)
        assert_same(fast.descend(Theta(shared), visits, LR, optimizer, states[1], seed=seed), expected)
    assert states[0].tables.keys() == ({} if name == "rows by sgd" else shared.tables).keys()
    for table, kept in states[0].tables.items():
        for part, values in kept.named().items():
            torch.testing.assert_close(states[1].tables[table].named()[part], values)
            assert values.any()


def test_weight_tables_of_a_structure_are_updated_like_dense_weights():
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bottom = torch.nn.Linear(3, 4)

        def forward(self, fields):
            return (torch.relu(self.bottom(fields["user"])) * fields["tower"]).sum(1)

    tables = (Table("user", "user", 10, 3), Table("tower", "domain", 7, 4, feature=False, per_domain=True))
    columns = columns_of()
    columns.numeric = columns.numeric[:, :0]
    torch.manual_seed(0)
    module = Tower().double()
    dense = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    shared = Shared(dense, {"user": torch.randn(10, 3).double(), "tower": torch.randn(7, 4).double()})
    given = (
        [Theta(shared)] * 6,
        [[Visit(columns, torch.arange(*columns.offsets[d : d + 2].tolist()))] for d in DOMAINS],
        LR,
        "adam",
        [Scope()] * 6,
        list(DOMAINS),
    )
    options = options_of("all of it")
    fast = FastEngine(module, tables, {}, 4, compiles=False, options=options).descend_many(*given)
    eager = EagerEngine(module, tables, {}, 4, options=options).descend_many(*given)
    for found, expected in zip(fast, eager, strict=True):
        assert_same(found, expected)
    still = replace(options, weight_decay=0.0)
    undecayed = EagerEngine(module, tables, {}, 4, options=still).descend_many(*given)
    decay = undecayed[1].rows["tower"].values - eager[1].rows["tower"].values  # of domain 1, which has one step
    torch.testing.assert_close(decay, LR * 0.3 * shared.tables["tower"][[2]])
    torch.testing.assert_close(undecayed[1].rows["user"].values, eager[1].rows["user"].values)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", INNER)
def test_methods_that_combine_gradients_make_the_steps_of_joint_training(name, optimizer):
    """On one domain whose rows are one step, over rounds that carry moments."""

    def descend(method: str) -> Change:
        engine, shared = small_engine(1, batch_size=64)
        inner = InnerSettings(lr=LR, optimizer=optimizer, **INNER[name])
        engine.options = StepOptions.of(inner)
        start = shared.copy()
        columns = as_double(random_columns([12]))
        specific = SpecificStore([], MemoryBuffer(shared.dense), shared.dense)
        settings = LearningSettings(inner=inner)
        learner = Learner(engine, columns, None, shared, specific, lambda change, weight: change, settings, seed=3)
        update = METHODS[method].shared(learner)
        for number in range(4):
            rows = torch.arange(12)[number : number + 8]
            update(Round(0, number, {0: rows}, rows, inner_factor=1 - number / 8))
        tables = {each: learner.shared.tables[each] - start.tables[each] for each in start.tables}
        return torch.cat([learner.shared.dense - start.dense, *(table.flatten() for table in tables.values())])

    expected = descend("joint")
    assert expected.any()
    for method in ("joint_data_parallel", "pcgrad"):
        torch.testing.assert_close(descend(method), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"clip_norm": -1.0}, r"inner.clip_norm must be >= 0, got -1.0"),
        ({"sparse_lr": -0.1}, r"inner.sparse_lr must be >= 0, got -0.1"),
        ({"lr": 0.0, "sparse_lr": 0.1}, r"inner.sparse_lr needs inner.lr > 0"),
    ],
)
def test_options_out_of_range_name_key_and_value(values, cause):
    with pytest.raises(ValueError, match=cause):
        InnerSettings(**values)
