"""The three primitives, and joint training, against plain PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.engine import InnerSettings
from mamdr_core.config.learning import LearningSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import BETA2, EPSILON, InnerState
from mamdr_core.engine.parameters import Change, Rows, Scope, Theta
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.joint import JointTraining
from mamdr_core.learning.learner import Learner
from mamdr_core.models.structures import build_model
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import make_rounds
from tests.engine.small_models import as_double, random_columns, small_engine, small_inputs, with_base


class Plain:
    """The same network with nn.Embedding tables, trained by hand."""

    def __init__(self, shared, domains=3):
        self.net = build_model(ModelSettings(hidden=(5,), dropout=0.0), small_inputs(domains), seed=1).double()
        self.tables = {name: nn.Embedding.from_pretrained(t.clone(), freeze=False) for name, t in shared.tables.items()}
        self.parameters = [*self.net.parameters(), *(table.weight for table in self.tables.values())]

    def loss(self, columns, rows):
        fields = {name: table(columns.ids[name][rows].long()) for name, table in self.tables.items()}
        logits = self.net({**fields, "numeric": columns.numeric[rows]})
        base_logits = 0 if columns.base_logits is None else columns.base_logits[rows]
        return binary_cross_entropy_with_logits(logits + base_logits, columns.labels[rows])

    def dense(self):
        return torch.cat([p.detach().reshape(-1) for p in self.net.parameters()])


def columns_of(counts, has_base=False, **options):
    columns = as_double(random_columns(counts, **options))
    return with_base(columns) if has_base else columns


@pytest.mark.parametrize("has_base", [False, True])
def test_the_gradient_equals_autograds(has_base):
    columns = columns_of([4, 6, 5], has_base)
    engine, shared = small_engine(3)
    rows = torch.arange(3, 11)
    plain = Plain(shared)
    plain.loss(columns, rows).backward()
    found = engine.gradient(Theta(shared), Visit(columns, rows))
    torch.testing.assert_close(found.dense, torch.cat([p.grad.reshape(-1) for p in plain.net.parameters()]))
    for name, table in plain.tables.items():
        torch.testing.assert_close(found.rows[name].values, table.weight.grad[found.rows[name].ids])


@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trajectory_equals_a_plain_training_loop(optimizer, has_base):
    """Adam: one batch that touches every row at each step, where lazy and dense moments are the same."""
    columns = columns_of([40, 60, 50], has_base, users=3, items=2)
    engine, shared = small_engine(3, batch_size=1000)
    visits = [Visit(columns, torch.randperm(150)) for _ in range(4)]
    change = engine.descend(Theta(shared), visits, lr=0.05, optimizer=optimizer)
    plain = Plain(shared)
    make = torch.optim.SGD if optimizer == "sgd" else torch.optim.Adam
    steps = make(plain.parameters, lr=0.05)
    for visit in visits:
        steps.zero_grad()
        plain.loss(columns, visit.rows).backward()
        steps.step()
    torch.testing.assert_close(shared.dense + change.dense, plain.dense(), rtol=1e-9, atol=1e-10)
    for name, rows in change.rows.items():
        expected = plain.tables[name].weight[rows.ids].detach()
        torch.testing.assert_close(shared.tables[name][rows.ids] + rows.values, expected, rtol=1e-9, atol=1e-10)


def test_joint_training_makes_the_steps_of_a_plain_program():
    """Two epochs over mixed rows; torch's SparseAdam is lazy too, with epsilon before the correction of its bias."""
    columns, lr = columns_of([9, 0, 6, 8]), 0.05
    engine, shared = small_engine(4)
    plain = Plain(shared, domains=4)
    settings = LearningSettings(inner=InnerSettings(lr=lr))
    specific = SpecificStore([], MemoryBuffer(shared.dense), shared.dense)
    joint = JointTraining(Learner(engine, columns, None, shared, specific, lambda change, weight: change, settings, 3))
    for table in plain.tables.values():
        table.sparse = True
    network = torch.optim.Adam(plain.net.parameters(), lr=lr)
    tables = torch.optim.SparseAdam([table.weight for table in plain.tables.values()], lr=lr)
    plan, steps = RoundPlan(columns.counts.numpy(), rounds=3, smallest_slice=1, seed=3), 0
    for epoch in range(2):
        rounds = list(make_rounds(plan, epoch, columns, 0, Arrays(), mixes=True))
        assert sorted(torch.cat([each.shuffled for each in rounds]).tolist()) == list(range(23))
        for each in rounds:
            joint(each)
            rows = each.shuffled  # 7 or 8, at most 4 a step
            for batch in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
                steps += 1
                tables.param_groups[0]["eps"] = EPSILON * (1 - BETA2**steps) ** 0.5
                network.zero_grad()
                tables.zero_grad()
                plain.loss(columns, batch).backward()
                network.step()
                tables.step()
    torch.testing.assert_close(shared.dense, plain.dense(), rtol=1e-9, atol=1e-10)
    for name, table in plain.tables.items():
        torch.testing.assert_close(shared.tables[name], table.weight.detach(), rtol=1e-9, atol=1e-10)


def test_a_trajectory_reads_batches_in_order_and_does_not_change_its_start():
    columns = as_double(random_columns([9, 0, 6]))
    engine, shared = small_engine(3, batch_size=4)
    before = shared.copy()
    visits = [Visit(columns, torch.arange(9)), Visit(columns, torch.arange(9, 15))]
    change = engine.descend(Theta(shared), visits, lr=0.1, optimizer="sgd")
    plain = Plain(shared)
    steps = torch.optim.SGD(plain.parameters, lr=0.1)
    for first, last in [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15)]:
        steps.zero_grad()
        plain.loss(columns, torch.arange(first, last)).backward()
        steps.step()
    torch.testing.assert_close(shared.dense + change.dense, plain.dense())
    assert torch.equal(before.dense, shared.dense)
    assert all(torch.equal(before.tables[name], shared.tables[name]) for name in shared.tables)


def test_carried_moments_continue_where_the_last_trajectory_ended():
    columns = as_double(random_columns([20, 20, 20]))
    engine, shared = small_engine(3)
    visits = [Visit(columns, torch.arange(20 * d, 20 * d + 20)) for d in range(3)]
    whole = engine.descend(Theta(shared), visits, lr=0.01)
    state = InnerState.zeros_like(shared)
    first = engine.descend(Theta(shared), visits[:1], lr=0.01, state=state)
    second = engine.descend(Theta(shared, first), visits[1:], lr=0.01, state=state)
    both = first.add(second, 1.0)
    torch.testing.assert_close(both.dense, whole.dense)
    for name in whole.rows:
        assert torch.equal(both.rows[name].ids, whole.rows[name].ids)
        torch.testing.assert_close(both.rows[name].values, whole.rows[name].values)


def test_parameters_outside_a_scope_do_not_change():
    columns = as_double(random_columns([8, 8, 8]))
    engine, shared = small_engine(3)
    scope = Scope(frozenset({"domain", "user"}), {"domain": torch.tensor([2]), "user": torch.tensor([1, 4])})
    visits = [Visit(columns, torch.arange(16), as_domain=1)]
    change = engine.descend(Theta(shared), visits, lr=0.1, scope=scope)
    assert set(change.rows) == {"domain", "user"}
    assert change.rows["domain"].ids.tolist() == [2]
    assert set(change.rows["user"].ids.tolist()) <= {1, 4}
    assert change.rows["domain"].values.abs().sum() > 0


def test_prediction_at_theta_s_plus_theta_i_adds_only_touched_rows():
    columns = as_double(random_columns([5, 5, 5]))
    engine, shared = small_engine(3)
    rows = Rows(torch.tensor([2, 3]), torch.ones(2, 3, dtype=torch.float64))
    specific = Change(0.1 * torch.ones_like(shared.dense), {"item": rows})
    moved = shared.copy()
    moved.dense += 0.1
    moved.tables["item"][[2, 3]] += 1
    visit = Visit(columns, torch.arange(15))
    expected = engine.predict(Theta(moved), visit)
    torch.testing.assert_close(engine.predict(Theta(shared, specific), visit), expected)
    based = with_base(columns)
    found = engine.predict(Theta(shared, specific), Visit(based, torch.arange(15).flip(0)))
    torch.testing.assert_close(found, (expected + based.base_logits).flip(0))


def test_without_visits_nothing_changes():
    engine, shared = small_engine(3)
    change = engine.descend(Theta(shared), [], lr=0.1)
    assert not change.dense.any()
    assert all(not len(rows.ids) for rows in change.rows.values())


def test_descend_many_equals_descend_for_each_trajectory():
    columns = as_double(random_columns([8, 8, 8]))
    engine, shared = small_engine(3, dropout=0.5)
    visits = [[Visit(columns, torch.arange(8 * d, 8 * d + 8))] for d in range(3)]
    many = engine.descend_many([Theta(shared)] * 3, visits, 0.1, "adam", [Scope()] * 3, [5, 6, 7])
    for change, own, seed in zip(many, visits, [5, 6, 7], strict=True):
        assert torch.equal(change.dense, engine.descend(Theta(shared), own, 0.1, seed=seed).dense)
