"""Early stop on the mean validation AUC over domains, and the best parameters seen."""

from dataclasses import dataclass, field

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.specific_store import SpecificStore


@dataclass
class EarlyStop:
    """Keeps the best parameters; training stops after `patience` validations in a row without a better AUC.

    Without any measurable domain every validation counts as the best, so that the last parameters are kept.
    """

    patience: int
    best: float = float("nan")
    best_round: int = 0
    waited: int = 0
    shared: Shared | None = field(default=None, repr=False)

    def validated(self, auc: float, round_number: int, shared: Shared, specific: SpecificStore) -> bool:
        """Take note of a validation; returns whether training should stop. `specific` keeps its own best."""
        if auc > self.best or self.shared is None or auc != auc:
            self.best, self.best_round, self.waited = auc, round_number, 0
            self.shared = shared.copy()
            specific.keep()
            return False
        self.waited += 1
        return self.waited >= self.patience
