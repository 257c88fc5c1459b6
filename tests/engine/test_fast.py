"""The fast engine gives the eager engine's numbers: in fp64 to 1e-10, in fp32 to a stated bound, compiled or not."""

import math

import pytest
import torch

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine import layout
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.compiled import DenseState, DenseStep, PaddedBatch
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Scope, Shared, Theta
from mamdr_core.models.structures import build_model
from mamdr_core.models.tables import Inputs, Table
from mamdr_core.runtime.errors import DivergedError, MamdrError
from tests.engine.engines import (
    COUNTS,
    DOMAINS,
    SCOPES,
    assert_same,
    columns_of,
    eager_engine,
    fast_engine,
    limited,
    trajectories,
    visit,
)  # fmt: skip
from tests.engine.small_models import as_double, random_columns


@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trajectory_over_many_domains_equals_the_eager_one(optimizer, has_base):
    columns, (eager, shared) = columns_of(has_base=has_base), eager_engine()
    visits = [visit(columns, d) for d in (4, 0, 2, 1, 3, 5)]
    expected = eager.descend(Theta(shared), visits, 0.05, optimizer, seed=3)
    engine = fast_engine()
    assert_same(engine.descend(Theta(shared), visits, 0.05, optimizer, seed=3), expected)
    assert expected.dense.abs().max() > 0.01
    both = [each.predict(Theta(shared, expected), visits[0]) for each in (engine, eager)]
    torch.testing.assert_close(*both, rtol=0, atol=1e-10)


def test_carried_moments_equal_those_of_the_eager_engine():
    columns, (eager, shared) = columns_of(), eager_engine()
    fast, states = fast_engine(), [InnerState.zeros_like(shared), InnerState.zeros_like(shared)]
    for seed, domain in enumerate((4, 0, 2)):
        visits = [visit(columns, domain)]
        expected = eager.descend(Theta(shared), visits, 0.05, "adam", states[0], seed=seed)
        assert_same(fast.descend(Theta(shared), visits, 0.05, "adam", states[1], seed=seed), expected)
    assert states[0].step == states[1].step == 8 + 3 + 4
    torch.testing.assert_close(states[0].dense.second, states[1].dense.second)
    for name, moments in states[0].tables.items():
        torch.testing.assert_close(moments.first, states[1].tables[name].first)
        torch.testing.assert_close(moments.second, states[1].tables[name].second)


@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("scopes", SCOPES)
def test_stacked_trajectories_equal_the_eager_ones_in_every_scope(scopes, optimizer, has_base):
    """Domains of 0, 1, 7, 9, 13 and 30 rows in batches of 4: stacks are padded, one row beside four, and cut."""
    columns, (eager, shared) = columns_of(has_base=has_base), eager_engine()
    thetas, visits = trajectories(columns, shared)
    arguments = (thetas, visits, 0.05, optimizer, SCOPES[scopes], [11 + d for d in DOMAINS])
    for found, expected in zip(fast_engine().descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)


def test_a_domain_of_one_row_is_the_same_in_a_stack_and_alone():
    columns, (eager, shared) = columns_of([1, 3, 4]), eager_engine()
    visits = [[visit(columns, d)] for d in range(3)]
    arguments = ([Theta(shared)] * 3, visits, 0.05, "adam", SCOPES["own domain"][:3], [1, 2, 3])
    found = fast_engine().descend_many(*arguments)
    alone = fast_engine().descend(Theta(shared), visits[0], 0.05, "adam", None, arguments[4][0], 1)
    assert_same(found[0], alone)
    assert_same(found[0], eager.descend_many(*arguments)[0])


@pytest.mark.parametrize("rows", [1, 8, 1 << 16])
@pytest.mark.parametrize("ahead", [False, True])
def test_results_do_not_depend_on_segments_or_prefetching(monkeypatch, rows, ahead):
    columns, (eager, shared) = columns_of(), eager_engine()
    monkeypatch.setattr(layout, "SEGMENT_ROWS", rows)
    engine = fast_engine()
    engine.reads_ahead = ahead
    visits = [visit(columns, d) for d in (4, 2, 5)]
    expected = eager.descend(Theta(shared), visits, 0.05, seed=3)
    assert_same(engine.descend(Theta(shared), visits, 0.05, seed=3), expected)
    thetas, visits = trajectories(columns, shared)
    arguments = (thetas, visits, 0.05, "adam", SCOPES["everything"], list(DOMAINS))
    for found, wanted in zip(engine.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, wanted)
    assert engine.waited > 0


@pytest.mark.slow
def test_compiled_steps_equal_eager_ones_and_are_reused_for_other_sizes(threads):
    threads(2)
    columns, (eager, shared) = columns_of(), eager_engine()
    engine = fast_engine(compiles=True)
    visits = [visit(columns, d) for d in (4, 0, 2, 1, 3, 5)]
    states = [InnerState.zeros_like(shared), InnerState.zeros_like(shared)]
    for optimizer, found_in, expected_in in (("adam", *states), ("adam", *states), ("sgd", None, None)):
        expected = eager.descend(Theta(shared), visits, 0.05, optimizer, expected_in, seed=3)
        assert_same(engine.descend(Theta(shared), visits, 0.05, optimizer, found_in, seed=3), expected)
    thetas, visits = trajectories(columns, shared)
    torch._dynamo.utils.counters.clear()
    for take in (2, 3, 6):  # other numbers of trajectories and rows
        arguments = (thetas[:take], visits[:take], 0.05, "adam", SCOPES["own domain"][:take], list(range(take)))
        for found, wanted in zip(engine.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
            assert_same(found, wanted)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 4  # gradients and update, of stacks and of single trajectories


@pytest.mark.slow
@pytest.mark.parametrize("trajectories_at_once", [1, 2])
def test_a_compiled_step_computes_gradients_before_it_updates(trajectories_at_once):
    """At these widths one graph for both took them after, with torch 2.9.1."""
    tables = tuple(Table(name, name, 10, width) for name, width in (("user", 4), ("item", 4), ("domain", 3)))
    flat = FlatModule(build_model(ModelSettings(hidden=(8,), dropout=0.0), Inputs(tables), 1))
    generator = torch.Generator().manual_seed(0)
    shape = (trajectories_at_once, 104)
    fields = [torch.randn(shape[0], count * shape[1], width, generator=generator) for count, width in ((2, 4), (1, 3))]
    labels, weights, keys = torch.ones(shape), torch.ones(shape) / 104, torch.zeros(shape[:1], dtype=torch.int32)
    batch = PaddedBatch(fields, [("user", "item"), ("domain",)], {}, labels, torch.zeros(shape), weights, keys)
    results = []
    for compiles in (False, True):
        values = flat.values_P.repeat(trajectories_at_once, 1)
        state = DenseState(values, True, torch.zeros_like(values), torch.zeros_like(values))
        step = DenseStep(flat, False, compiles)
        loss, gradient, to_fields = step.gradients(state, batch)
        step.move(state, gradient, torch.tensor(1.0), 1e-2)
        results.append((loss, to_fields, state.values))
    (loss, gradients, values), (found_loss, found_gradients, found_values) = results
    torch.testing.assert_close(found_loss, loss)
    torch.testing.assert_close(found_values, values, rtol=0, atol=1e-6)
    for found_gradient, gradient in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(found_gradient, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("precision", "bound", "compiles"),
    [("fp32", 2e-5, False), pytest.param("bf16", 0.02, True, marks=pytest.mark.slow)],
)
def test_fp32_and_bf16_are_within_their_bounds_of_fp64(precision, bound, compiles):
    """After 17 steps of Adam at a rate of .01, which change parameters by up to .17.

    The test of a compiled step compares generated code in fp32 with the same operations one by one.
    """
    columns, (eager, shared) = random_columns(COUNTS), eager_engine()
    visits = [visit(columns, d) for d in (4, 0, 2, 1, 3, 5)]
    single = Shared(shared.dense.float(), {name: table.float() for name, table in shared.tables.items()})
    engine = fast_engine(double=False, precision=precision, compiles=compiles)
    found = engine.descend(Theta(single), visits, 0.01, seed=3)
    expected = eager.descend(Theta(shared), [Visit(as_double(columns), v.rows) for v in visits], 0.01, seed=3)
    assert found.dense.dtype == torch.float32
    error = (found.dense - expected.dense).norm() / expected.dense.norm()
    assert error < bound
    if precision == "bf16":
        assert error > 1e-5  # it is another precision


def test_only_the_tower_of_the_domain_changes():
    """A model whose output layer is a row of a table looked up by domain: DR moves the target's row alone."""

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bottom = torch.nn.Linear(3, 4)

        def forward(self, fields):
            hidden = torch.relu(self.bottom(fields["user"]))
            return (hidden * fields["tower"][:, :4]).sum(1) + fields["tower"][:, 4]

    tables = (Table("user", "user", 10, 3), Table("tower", "domain", 7, 5))
    columns = columns_of()
    columns.numeric = columns.numeric[:, :0]
    torch.manual_seed(0)
    module = Tower().double()
    dense = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    shared = Shared(dense, {"user": torch.randn(10, 3).double(), "tower": torch.randn(7, 5).double()})
    scopes = [Scope(frozenset({"tower"}), {"tower": torch.tensor([d + 1])}) for d in DOMAINS]
    arguments = ([Theta(shared)] * 6, [[visit(columns, d)] for d in DOMAINS], 0.05, "adam", scopes, list(DOMAINS))
    found = FastEngine(module, tables, {}, 4, compiles=False).descend_many(*arguments)
    for d, (change, expected) in enumerate(
        zip(found, EagerEngine(module, tables, {}, 4).descend_many(*arguments), strict=True)
    ):
        assert_same(change, expected)
        assert change.rows["tower"].ids.tolist() == ([d + 1] if COUNTS[d] else [])


@pytest.mark.parametrize("skips", [False, True])
def test_a_loss_that_is_not_finite_is_reported_or_skipped(skips):
    columns = columns_of()
    columns.numeric[10 + 5] = math.nan  # domain 2, its second batch
    visits = [visit(columns, d) for d in (0, 2, 5)]
    on_nan = "skip" if skips else "stop"
    (eager, shared), fast = eager_engine(on_nan=on_nan), fast_engine(on_nan=on_nan)
    if not skips:
        message = (
            r"loss of domain 2 is not finite at step 5, batch 2 of visit 2: lower train.inner.lr.*train.on_nan: skip"
        )
        for engine in (eager, fast):
            with pytest.raises(DivergedError, match=message) as raised:
                engine.descend(Theta(shared), visits, 0.05)
            assert raised.value.domain == 2
        return
    assert_same(fast.descend(Theta(shared), visits, 0.05), eager.descend(Theta(shared), visits, 0.05))
    thetas, many = trajectories(columns, shared)
    arguments = (thetas, many, 0.05, "adam", SCOPES["own domain"], list(DOMAINS))
    for found, expected in zip(fast.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)
        assert found.dense.isfinite().all()
    assert fast.skipped == eager.skipped == 2


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_stack_that_exceeds_memory_is_halved_and_logged(monkeypatch, caplog, threads, error, ahead):
    threads(1)
    columns, (eager, shared) = columns_of([9, 5, 5, 5, 5, 5]), eager_engine()
    engine = fast_engine()
    engine.reads_ahead = ahead
    sizes = limited(monkeypatch, 3, error)
    arguments = (
        [Theta(shared)] * 6,
        [[visit(columns, d)] for d in DOMAINS],
        0.05,
        "adam",
        SCOPES["everything"],
        [0] * 6,
    )
    for found, expected in zip(engine.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)
    assert sizes[:3] == [6, 3, 3]
    assert "memory does not suffice for 6 trajectories at once: using at most 3" in caplog.text


def test_a_single_trajectory_that_exceeds_memory_is_an_error(monkeypatch):
    columns, (_, shared) = columns_of([5]), eager_engine()
    limited(monkeypatch, 0, RuntimeError)
    engine, message = fast_engine(), r"a single trajectory does not fit in the memory of cpu \(.*can't allocate"
    with pytest.raises(MamdrError, match=message):
        engine.descend_many([Theta(shared)], [[visit(columns, 0)]], 0.05, "adam", [Scope()], [0])
    with pytest.raises(MamdrError, match=message):
        engine.descend(Theta(shared), [visit(columns, 0)], 0.05)


def test_dropout_of_torch_is_rejected_with_the_class_to_use():
    with pytest.raises(ValueError, match=r"layer 1 is torch's Dropout.*use mamdr_core.models.dropout.Dropout"):
        EagerEngine(torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout(0.5)), (), {}, 4)


def test_tf32_on_a_cpu_is_an_error():
    with pytest.raises(MamdrError, match=r"train\.precision tf32 needs CUDA, and this rank runs on the cpu"):
        fast_engine(precision="tf32")
