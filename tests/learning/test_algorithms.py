"""Algorithms 1 to 3 equal short references on quadratic losses |theta - c_d|^2 / 2 of domains d."""

import pytest
import torch

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import DRSettings, LearningSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.mamdr import mamdr
from mamdr_core.learning.methods import METHODS, find_method
from mamdr_core.learning.step_sizes import scaled_rate, step_rows
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import shuffle_rows

CENTRES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], dtype=torch.float64)
ALPHA, BETA, GAMMA, K = 0.1, 0.5, 0.3, 2


class QuadraticEngine:
    """Gradient descent with one step for each visit; a row's domain selects the quadratic loss."""

    trained_tables = ()
    batch_size = 4

    def descend(self, theta, visits, lr, optimizer="sgd", state=None, scope=None, seed=0):
        point = theta.dense.clone()
        for visit in visits:
            point -= lr * (point - CENTRES[visit.columns.ids["domain"][visit.rows].long() - 1].mean(0))
        return Change(point - theta.dense)

    def descend_many(self, thetas, visits, lr, optimizer, scopes, seeds):
        return [self.descend(theta, own, lr) for theta, own in zip(thetas, visits, strict=True)]


def zeros_of(domains):
    like = torch.zeros(2, dtype=torch.float64)
    return SpecificStore(domains, MemoryBuffer(like), like)


def make_learner(**dr):
    counts = torch.tensor([2, 3, 4])
    domains = torch.repeat_interleave(torch.arange(3), counts)
    columns = Columns({"domain": (domains + 1).int()}, torch.zeros(9, 0), torch.zeros(9), offsets_of(counts))
    return Learner(
        engine=QuadraticEngine(),
        train=columns,
        supports=SupportSample(SingleProcess(), columns, 1024, shuffle_rows(columns, 1, Arrays())),
        shared=Shared(torch.tensor([0.5, -0.5], dtype=torch.float64), {}),
        specific=zeros_of(range(3)),
        average=lambda change, weight: change,
        settings=LearningSettings(
            inner=InnerSettings(optimizer="sgd", lr=ALPHA),
            outer=OuterSettings(optimizer="sgd", beta=BETA),
            dr=DRSettings(**{"k": K, "gamma": GAMMA, "lr": ALPHA, "optimizer": "sgd", "schedule": "rounds"} | dr),
        ),
        seed=3,
    )


def make_round(number=0, order=(2, 0, 1)):
    offsets = [0, 2, 5, 9]
    slices = {d: torch.arange(offsets[d], offsets[d + 1]) for d in order}
    return Round(0, number, slices, torch.arange(9))


def gradient(theta, domain):
    return theta - CENTRES[domain]


def reference_dn(theta, order, beta):
    """Algorithm 1, lines 2-7."""
    inner = theta
    for domain in order:
        inner = inner - ALPHA * gradient(inner, domain)
    return theta + beta * (inner - theta)


def reference_dr(shared, specific, target, supports):
    """Algorithm 2; the model is theta_S + theta_i and gradients go to theta_i."""
    for support in supports:
        inner = specific
        inner = inner - ALPHA * gradient(shared + inner, support)
        inner = inner - ALPHA * gradient(shared + inner, target)
        specific = specific + GAMMA * (inner - specific)
    return specific


def drawn(learner, round_, target):
    """The support domains that the learner draws for a target."""
    draws = DomainRegularization(learner).draw_supports(round_, target, len(round_.slices[target]))
    return [support for support, _, _ in draws]


def test_dn_is_algorithm_1():
    learner = make_learner()
    start = learner.shared.dense.clone()
    METHODS["dn"].shared(learner)(make_round())
    torch.testing.assert_close(learner.shared.dense, reference_dn(start, (2, 0, 1), BETA))


def test_alternate_training_is_dn_with_beta_one():
    learner = make_learner()
    start = learner.shared.dense.clone()
    METHODS["alternate"].shared(learner)(make_round())
    torch.testing.assert_close(learner.shared.dense, reference_dn(start, (2, 0, 1), 1.0))


def test_joint_training_descends_on_the_mixed_rows():
    learner = make_learner()
    start = learner.shared.dense.clone()
    METHODS["joint"].shared(learner)(make_round())
    mixture = (2 * CENTRES[0] + 3 * CENTRES[1] + 4 * CENTRES[2]) / 9
    torch.testing.assert_close(learner.shared.dense, start - ALPHA * (start - mixture))


def test_dr_is_algorithm_2_for_every_domain():
    learner, round_ = make_learner(), make_round()
    supports = {target: drawn(learner, round_, target) for target in range(3)}
    DomainRegularization(learner)(round_)
    for target in range(3):
        assert len(supports[target]) == K
        assert target not in supports[target]
        zero = torch.zeros(2, dtype=torch.float64)
        expected = reference_dr(learner.shared.dense, zero, target, supports[target])
        torch.testing.assert_close(learner.specific[target].dense, expected)


class RecordingEngine(QuadraticEngine):
    """Records, by target, the rows of its visits, the sizes of steps, and the learning rates."""

    def __init__(self):
        self.visits = {}
        self.rates = {}

    def descend_many(self, thetas, visits, lr, *more):
        for own in visits:
            target = own[-1].columns.ids["domain"][own[-1].rows[0]].item() - 1
            sizes = [[part.stop - part.start for part in visit.batches(self.batch_size)] for visit in own]
            self.visits.setdefault(target, []).append((own[-1].rows.tolist(), sizes))
            self.rates.setdefault(target, set()).add(lr)
        return super().descend_many(thetas, visits, lr, *more)


def test_steps_and_their_rate_grow_with_the_domain_up_to_the_batch_size():
    learner = make_learner(batch_size=1, most_steps=2, support_ratio=1.0)
    learner.engine = RecordingEngine()
    DomainRegularization(learner)(make_round())
    assert [sizes[-1] for _, sizes in learner.engine.visits[0]] == [[1, 1]] * K
    assert [sizes[-1] for _, sizes in learner.engine.visits[1]] == [[1, 2]] * K
    assert [sizes[-1] for _, sizes in learner.engine.visits[2]] == [[2, 2]] * K
    assert {tuple(sizes[0]) for _, sizes in learner.engine.visits[2]} == {(2,), (1, 2)}  # supports of 2 and 3 rows
    assert learner.engine.rates == {0: {ALPHA}, 1: {2 * ALPHA}, 2: {2 * ALPHA}}
    learner = make_learner(batch_size=1, most_steps=1)
    learner.engine = RecordingEngine()
    learner.engine.batch_size = 2
    DomainRegularization(learner)(make_round())
    sizes_of_two = [sizes[-1] for _, sizes in learner.engine.visits[2]]
    assert sizes_of_two == [[2, 2]] * K  # no step has more than train.batch_size


def test_the_rate_of_adam_grows_with_the_square_root_of_a_steps_rows():
    dr = DRSettings(batch_size=64, most_steps=32, lr=0.003)
    sizes = [step_rows(dr, rows, 1000) for rows in (0, 64, 2048, 2049, 5000, 10**6)]
    assert sizes == [64, 64, 64, 128, 256, 1000]
    assert scaled_rate(dr, 256, 1000) == pytest.approx(0.006)
    assert scaled_rate(dr, 64, 1000) == 0.003
    assert step_rows(DRSettings(batch_size=0, most_steps=32), 10**6, 1000) == 1000


def test_trajectories_of_a_large_domain_visit_different_parts_of_its_rows():
    learner = make_learner(target_rows=3, support_ratio=1.0)
    learner.engine = RecordingEngine()
    regularize = DomainRegularization(learner)
    regularize(make_round())
    assert [rows for rows, _ in learner.engine.visits[1]] == [[2, 3, 4]] * K
    assert [rows for rows, _ in learner.engine.visits[2]] == [[5, 6, 7], [7, 8, 5]]
    assert max(size for _, _, size in regularize.draw_supports(make_round(), 0, 3)) == 3
    assert learner.rows_descended == sum(
        len(rows) + sum(sizes[0]) for own in learner.engine.visits.values() for rows, sizes in own
    )


def test_mamdr_is_algorithm_3_over_several_rounds():
    learner, method = make_learner(), METHODS["mamdr"]
    shared = learner.shared.dense.clone()
    specific = {target: torch.zeros(2, dtype=torch.float64) for target in range(3)}
    orders = [(2, 0, 1), (1, 2, 0), (0, 1, 2)]
    rounds = [make_round(number, order) for number, order in enumerate(orders)]
    mamdr(rounds, method.shared(learner), method.specific(learner), lambda: False)
    for order, round_ in zip(orders, rounds, strict=True):
        supports = {target: drawn(learner, round_, target) for target in range(3)}
        shared = reference_dn(shared, order, BETA)
        specific = {t: reference_dr(shared, specific[t], t, supports[t]) for t in range(3)}
    torch.testing.assert_close(learner.shared.dense, shared)
    for target in range(3):
        torch.testing.assert_close(learner.specific[target].dense, specific[target])


def test_the_settled_schedule_runs_dn_first_and_dr_afterwards():
    learner, method = make_learner(), METHODS["mamdr"]
    shared = reference_dn(learner.shared.dense.clone(), (2, 0, 1), BETA)
    rounds, passes = [make_round(0), make_round(1)], iter([True])
    mamdr(rounds, method.shared(learner), None, lambda: next(passes))  # stops after one round
    supports = {target: drawn(learner, rounds[0], target) for target in range(3)}
    mamdr(rounds[:1], None, method.specific(learner), lambda: False)
    torch.testing.assert_close(learner.shared.dense, shared)
    for target in range(3):
        expected = reference_dr(shared, torch.zeros(2, dtype=torch.float64), target, supports[target])
        torch.testing.assert_close(learner.specific[target].dense, expected)


def test_dr_of_a_domain_does_not_depend_on_other_domains_of_its_rank():
    whole, part = make_learner(), make_learner()
    part.specific = zeros_of([1])
    DomainRegularization(whole)(make_round())
    DomainRegularization(part)(make_round(order=(1,)))
    assert torch.equal(whole.specific[1].dense, part.specific[1].dense)


def test_k_zero_finetunes_on_the_target_alone():
    learner = make_learner(k=0)
    DomainRegularization(learner)(make_round())
    expected = -GAMMA * ALPHA * gradient(learner.shared.dense, 1)
    torch.testing.assert_close(learner.specific[1].dense, expected)


def test_a_pass_of_dr_visits_the_rows_of_all_rounds_since_the_last_one():
    learner = make_learner(every=2)
    regularize = DomainRegularization(learner)
    regularize(make_round(0))
    assert not learner.specific[0].dense.any()
    regularize(make_round(1))
    assert learner.specific[0].dense.any()
    assert not regularize.pending
    first = learner.specific[0].dense.clone()
    regularize(make_round(0))  # of the next epoch: the count of rounds continues
    assert torch.equal(learner.specific[0].dense, first)


def test_the_target_can_be_drawn_as_support_as_in_the_released_code():
    learner = make_learner(include_target=True, k=3)
    assert sorted(drawn(learner, make_round(), 1)) == [0, 1, 2]


def test_a_support_visit_is_limited_by_the_rows_of_the_target():
    learner = make_learner(support_ratio=0.5)
    draws = DomainRegularization(learner).draw_supports(make_round(), 0, 2)
    assert [size for _, _, size in draws] == [1, 1]


def test_the_second_order_term_of_dn_is_the_gradient_of_inner_products():
    """After small steps in random order, theta~ - theta has the second-order term of Eq. 20, symmetrised by Eq. 22."""
    hessians = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]], dtype=torch.float64)
    centres = CENTRES[:2]
    theta = torch.tensor([0.7, 0.4], dtype=torch.float64)
    alpha = 1e-4

    def trajectory(order):
        point = theta.clone()
        for d in order:
            point = point - alpha * hessians[d] @ (point - centres[d])
        return -(point - theta) / alpha

    mean = (trajectory((0, 1)) + trajectory((1, 0))) / 2
    g = [hessians[d] @ (theta - centres[d]) for d in range(2)]
    inner_grad = (hessians[0] @ g[1] + hessians[1] @ g[0]) / 2  # half the gradient of <g_0, g_1>
    torch.testing.assert_close((g[0] + g[1] - mean) / alpha, inner_grad, rtol=1e-6, atol=1e-6)
    point = theta.clone().requires_grad_()
    product = (hessians[0] @ (point - centres[0])) @ (hessians[1] @ (point - centres[1]))
    torch.testing.assert_close(torch.autograd.grad(product, point)[0] / 2, inner_grad)


def test_the_error_of_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"train.method is 'mamd'; known: joint, .*mamdr"):
        find_method("mamd")
