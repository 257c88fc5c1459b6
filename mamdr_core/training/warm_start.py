"""Warm start: a learner starts with theta_S and theta_i from the package of its parent."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.striping import WHOLE, Stripe
from mamdr_core.learning.learner import Learner
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.object_store import as_path
from mamdr_core.runtime.stateful import State
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.metadata import MIXED
from mamdr_core.training.files.specific_files import SavedSpecific
from mamdr_core.training.package import SavedShared, load_mixed

logger = logging.getLogger(__name__)


class ParentParameters:
    """Parameters of a parent for one rank."""

    def __init__(self, package: str, device: torch.device | str = "cpu", scratch: str = "") -> None:
        self._package, self._scratch = package, scratch
        with fetched(as_path(package), "model package", scratch) as folder:
            self._shared = SavedShared(folder)
            self.has_mixed = (folder / f"{MIXED}shared.safetensors").is_file()
            self._specific = SavedSpecific(sorted(folder.glob("specific-*.safetensors")), device)

    def has_specific(self, domains: int) -> NDArray[np.bool_]:
        """Mask of the domains that have theta_i in the package, bool [n]."""
        having = np.zeros(domains, dtype=np.bool_)
        having[list(self._specific)] = True
        return having

    def mixed_state(self, collective: Collective, owned_n: NDArray[np.bool_]) -> State | None:
        """State of the parent's mixed model for this rank's domains, bool [n]; None: it has none."""
        with fetched(as_path(self._package), "model package", self._scratch, only=MIXED) as folder:
            return load_mixed(folder, collective.rank, collective.size, torch.from_numpy(owned_n))

    def copy_to(self, learner: Learner, collective: Collective, is_mixed: bool = False) -> None:
        """Replace the initial parameters of a learner by those of the parent.

        Vocabularies only grow and an index never changes: the parent's rows of a table are the first rows of the
        learner's table. Rows of ids and domains that the parent does not have keep their initial values, as do theta_i
        that it does not have. Optimizers start without moments, which packages do not contain.

        Args:
            learner: the learner before training.
            collective: the ranks, over which its tables may be sharded.
            is_mixed: whether this run has a mixed model. A network that was trained on top of a mixed model is useless
                without one, and vice versa.
        """
        if self.has_mixed != is_mixed:
            if collective.rank == 0:
                logger.warning("theta_S starts cold: only one of the parent and this run has a mixed model")
            return
        if not self._shared.dense.any():
            if collective.rank == 0:
                logger.info("theta_S starts cold: the parent's network is zero, it consists of its mixed model")
            return
        shared = learner.shared
        shared.dense.copy_(self._shared.dense)
        for name, table in shared.tables.items():
            whole = isinstance(table, Tensor)
            rows = self._shared.rows(name, WHOLE if whole else Stripe(collective.rank, collective.size))
            own = table if isinstance(table, Tensor) else table.own
            own[: len(rows)] = rows.to(own.device)
        for domain in learner.specific:
            if domain in self._specific:
                learner.specific[domain] = self._specific[domain]
