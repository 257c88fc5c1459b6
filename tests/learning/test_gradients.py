"""Weighted loss, PCGrad, MAML and MLDG equal autograd on a small network in float64."""

from dataclasses import replace

import pytest
import torch

from mamdr_core.config.engine import InnerSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.stacked_changes import StackedChanges
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.combined_steps import deal_steps
from mamdr_core.learning.learner import Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.learning.pcgrad import projection
from tests.engine.small_models import random_columns
from tests.learning.smooth import ALPHA, META, gradients, loss_at, parameters_of, round_of, smooth_learner


@pytest.fixture
def learner():
    """A learner of three domains in one step, with gradient descent."""
    return smooth_learner()


def assert_moved_along(learner, start, gradient, lr=ALPHA):
    for now, before, along in zip(parameters_of(learner), start, gradient, strict=True):
        torch.testing.assert_close(now.detach(), before.detach() - lr * along, rtol=1e-4, atol=1e-7)


def test_maml_descends_on_the_query_loss_after_a_step_on_the_support_rows(learner):
    start, round_ = parameters_of(learner), round_of(learner)
    total = 0
    for rows in round_.slices.values():
        support, query = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        to_support = gradients(loss_at(learner, start, support), start, create_graph=True)
        adapted = [p - META * g for p, g in zip(start, to_support, strict=True)]
        total = total + loss_at(learner, adapted, query) / 3
    METHODS["maml"].shared(learner)(round_)
    assert_moved_along(learner, start, gradients(total, start))


def test_maml_uses_a_single_row_for_support_and_query(learner):
    start = parameters_of(learner)
    row = torch.tensor([7])
    adapted = [
        p - META * g
        for p, g in zip(start, gradients(loss_at(learner, start, row), start, create_graph=True), strict=True)
    ]
    METHODS["maml"].shared(learner)(Round(0, 0, {1: row}, row))
    assert_moved_along(learner, start, gradients(loss_at(learner, adapted, row), start))


def test_mldg_descends_on_the_loss_of_other_domains_after_a_virtual_step(learner):
    start, round_ = parameters_of(learner), round_of(learner)
    (visits,) = deal_steps(round_.visits(learner.train), 64)
    meta_train = sum(loss_at(learner, start, visit.rows) for visit in visits[:2]) / 2
    stepped = [p - META * g for p, g in zip(start, gradients(meta_train, start, create_graph=True), strict=True)]
    total = meta_train + loss_at(learner, stepped, visits[2].rows)
    METHODS["mldg"].shared(learner)(round_)
    assert_moved_along(learner, start, gradients(total, start))


def test_mldg_of_one_domain_is_gradient_descent(learner):
    start = parameters_of(learner)
    rows = torch.arange(6)
    METHODS["mldg"].shared(learner)(Round(0, 0, {0: rows}, rows))
    assert_moved_along(learner, start, gradients(loss_at(learner, start, rows), start))


def test_the_weighted_loss_trains_theta_and_the_weights_together(learner):
    start, round_ = parameters_of(learner), round_of(learner)
    update = METHODS["weighted"].shared(learner)
    update.uncertainty.values_n[:] = torch.tensor([0.3, -0.2, 0.1])
    s_n = update.uncertainty.values_n.clone().requires_grad_()
    losses = {d: loss_at(learner, start, rows) for d, rows in round_.slices.items()}
    total = sum(torch.exp(-s_n[d]) * loss + s_n[d] / 2 for d, loss in losses.items())
    to_s = gradients(total, [s_n], retain_graph=True)[0]
    update(round_)
    assert_moved_along(learner, start, gradients(total / 3, start))
    # The first step of Adam is -lr times the sign of the gradient.
    torch.testing.assert_close(update.uncertainty.values_n, s_n.detach() - ALPHA * to_s.sign(), rtol=1e-5, atol=1e-6)


def test_pcgrad_removes_conflicting_components_only():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.5, 2.0]], dtype=torch.float64)
    first, second = projection(g[:2] @ g[:2].T, torch.Generator()) @ g[:2]
    torch.testing.assert_close(first, torch.tensor([0.5, 0.5], dtype=torch.float64))  # g_1 - <g_1,g_2>/|g_2|^2 g_2
    torch.testing.assert_close(second, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.equal(projection(g[[0, 2]] @ g[[0, 2]].T, torch.Generator()), torch.eye(2, dtype=torch.float64))


def test_pcgrad_sums_the_projected_gradients_of_a_step(learner):
    learner.train.labels[:6], learner.train.labels[6:16] = 1.0, 0.0
    start, round_ = parameters_of(learner), round_of(learner, (0, 1))
    flat = [
        torch.cat([g.flatten() for g in gradients(loss_at(learner, start, rows), start)])
        for rows in round_.slices.values()
    ]
    product = flat[0] @ flat[1]
    assert product < 0  # domain 0 has only clicks, domain 1 none
    total = flat[0] + flat[1] - product / (flat[1] @ flat[1]) * flat[1] - product / (flat[0] @ flat[0]) * flat[0]
    sizes = [p.numel() for p in start]
    expected = [part.view_as(p) for part, p in zip(total.split(sizes), start, strict=True)]
    METHODS["pcgrad"].shared(learner)(round_)
    assert_moved_along(learner, start, expected)


def test_a_domain_with_a_nan_loss_keeps_its_weight(learner):
    learner.engine.on_nan = "skip"
    learner.train.numeric[0] = float("nan")  # of domain 0
    update = METHODS["weighted"].shared(learner)
    for number in range(3):
        update(replace(round_of(learner), number=number))
    assert learner.engine.skipped == 3
    assert update.uncertainty.values_n[0] == 0
    assert (update.uncertainty.values_n[1:] != 0).all()
    assert learner.shared.dense.isfinite().all()


def test_reptile_moves_by_the_mean_change_of_all_domains(learner):
    """The mean is over all domains for dense parameters, over those that touched it for an embedding row."""
    start, round_ = parameters_of(learner), round_of(learner)
    moves = [[-ALPHA * g for g in gradients(loss_at(learner, start, r), start)] for r in round_.slices.values()]
    METHODS["reptile"].shared(learner)(round_)
    now = parameters_of(learner)
    for number, (before, *changes) in enumerate(zip(start, *moves, strict=True)):
        touched = sum((move != 0).any(-1, keepdim=True).double() for move in changes).clamp(min=1) if number else 3
        expected = before + 0.5 * sum(changes) / touched  # beta = 0.5
        torch.testing.assert_close(now[number].detach(), expected.detach())


def test_separate_models_do_not_change_theta_s_and_use_rows_of_their_domain(learner):
    start, round_ = parameters_of(learner), round_of(learner)
    learner.specific = SpecificStore(range(3), MemoryBuffer(learner.shared.dense), learner.shared.dense)
    dr = METHODS["separate"].dr(DRSettings(optimizer="sgd"), 1e-3)
    learner.settings = replace(learner.settings, dr=dr)
    assert METHODS["separate"].shared is None
    METHODS["separate"].specific(learner)(round_)
    assert_moved_along(learner, start, [torch.zeros_like(p) for p in start])
    for domain, rows in round_.slices.items():
        dense, *tables = gradients(loss_at(learner, start, rows), start)
        torch.testing.assert_close(learner.specific[domain].dense, -1e-3 * dense)
        for name, table in zip(learner.shared.tables, tables, strict=True):
            own = learner.specific[domain].rows[name]
            torch.testing.assert_close(own.values, -1e-3 * table[own.ids])


def test_separate_models_use_the_inner_rate_or_the_default_of_the_method():
    for lr, expected in ((None, 1e-3), (0.02, 0.02)):
        settings = METHODS["separate"].settle(LearningSettings(inner=InnerSettings(lr=lr)))
        assert settings.alpha == settings.dr.lr == expected
    assert METHODS["mamdr"].settle(LearningSettings()).alpha == 3e-4


def test_a_pass_of_finetuning_moves_as_far_as_k_updates_of_dr():
    dr = METHODS["finetune"].dr(DRSettings(k=3, gamma=0.1, schedule="rounds", every=4), 1e-3)
    assert (dr.k, dr.schedule, dr.every) == (0, "settled", 1)
    assert dr.gamma == pytest.approx(1 - 0.9**3)


@pytest.mark.parametrize("method", ["weighted", "pcgrad", "maml", "mldg"])
def test_the_first_step_of_adam_moves_every_touched_parameter_by_lr(learner, method):
    learner.settings = replace(learner.settings, inner=InnerSettings(lr=1e-3))
    start, update = parameters_of(learner), METHODS[method].shared(learner)
    update(round_of(learner))
    moved = (learner.shared.dense - start[0].detach()).abs()
    assert moved.max() <= 1e-3 * (1 + 1e-9)
    assert moved.median() == pytest.approx(1e-3, rel=1e-4)  # some gradients are almost zero
    assert update.state_dict().counters == {"inner.steps": 1}


def test_steps_contain_every_row_once_and_spread_each_domain():
    train = random_columns([300, 40, 5])
    offsets = train.offsets.tolist()
    slices = {d: Visit(train, torch.arange(offsets[d], offsets[d + 1])) for d in (1, 0, 2)}
    steps = deal_steps(slices, batch_size=100)
    assert len(steps) == 3
    assert sorted(torch.cat([visit.rows for visits in steps for visit in visits]).tolist()) == list(range(345))
    assert [sum(visit.rows[0] < 300 for visit in visits) for visits in steps] == [1, 1, 1]
    assert all(len(visit.rows.unique()) == len(visit.rows) for visits in steps for visit in visits)


def test_inner_products_and_sums_of_changes_match_rows_by_id():
    left = Change(torch.tensor([1.0]), {"user": Rows(torch.tensor([2, 5]), torch.tensor([[1.0], [3.0]]))})
    right = Change(torch.tensor([2.0]), {"user": Rows(torch.tensor([5, 9]), torch.tensor([[4.0], [7.0]]))})
    stacked = StackedChanges([left, right])
    assert stacked.products().tolist() == [[11.0, 14.0], [14.0, 69.0]]
    total = stacked.combine(torch.tensor([1.0, -1.0]))
    assert total.dense.tolist() == [-1.0]
    assert total.rows["user"].ids.tolist() == [2, 5, 9]
    assert total.rows["user"].values.flatten().tolist() == [1.0, -1.0, -7.0]


def test_rounds_without_rows_change_no_parameter(learner):
    start = parameters_of(learner)
    for name in ("joint_data_parallel", "weighted", "pcgrad", "maml", "mldg", "reptile"):
        METHODS[name].shared(learner)(Round(0, 0, {}, torch.arange(0)))
    assert_moved_along(learner, start, [torch.zeros_like(p) for p in start])
