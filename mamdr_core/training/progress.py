"""The progress line: round, rate, validation AUC and time left."""

import logging
import time

from mamdr_core.training.early_stop import EarlyStop

logger = logging.getLogger(__name__)


class Progress:
    """Logs one line a validation on rank 0.

    Args:
        rounds: rounds that the run has at most.
        rounds_per_epoch: R.
        speaks: whether this rank logs.
        before: rounds that an earlier attempt did.
    """

    def __init__(self, rounds: int, rounds_per_epoch: int, speaks: bool, before: int = 0) -> None:
        self.rounds = rounds
        self.rounds_per_epoch = rounds_per_epoch
        self.speaks = speaks
        self.before = before
        self.started = time.perf_counter()

    def begin(self, auc: float) -> None:
        """Log the mean validation AUC that a phase has to beat."""
        if self.speaks:
            logger.info("begins with val AUC %.4f", auc)

    def say(self, done: int, rows: int, inner_seconds: float, waited: float, auc: float, stop: EarlyStop) -> None:
        """Log where the run is.

        Args:
            done: rounds done.
            rows: rows that all ranks have descended on.
            inner_seconds: wall time of inner loops.
            waited: seconds of it that steps waited for their rows.
            auc: mean validation AUC now.
            stop: knows the best so far.
        """
        if not self.speaks:
            return
        left = (time.perf_counter() - self.started) / (done - self.before) * (self.rounds - done)
        seconds = max(inner_seconds, 1e-9)
        waiting = f", {waited / seconds:.0%} waiting for rows" if waited else ""
        logger.info(
            "epoch %d round %d/%d | val AUC %.4f (best %.4f, round %d) | %s rows/s%s | "
            "at most %d:%02d left",
            (done - 1) // self.rounds_per_epoch + 1, done, self.rounds, auc, stop.best, stop.best_round,
            f"{rows / seconds:,.0f}", waiting, int(left) // 60, int(left) % 60,
        )  # fmt: skip
