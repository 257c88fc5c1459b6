"""Progress of training in the log: round, validation AUC, rate and remaining time."""

import logging
import time

from mamdr_core.training.curve import Validation
from mamdr_core.training.early_stop import EarlyStop

logger = logging.getLogger(__name__)


class Progress:
    """Logs one line per validation; `before` rounds were done before, by earlier attempts or stages."""

    def __init__(self, rounds: int, logs: bool, before: int = 0) -> None:
        self.rounds = rounds
        self.logs = logs
        self.before = before
        self.started = time.perf_counter()

    def log(self, found: Validation, inner_seconds: float, waited: float, stop: EarlyStop) -> None:
        """Log a validation; `waited`: seconds of those of inner loops in which steps waited for their rows."""
        if not self.logs:
            return
        done, auc = found.round, float("nan") if found.val_auc is None else found.val_auc
        left = (time.perf_counter() - self.started) / (done - self.before) * (self.rounds - done)
        seconds = max(inner_seconds, 1e-9)
        waiting = f", {waited / seconds:.0%} waiting for rows" if waited else ""
        logger.info(
            "epoch %d round %d/%d | val AUC %.4f (best %.4f, round %d) | %s rows/s%s | "
            "at most %d:%02d left",
            found.epoch, done, self.rounds, auc, stop.best, stop.best_round,
            f"{found.rows / seconds:,.0f}", waiting, int(left) // 60, int(left) % 60,
        )  # fmt: skip
