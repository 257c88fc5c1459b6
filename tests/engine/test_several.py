"""Bags and sequences: a plain training loop written by hand gives the eager engine's numbers, and the fast engine's."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine import layout
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Rows, Scope, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.engine.step_options import FOLLOW_GRADIENT, StepOptions
from mamdr_core.models.structures import MODELS
from tests.engine.engines import COUNTS, assert_same, visit
from tests.engine.several import several_columns, several_engine

EVERY_OPTION = StepOptions(0.3, 0.02, 0.1, "adagrad", 2.0)
POOLINGS = ["mean", "sum", "max", "attention"]
OPTIMIZERS = ["sgd", "adam"]


class Plain:
    """The same network, pooled row by row over dense tables that autograd and a lazy Adam by hand train."""

    def __init__(self, module, shared, poolings):
        self.module, self.poolings = module, poolings
        self.dense = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        self.tables = {name: t.clone().requires_grad_() for name, t in shared.tables.items()}
        self.moments = {}
        self.steps = 0

    def loss(self, columns, rows):
        ids = {name: column[rows].long() for name, column in columns.ids.items()}
        one = {name: self.tables[name][ids[name]] for name in ("user", "item", "domain")}
        pooled = {name: self.pool(name, columns, ids[name], rows, one) for name in ("tags", "history", "words")}
        x = torch.cat([*one.values(), *pooled.values(), columns.numeric[rows]], 1)
        first = torch.relu(x @ self.dense["structure.layers.0.weight"].T + self.dense["structure.layers.0.bias"])
        logits = first @ self.dense["structure.layers.3.weight"].T + self.dense["structure.layers.3.bias"]
        return binary_cross_entropy_with_logits(logits.squeeze(1), columns.labels[rows])

    def pool(self, name, columns, ids, rows, one):
        table = self.tables["item" if name == "history" else "tags"]
        made = []
        for place, row in enumerate(rows.tolist()):
            known = [k for k, i in enumerate(ids[place].tolist()) if i]
            vectors = [table[ids[place, k]] for k in known]
            weights = [columns.bag_weights[name][row, k].double() if name == "tags" else 1.0 for k in known]
            made.append(self.together(self.poolings[name], vectors, weights, one["item"][place], table))
        return torch.stack(made)

    def together(self, pooling, vectors, weights, query, table):
        nothing = torch.zeros(table.shape[1], dtype=torch.float64)
        if not vectors:
            return nothing
        if pooling == "max":
            return torch.stack(vectors).amax(0)
        if pooling == "attention":
            weights = [self.activation(query, vector) for vector in vectors]
        total = sum((weight * vector for weight, vector in zip(weights, vectors, strict=True)), nothing)
        return total / sum(weights) if pooling == "mean" else total

    def activation(self, q, k):
        """DIN's unit over [q, k, q - k, q * k]."""
        own = {n.removeprefix("attentions.of_history."): p for n, p in self.dense.items() if n.startswith("attention")}
        whole = torch.cat([own["query_HD"], own["key_HD"], own["difference_HD"], own["product_HD"]], 1)
        before = whole @ torch.cat([q, k, q - k, q * k]) + own["bias_H"]
        hidden = torch.nn.functional.prelu(before[None], own["slope_H"])[0]
        return own["out_H"] @ hidden + own["out_bias"]

    def step(self, columns, rows, lr, optimizer):
        """Only rows that the batch reads, padding aside, move; their moments too."""
        self.steps += 1
        everything = {**self.dense, **self.tables}
        for parameter in everything.values():
            parameter.grad = None
        self.loss(columns, rows).backward()
        read = {name: columns.ids[name][rows] for name in ("user", "domain")}
        read["item"] = torch.cat([columns.ids["item"][rows], known(columns.ids["history"][rows])])
        read["tags"] = torch.cat([known(columns.ids["tags"][rows]), known(columns.ids["words"][rows])])
        with torch.no_grad():
            for name, parameter in everything.items():
                moved = read[name].long().unique() if name in self.tables else ...
                gradient = parameter.grad[moved]
                if optimizer == "sgd":
                    parameter[moved] -= lr * gradient
                    continue
                if name not in self.moments:
                    self.moments[name] = (torch.zeros_like(parameter), torch.zeros_like(parameter))
                first, second = self.moments[name]
                first[moved] = 0.9 * first[moved] + 0.1 * gradient
                second[moved] = 0.999 * second[moved] + 0.001 * gradient**2
                unbiased = second[moved] / (1 - 0.999**self.steps)
                parameter[moved] -= lr * first[moved] / (1 - 0.9**self.steps) / (unbiased.sqrt() + 1e-8)


def known(ids):
    return ids[ids > 0]


def plain_of(engine, shared, pooling, bag_pooling):
    words = "max" if bag_pooling == "max" else "sum"
    return Plain(engine.flat.module, shared, {"history": pooling, "tags": bag_pooling, "words": words})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_trajectory_equals_a_plain_loop_over_dense_tables(pooling, optimizer):
    """Rows that pad or that no batch reads stay; the item's own field and all positions move a row once a step."""
    bag_pooling = "max" if pooling == "max" else "mean"
    columns = several_columns([9, 0, 6])
    columns.ids["history"][4:8] = 0  # a batch without a single id
    engine, shared = several_engine(pooling, 3, bag_pooling=bag_pooling)
    plain = plain_of(engine, shared, pooling, bag_pooling)
    visits = [Visit(columns, torch.arange(9)), Visit(columns, torch.arange(9, 15))]
    change = engine.descend(Theta(shared), visits, 0.05, optimizer)
    for first, last in [(0, 3), (3, 6), (6, 9), (9, 12), (12, 15)]:
        plain.step(columns, torch.arange(first, last), 0.05, optimizer)
    torch.testing.assert_close(
        shared.dense + change.dense, torch.cat([p.detach().flatten() for p in plain.dense.values()]), rtol=0, atol=1e-10
    )
    assert set(change.rows) == {"user", "item", "domain", "tags"}
    for name, rows in change.rows.items():
        moved = shared.tables[name].clone()
        moved[rows.ids] += rows.values
        torch.testing.assert_close(moved, plain.tables[name].detach(), rtol=0, atol=1e-10)
    assert 0 not in change.rows["tags"].ids


def test_the_gradient_and_the_loss_equal_autograds():
    columns, rows = several_columns([4, 6, 5]), torch.arange(3, 11)
    engine, shared = several_engine("attention", 3)
    plain = plain_of(engine, shared, "attention", "mean")
    expected = plain.loss(columns, rows)
    expected.backward()
    loss, found = engine.loss_and_gradient(Theta(shared), Visit(columns, rows))
    assert loss == pytest.approx(expected.item())
    torch.testing.assert_close(found.dense, torch.cat([p.grad.flatten() for p in plain.dense.values()]))
    for name, own in found.rows.items():
        torch.testing.assert_close(own.values, plain.tables[name].grad[own.ids])
        others = plain.tables[name].grad.clone()
        others[own.ids] = 0
        assert not others.any()


SCOPES = {
    "own domain": [Scope(frozenset({"domain"}), {"domain": torch.tensor([d + 1])}) for d in range(6)],
    "everything": [Scope() for _ in range(6)],
    "some rows": [Scope(None, {"item": torch.tensor([1, 4]), "tags": torch.tensor([2])}) for _ in range(6)],
}


def trajectories(columns, shared):
    """DR's: a support shown as the target, then the target; theta_i has rows of items and tags."""
    supports = several_columns([6] * 6, seed=1)
    generator = torch.Generator().manual_seed(4)
    thetas = [
        Theta(
            shared,
            Change(
                0.1 * torch.randn(len(shared.dense), generator=generator, dtype=shared.dense.dtype),
                {
                    name: Rows(torch.tensor([1, 3]), torch.randn(2, width, generator=generator).to(shared.dense))
                    for name, width in (("item", 3), ("tags", 2))
                },
            ),
        )
        for _ in range(6)
    ]
    return thetas, [[visit(supports, (d + 1) % 6, as_domain=d), visit(columns, d)] for d in range(6)]


@pytest.mark.parametrize(
    ("pooling", "bag_pooling", "optimizer", "counts"),
    [
        *(
            (pooling, "max" if pooling == "max" else "mean", each, COUNTS)
            for pooling in POOLINGS
            for each in OPTIMIZERS
        ),
        pytest.param("attention", "max", "adam", [30, 29, 13, 0, 9, 1], marks=pytest.mark.slow, id="compiled"),
    ],
)
def test_the_fast_engine_equals_the_eager_one_on_pooled_fields(pooling, bag_pooling, optimizer, counts, monkeypatch):
    """One trajectory over many domains with carried moments, and stacks in every scope.

    Compiled code has domains whose last steps are not those of one trajectory, which would be compiled separately.
    """
    compiles = counts is not COUNTS
    monkeypatch.setattr(layout, "SEGMENT_ROWS", 24)
    columns = several_columns(counts)
    columns.ids["history"][columns.offsets[2] : columns.offsets[3]] = 0
    eager, shared = several_engine(pooling, 6, bag_pooling=bag_pooling)
    fast, _ = several_engine(pooling, 6, FastEngine, bag_pooling, compiles=compiles)
    states = [InnerState.zeros_like(shared) if optimizer == "adam" else None for _ in range(2)]
    for domains in ((4, 0, 2), (1, 3, 5)):
        visits = [visit(columns, d) for d in domains]
        found, expected = (
            engine.descend(Theta(shared), visits, 0.05, optimizer, state, seed=3)
            for engine, state in zip((fast, eager), states, strict=True)
        )
        assert_same(found, expected)
    thetas, visits = trajectories(columns, shared)
    for scopes, start in [
        *((scopes, thetas) for scopes in SCOPES.values()),
        (SCOPES["own domain"], [Theta(shared)] * 6),
    ]:
        given = (start, visits, 0.05, optimizer, scopes, list(range(6)))
        for found, expected in zip(fast.descend_many(*given), eager.descend_many(*given), strict=True):
            assert_same(found, expected)


@pytest.mark.parametrize("options", [FOLLOW_GRADIENT, EVERY_OPTION], ids=["plain", "options"])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_engines_agree_on_pooled_fields_for_every_structure(name, options):
    """With every option of a step, rows have sample weights too."""
    columns = several_columns([7, 9, 8])
    if options is EVERY_OPTION:
        columns.weights = torch.rand(24, generator=torch.Generator().manual_seed(9)) * 3
    eager, shared = several_engine("attention", 3, name=name, options=options)
    fast, _ = several_engine("attention", 3, FastEngine, name=name, compiles=False, options=options)
    given = ([Theta(shared)] * 3, [[visit(columns, d)] for d in range(3)], 0.05, "adam", [Scope()] * 3, [0, 1, 2])
    for found, expected in zip(fast.descend_many(*given), eager.descend_many(*given), strict=True):
        assert_same(found, expected)
        if name == "wdl":
            assert 0 not in found.rows["first_order.history"].ids
            assert found.rows["first_order.history"].values.abs().max() > 0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_stacked_predictions_and_gradients_equal_those_of_single_domains(pooling):
    columns = several_columns(COUNTS)
    engine, shared = several_engine(pooling, 6)
    thetas, _ = trajectories(columns, shared)
    specific = {d: thetas[d].specific for d in (0, 2, 4)}
    found = predict_runs(engine, shared, specific, columns, range(6), columns.offsets.numpy())
    expected = [engine.predict(Theta(shared, specific.get(d)), visit(columns, d)) for d in range(6)]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-10)
    gradients = dense_gradients(engine, shared, columns, torch.arange(60), columns.offsets.numpy())
    for d in (0, 1, 2, 4, 5):
        torch.testing.assert_close(gradients[d], engine.gradient(Theta(shared), visit(columns, d)).dense)
