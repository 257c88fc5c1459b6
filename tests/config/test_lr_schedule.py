"""Learning rates by round equal those of torch.optim.lr_scheduler, and Algorithm 1 uses them."""

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR, LinearLR, SequentialLR

from mamdr_core.config.job_config import load_config
from mamdr_core.config.lr_schedule import LrSchedule
from mamdr_core.learning.methods import METHODS
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.preparing import check_names
from tests.learning.test_algorithms import ALPHA, BETA, gradient, make_learner, make_round

PLANNED, WARM = 20, 5


def torch_factors(schedule: LrSchedule, rounds: int) -> list[float]:
    """The rates of torch's schedulers after every step, for an initial rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    length = schedule.decay_rounds or PLANNED - schedule.warmup_rounds
    decay = {
        "constant": lambda: ConstantLR(optimizer, factor=1.0),
        "linear": lambda: LinearLR(optimizer, 1.0, schedule.end_factor, total_iters=length),
        "cosine": lambda: CosineAnnealingLR(optimizer, length, eta_min=schedule.end_factor),
        "exponential": lambda: ExponentialLR(optimizer, schedule.end_factor ** (1 / length)),
    }[schedule.decay]()
    if schedule.warmup_rounds:
        warm = LinearLR(optimizer, schedule.start_factor, 1.0, total_iters=schedule.warmup_rounds)
        decay = SequentialLR(optimizer, [warm, decay], milestones=[schedule.warmup_rounds])
    found = []
    for _ in range(rounds):
        found.append(decay.get_last_lr()[0])
        optimizer.step()
        decay.step()
    return found


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("warmup", [0, WARM])
@pytest.mark.parametrize("decay_rounds", [0, 7])
@pytest.mark.parametrize("decay", ["constant", "linear", "cosine", "exponential"])
def test_rates_equal_those_of_torch_and_stay_constant_after_the_decay(decay, decay_rounds, warmup):
    schedule = LrSchedule(
        decay=decay, warmup_rounds=warmup, start_factor=0.2, decay_rounds=decay_rounds, end_factor=0.05
    )
    length = decay_rounds or PLANNED - warmup
    found = [schedule.factor(round_, PLANNED) for round_ in range(PLANNED)]
    expected = torch_factors(schedule, warmup + length + 1)  # torch's cosine increases again afterwards
    assert found[: len(expected)] == pytest.approx(expected[:PLANNED], abs=1e-12)
    assert found[len(expected) :] == pytest.approx([expected[-1]] * (PLANNED - len(expected)))


@pytest.mark.parametrize(("rates", "alpha", "beta"), [("inner", 0.5, 1.0), ("outer", 1.0, 0.5), ("both", 0.5, 0.5)])
def test_algorithm_1_uses_the_rates_of_its_round(rates, alpha, beta):
    inner, outer = LrSchedule(decay="linear", end_factor=0.0, rates=rates).factors(5, 10)
    learner = make_learner()
    start = theta = learner.shared.dense.clone()
    METHODS["dn"].shared(learner)(replace(make_round(), inner_factor=inner, outer_factor=outer))
    for domain in (2, 0, 1):
        theta = theta - alpha * ALPHA * gradient(theta, domain)
    torch.testing.assert_close(learner.shared.dense, start + beta * BETA * (theta - start))


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"warmup_rounds": -1}, r"warmup_rounds must be >= 0, got -1"),
        ({"end_factor": 1.5}, r"end_factor must be in \[0, 1\], got 1.5"),
        ({"decay": "exponential", "end_factor": 0.0}, r"end_factor must be > 0 if"),
    ],
)
def test_errors_of_a_schedule_name_key_and_value(values, cause):
    with pytest.raises(ValueError, match=cause):
        LrSchedule(**values)


def test_a_schedule_of_the_outer_rate_needs_a_method_with_an_outer_update():
    values = ["train.lr_schedule.rates=outer", "train.lr_schedule.decay=cosine"]
    check_names(load_config(overrides=[*values, "train.method=dn"]))
    with pytest.raises(MamdrError, match=r"rates is outer, and train\.method joint has no outer update: use inner"):
        check_names(load_config(overrides=[*values, "train.method=joint"]))
