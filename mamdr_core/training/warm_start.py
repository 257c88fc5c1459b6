"""A learner that starts where another run ended: theta_S and theta_i from that run's package."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.learning.learner import Learner
from mamdr_core.object_store import place_of
from mamdr_core.parallel.collective import Collective
from mamdr_core.stateful import State
from mamdr_core.training.package import MIXED, SavedShared, load_mixed
from mamdr_core.training.specific_files import SavedSpecific
from mamdr_core.training.storage import fetched

logger = logging.getLogger(__name__)


class Heritage:
    """What a parent's package hands down to a rank.

    Args:
        package: its folder.
        device: where theta_i is wanted.
        scratch: folder of a local copy, where it is in an object store; empty: the system's temporary folder.
    """

    def __init__(self, package: str, device: torch.device | str = "cpu", scratch: str = "") -> None:
        self._package, self._scratch = package, scratch
        with fetched(place_of(package), "model package", scratch) as folder:
            self._shared = SavedShared(folder)
            self.has_mixed = (folder / f"{MIXED}shared.safetensors").is_file()
            self._specific = SavedSpecific(sorted(folder.glob("specific-*.safetensors")), device)

    def having_specific(self, domains: int) -> NDArray[np.bool_]:
        """Which of so many domains have theta_i, [n]."""
        having = np.zeros(domains, dtype=np.bool_)
        having[list(self._specific)] = True
        return having

    def mixed_state(self, collective: Collective, owned_n: NDArray[np.bool_]) -> State | None:
        """The part of the parent's mixed model that a rank takes; None: it has none.

        Args:
            collective: the ranks.
            owned_n: by domain, whether this rank owns it.
        """
        with fetched(place_of(self._package), "model package", self._scratch, only=MIXED) as folder:
            return load_mixed(folder, collective.rank, collective.size, torch.from_numpy(owned_n))

    def hand_down(self, learner: Learner, collective: Collective, is_mixed: bool = False) -> None:
        """Put the parent's parameters in place of those that a new learner starts with.

        Vocabularies only grow and an index never changes: the parent's rows of a table are the first of the learner's,
        and the others, of ids and domains that the parent did not know, stay as the model initialises them. So does
        theta_i of domains that have none there. Optimizers start fresh: a package holds no moments.

        Args:
            learner: as it is before training.
            collective: the ranks, over which its tables may be sharded.
            is_mixed: whether this run has a mixed model. What a network has learned on top of one is of no use without
                it, nor the other way round.
        """
        if self.has_mixed != is_mixed:
            if collective.rank == 0:
                logger.warning("theta_S starts cold: of the parent and this run, one has a mixed model alone")
            return
        if not self._shared.dense.any():
            if collective.rank == 0:
                logger.info("theta_S starts cold: the parent's network is zero, its mixed model served alone")
            return
        shared = learner.shared
        shared.dense.copy_(self._shared.dense)
        for name, table in shared.tables.items():
            whole = isinstance(table, Tensor)
            first, step = (0, 1) if whole else (collective.rank, collective.size)
            rows = self._shared.rows(name, first, step)
            own = table if isinstance(table, Tensor) else table.own
            own[: len(rows)] = rows.to(own.device)
        for domain in learner.specific:
            if domain in self._specific:
                learner.specific[domain] = self._specific[domain]
