"""Models with weights of each domain, of one or many domains in a call: both engines give the same numbers."""

from dataclasses import replace

import pytest
import torch

from mamdr_core.config.models import AutoIntSettings, PLESettings
from mamdr_core.engine import layout, optimizers
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Rows, Scope, Shared, Theta
from mamdr_core.engine.step_options import StepOptions
from mamdr_core.models import groups
from mamdr_core.models.structures import MODELS, build_model
from tests.engine.engines import COUNTS, DOMAINS, assert_same, visit
from tests.models.small_structures import (
    MULTI_DOMAIN,
    PARTITIONED,
    featured_columns,
    small_engine,
    small_inputs,
    small_settings,
)

STRUCTURES = [*sorted(MODELS), PARTITIONED]
PER_DOMAIN = [*MULTI_DOMAIN, PARTITIONED]


def mixed(columns):
    """All rows in an order that mixes domains."""
    return Visit(columns, torch.randperm(len(columns), generator=torch.Generator().manual_seed(5)))


def both(name, dropout=0.5, counts=COUNTS, **options):
    settings = small_settings(name, dropout)
    eager, shared = small_engine(settings, len(counts), **options)
    return eager, small_engine(settings, len(counts), FastEngine, compiles=False, **options)[0], shared


def own_rows(engine, domain):
    """DR's scope: the domain's own row of all that is looked up by domain."""
    own = {table.name: torch.tensor([domain + 1]) for table in engine.trained_tables if table.column == "domain"}
    return Scope(frozenset(own), own)


def theta_of(engine, shared, domain):
    """A theta_i that is not zero."""
    generator = torch.Generator().manual_seed(domain)
    draw = {"generator": generator, "dtype": torch.float64}
    rows = {
        table.name: Rows(torch.tensor([domain + 1]), 0.2 * torch.randn(1, table.width, **draw))
        for table in engine.trained_tables
        if table.column == "domain"
    }
    return Theta(shared, Change(0.1 * torch.randn(len(shared.dense), **draw), rows))


@pytest.mark.parametrize("name", PER_DOMAIN)
def test_the_gradient_of_a_mixed_batch_is_the_mean_over_its_rows(name):
    columns = featured_columns(COUNTS)
    engine, shared = small_engine(small_settings(name), len(COUNTS))
    found = engine.gradient(Theta(shared), mixed(columns))
    expected = Change(torch.zeros_like(shared.dense))
    for domain in (4, 0, 2, 1, 5):
        own = engine.gradient(Theta(shared), visit(columns, domain))
        expected = expected.add(own, COUNTS[domain] / sum(COUNTS))
    assert_same(found, expected)
    bias = [table for table in engine.tables if table.per_domain][-1]  # of the logit: no unit is idle
    assert found.rows[bias.name].ids.tolist() == [1, 2, 3, 5, 6]
    assert found.rows[bias.name].values.abs().amax(1).min() > 0


@pytest.mark.parametrize("name", MULTI_DOMAIN)
def test_a_mixed_batch_is_one_step_of_the_optimizer(name):
    columns = featured_columns(COUNTS)
    engine, shared = small_engine(small_settings(name), len(COUNTS), batch_size=len(columns))
    gradient = engine.gradient(Theta(shared), mixed(columns))
    step = engine.descend(Theta(shared), [mixed(columns)], 0.1, "sgd")
    assert_same(step, Change(torch.zeros_like(shared.dense)).add(gradient, -0.1))
    state = InnerState.zeros_like(shared)
    adam = engine.descend(Theta(shared), [mixed(columns)], 0.1, "adam", state)
    assert state.step == 1
    moves = gradient.dense.abs() > 1e-5  # Adam's first step is as long as the rate
    torch.testing.assert_close(adam.dense[moves].abs(), torch.full_like(adam.dense[moves], 0.1), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", PER_DOMAIN)
def test_one_call_for_many_domains_equals_one_call_per_domain(name):
    columns = featured_columns(COUNTS)
    together, shared = small_engine(small_settings(name), len(COUNTS), batch_size=16)
    apart, _ = small_engine(small_settings(name), len(COUNTS), batch_size=16)
    assert together.mixes
    apart.mixes = False
    states = [InnerState.zeros_like(shared), InnerState.zeros_like(shared)]
    for visits in ([mixed(columns)], [visit(columns, 2), mixed(columns)]):
        expected = apart.descend(Theta(shared), visits, 0.05, "adam", states[0])
        assert_same(together.descend(Theta(shared), visits, 0.05, "adam", states[1]), expected)
    assert states[0].step == states[1].step == 4 + 1 + 4
    assert expected.dense.abs().max() > 1e-2
    rows = mixed(columns)
    torch.testing.assert_close(together.predict(Theta(shared), rows), apart.predict(Theta(shared), rows))


@pytest.mark.parametrize("name", PER_DOMAIN)
def test_predictions_of_mixed_rows_equal_those_of_each_domain(name):
    columns = featured_columns(COUNTS)
    engine, shared = small_engine(small_settings(name), len(COUNTS))
    order = mixed(columns).rows
    found = torch.empty(len(columns), dtype=torch.float64)
    found[order] = engine.predict(Theta(shared), Visit(columns, order))
    alone = torch.cat([engine.predict(Theta(shared), visit(columns, d)) for d in DOMAINS])
    torch.testing.assert_close(found, alone)
    other = engine.predict(Theta(shared), visit(columns, 0, as_domain=2))
    assert (other - alone[:9]).abs().min() > 1e-6  # domain 2's weights


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_trajectory_of_every_structure_equals_the_eager_one(name, optimizer):
    columns = featured_columns(COUNTS)
    eager, fast, shared = both(name)
    visits = [visit(columns, d) for d in (4, 0, 2, 1, 3, 5)]
    expected = eager.descend(Theta(shared), visits, 0.05, optimizer, seed=3)
    assert_same(fast.descend(Theta(shared), visits, 0.05, optimizer, seed=3), expected)
    assert expected.dense.abs().max() > 1e-3


@pytest.mark.parametrize("name", STRUCTURES)
def test_stacked_dr_equals_the_eager_one(monkeypatch, name):
    """A support shown as the target, then the target; domains of 0, 1, 7, 9, 13 and 30 rows in batches of 4."""
    columns, supports = featured_columns(COUNTS), featured_columns([6] * 6, seed=1)
    eager, fast, shared = both(name)
    thetas = [theta_of(eager, shared, d) for d in DOMAINS]
    visits = [[visit(supports, (d + 1) % 6, as_domain=d), visit(columns, d)] for d in DOMAINS]
    arguments = (thetas, visits, 0.05, "adam", [own_rows(eager, d) for d in DOMAINS], list(DOMAINS))
    changes = eager.descend_many(*arguments)
    for rows in (8, 1 << 16):
        monkeypatch.setattr(layout, "SEGMENT_ROWS", rows)
        for found, expected in zip(fast.descend_many(*arguments), changes, strict=True):
            assert_same(found, expected)
    for d, change in enumerate(changes):
        assert all(rows.ids.tolist() == [d + 1] for rows in change.rows.values())


@pytest.mark.parametrize("name", ["star", PARTITIONED, "ple"])
def test_domains_in_one_stack_change_only_their_own_weights(monkeypatch, name):
    columns = featured_columns([4, 2, 3])
    eager, fast, shared = both(name, counts=[4, 2, 3])
    visits = [[visit(columns, d), visit(columns, d)] for d in range(3)]
    stacks = []
    monkeypatch.setattr(
        fast, "_run", lambda step, cut, *more: stacks.extend(cut) or FastEngine._run(fast, step, cut, *more)
    )
    arguments = ([Theta(shared)] * 3, visits, 0.05, "adam", [Scope()] * 3, [1, 2, 3])
    found = fast.descend_many(*arguments)
    assert [len(stack) for stack in stacks] == [3]
    for d, (change, expected) in enumerate(zip(found, eager.descend_many(*arguments), strict=True)):
        assert_same(change, expected)
        own = [rows for table, rows in change.rows.items() if "." in table and "order" not in table]
        assert {tuple(rows.ids.tolist()) for rows in own} == {(d + 1,)}


@pytest.mark.parametrize("name", ["mmoe", "star", PARTITIONED])
def test_weights_of_domains_outside_the_scope_do_not_change(name):
    columns = featured_columns(COUNTS)
    eager, fast, shared = both(name)
    scopes = [Scope(frozenset({"user"})) for _ in DOMAINS]
    arguments = ([Theta(shared)] * 6, [[visit(columns, d)] for d in DOMAINS], 0.05, "adam", scopes, list(DOMAINS))
    for found, expected in zip(fast.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)
        assert found.rows.keys() == {"user"}


@pytest.mark.parametrize("name", PER_DOMAIN)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3}, {"clip_norm": 0.02}])
def test_rows_moved_in_place_and_weights_computed_in_parts_change_nothing(monkeypatch, name, options):
    columns = featured_columns(COUNTS)
    eager, fast, shared = both(name, options=StepOptions(**options))
    found = []
    for wide, cached in ((1 << 20, 1 << 20), (1, 1)):
        monkeypatch.setattr(optimizers, "WIDE", wide)
        monkeypatch.setattr(groups, "CACHED", cached)
        for engine in (eager, fast):
            state = InnerState.zeros_like(shared)
            visits = [mixed(columns), visit(columns, 4)]
            found.append((engine.descend(Theta(shared), visits, 0.05, "adam", state, seed=1), state))
    (expected, moments), *others = found
    for change, state in others:
        assert_same(change, expected)
        for table, own in moments.tables.items():
            torch.testing.assert_close(state.tables[table].named(), own.named())


def test_gradients_of_shared_weights_in_bf16_are_summed_over_domains_without_loss(monkeypatch):
    monkeypatch.setattr(groups, "CACHED", 1)
    ones, sizes = torch.ones(600, 1, dtype=torch.bfloat16), torch.ones(600, dtype=torch.int64)
    factor = torch.ones(1, 1, dtype=torch.bfloat16, requires_grad=True)
    groups.grouped_linear(ones, torch.zeros_like(ones)[:, None], ones * 0, sizes, factor).sum().backward()
    assert factor.grad.item() == 600  # a sum in bfloat16 ends at 256


@pytest.mark.parametrize("name", PER_DOMAIN)
def test_carried_moments_and_mixed_visits_equal_the_eager_ones(name):
    columns = featured_columns(COUNTS)
    eager, fast, shared = both(name)
    states = [InnerState.zeros_like(shared), InnerState.zeros_like(shared)]
    for seed, visits in enumerate(([visit(columns, 4)], [mixed(columns), visit(columns, 0)], [visit(columns, 4)])):
        expected = eager.descend(Theta(shared), visits, 0.05, "adam", states[0], seed=seed)
        assert_same(fast.descend(Theta(shared), visits, 0.05, "adam", states[1], seed=seed), expected)
    assert states[0].step == states[1].step == 8 + 15 + 3 + 8
    for table, moments in states[0].tables.items():
        torch.testing.assert_close(moments.second, states[1].tables[table].second)
    arguments = ([Theta(shared)] * 2, [[mixed(columns)], [visit(columns, 2)]], 0.05, "adam", [Scope()] * 2, [1, 2])
    for found, expected in zip(fast.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
        assert_same(found, expected)


def test_a_skipped_part_skips_the_whole_step():
    columns = featured_columns([3, 3])
    columns.numeric[4] = float("nan")
    engine, shared = small_engine(small_settings("mmoe"), 2, batch_size=6, on_nan="skip")
    change = engine.descend(Theta(shared), [mixed(columns)], 0.1, "sgd")
    assert engine.skipped == 1
    assert change.dense.abs().max() == 0
    assert all(rows.values.abs().max() == 0 for rows in change.rows.values())


def test_memory_of_domain_weights_is_per_trajectory_and_not_per_row():
    narrow, wide = (small_settings("shared_bottom", hidden=(5,)) for _ in range(2))
    wide = replace(wide, shared_bottom=replace(wide.shared_bottom, tower=(300,)))
    engines = [small_engine(settings, 6, FastEngine, compiles=False)[0] for settings in (narrow, wide)]
    for engine in engines:
        engine._measure_row_bytes([[visit(featured_columns(COUNTS), 0)]])
    (few, row_few), (many, row_many) = ((e._limits.trajectory_bytes, e._limits.row_bytes) for e in engines)
    weights = [4 * tower + tower + tower + 1 for tower in (3, 300)]
    assert many - few == 7 * 8 * (weights[1] - weights[0])
    assert row_many - row_few < 300 * 8 * 16  # a few values of each unit, not its weights, of which there are 1801


@pytest.mark.parametrize("name", STRUCTURES)
def test_fp32_and_bf16_are_close_to_fp64_for_every_structure(name):
    settings, domains = small_settings(name, 0.5), (4, 0, 2, 1, 5)
    eager, shared = small_engine(settings, 6)
    inputs, columns = small_inputs(settings, 6), featured_columns(COUNTS)
    expected = eager.descend(Theta(shared), [visit(columns, d) for d in domains], 0.01, seed=3)
    columns.numeric, columns.labels = columns.numeric.float(), columns.labels.float()
    vectors = {table: values.float() for table, values in eager.frozen.items()}
    single = Shared(shared.dense.float(), {table: values.float() for table, values in shared.tables.items()})
    for precision, least, most in (("fp32", 0, 1e-5), ("bf16", 1e-4, 0.15)):
        model = build_model(settings, inputs, 1)
        engine = FastEngine(model, inputs.tables, vectors, 4, precision=precision, compiles=False)
        found = engine.descend(Theta(single), [visit(columns, d) for d in domains], 0.01, seed=3)
        assert found.dense.dtype == torch.float32
        # Normalising fields of four numbers magnifies rounding errors.
        bound = most * (2 if name == "masknet" else 1)
        assert least <= (found.dense - expected.dense).norm() / expected.dense.norm() < bound


FEW_LAYERS = {
    "autoint": {"autoint": AutoIntSettings(heads=2, layers=1, width=3)},
    "masknet": {"options": {"blocks": 1, "width": 4}},
    "ple": {"ple": PLESettings(shared_experts=1, specific_experts=1, expert_hidden=(4,), gate=(), tower=(), levels=2)},
}
"""Equal layers are traced separately, each for seconds."""
EVEN = [30, 29, 13, 0, 9, 1]
"""Rows of domains, of which the two largest have the same number of steps."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "most"),
    [*((name, EVEN, 2) for name in ("autoint", "hamur", "masknet", PARTITIONED)), ("ple", COUNTS, 4)],
    ids=["autoint", "hamur", "masknet", "star partitioned", "ple"],
)
def test_compiled_steps_equal_eager_ones_and_are_reused_for_other_sizes(name, counts, most, traced_steps):
    """The backend aot_eager specialises sizes like generated code, which test_fast and test_several run.

    Gradients and update of stacks are two graphs. If the longest trajectory has more steps than the others, its last
    steps are of one trajectory, which takes two more graphs: PLE has these. MaskNet covers layer normalisation.
    """
    columns = featured_columns(counts)
    settings = small_settings(name, 0.5, hidden=(5,), **FEW_LAYERS.get(name, {}))
    eager, shared = small_engine(settings, 6)
    fast, _ = small_engine(settings, 6, FastEngine, compiles=True)
    trajectories = [[visit(columns, d) for d in (4, 0, 2, 3, 5)]]
    if name in PER_DOMAIN:
        trajectories += [[mixed(columns)], [Visit(columns, mixed(columns).rows[:17])]]
    # Sizes that are equal by chance would otherwise count as one, and each number of groups be compiled separately,
    # as in production, where such numbers of groups are rare.
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        for visits in trajectories:
            found, expected = (engine.descend(Theta(shared), visits, 0.05, seed=3) for engine in (fast, eager))
            assert_same(found, expected)
    torch._dynamo.utils.counters.clear()
    for take in (3, 5, 6):  # other numbers of trajectories and rows; 2 and 4 are widths of tables
        thetas = [theta_of(eager, shared, d) for d in range(take)]
        own = [[visit(columns, d)] for d in range(take)]
        arguments = (thetas, own, 0.05, "adam", [own_rows(eager, d) for d in range(take)], list(range(take)))
        for found, expected in zip(fast.descend_many(*arguments), eager.descend_many(*arguments), strict=True):
            assert_same(found, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= most
