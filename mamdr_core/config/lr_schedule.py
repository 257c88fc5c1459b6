"""Learning rates of theta_S by round: linear warm-up, then decay."""

import math
from typing import Literal

from mamdr_core.config.settings import check_limits, settings


@settings
class LrSchedule:
    """Learning rates of theta_S by round, counted from 0 in each stage of a run.

    Factors are those of `torch.optim.lr_scheduler`: LinearLR, then LinearLR, CosineAnnealingLR or ExponentialLR.
    """

    decay: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """Decay of the rates after the warm-up, from a factor of 1 to `end_factor`."""
    warmup_rounds: int = 0
    """Rounds in which the factor of the rates increases linearly from `start_factor` to 1; 0: no warm-up."""
    start_factor: float = 0.1
    """Factor of the rates in the first round of a warm-up."""
    decay_rounds: int = 0
    """Length of the decay in rounds, after which the factor stays at `end_factor`; 0: all planned rounds after the
    warm-up, which are those of train.epochs. Since training often stops early, set it to the expected length."""
    end_factor: float = 0.01
    """Factor of the rates at the end of the decay."""
    rates: Literal["inner", "outer", "both"] = "inner"
    """The scheduled rates: inner, of theta_S's inner steps (alpha); outer, of the outer update (beta), for methods that
    have one; both. With outer.optimizer adam, whose steps hardly depend on the size of a change, a smaller inner rate
    alone does not make the outer steps smaller."""

    def __post_init__(self) -> None:
        check_limits(self, "lr_schedule", "warmup_rounds", "decay_rounds", least=0)
        check_limits(self, "lr_schedule", "start_factor", "end_factor", least=0, most=1)
        if self.decay == "exponential" and not self.end_factor:
            raise ValueError("lr_schedule.end_factor must be > 0 if lr_schedule.decay is exponential, got 0")

    def factor(self, round_: int, planned: int) -> float:
        """Factor of the rates in a round, counted from 0, of a planned number of rounds.

        Example:
            >>> LrSchedule(decay="linear", end_factor=0.0).factor(3, planned=4)
            0.25
        """
        if round_ < self.warmup_rounds:
            return self.start_factor + (1 - self.start_factor) * round_ / self.warmup_rounds
        if self.decay == "constant":
            return 1.0
        length = self.decay_rounds or max(1, planned - self.warmup_rounds)
        part = min(1.0, (round_ - self.warmup_rounds) / length)
        if self.decay == "exponential":
            return float(self.end_factor**part)
        left = (1 + math.cos(math.pi * part)) / 2 if self.decay == "cosine" else 1 - part
        return self.end_factor + (1 - self.end_factor) * left

    def factors(self, round_: int, planned: int) -> tuple[float, float]:
        """Factors of the inner and of the outer rate in a round; see `factor`."""
        factor = self.factor(round_, planned)
        return (1.0 if self.rates == "outer" else factor), (1.0 if self.rates == "inner" else factor)
