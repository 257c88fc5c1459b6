"""The domains of a run: all domains, or those of `train.only_domains`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mamdr_core.config.job_config import Config
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.learning.methods import find_method
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.pinned import PinnedExamples


@dataclass(frozen=True)
class RunDomains:
    """Which domains a run trains and reads.

    Attributes:
        learns: mask of the domains whose parameters are trained and evaluated, bool [n].
        reads: mask of the domains whose training rows are read, including support domains, bool [n].
    """

    learns: NDArray[np.bool_]
    reads: NDArray[np.bool_]

    @property
    def is_whole(self) -> bool:
        """Whether all domains are trained."""
        return bool(self.learns.all())

    def rows(self, pinned: PinnedExamples) -> NDArray[np.int64]:
        """Training rows by domain, 0 for domains that are not trained, int64 [n]."""
        return np.where(self.learns, pinned.counts["train"], 0)


def domains_of(config: Config, pinned: PinnedExamples) -> RunDomains:
    """All domains, or the named ones with as many random others as DR can draw as supports.

    Raises:
        MamdrError: a named domain is unknown, or has no training rows.
    """
    train, trainable = config.train, pinned.counts["train"] > 0
    if not train.only_domains:
        everything = np.ones(len(trainable), dtype=np.bool_)
        return RunDomains(everything, everything)
    index = {domain_id: number for number, domain_id in enumerate(pinned.domain_ids)}
    where = f"examples version {pinned.versions['examples']}"
    unknown = [name for name in train.only_domains if name not in index]
    if unknown:
        raise MamdrError(f"train.only_domains: {where} has no domain {', '.join(map(repr, unknown))}")
    named = np.zeros(len(trainable), dtype=np.bool_)
    named[[index[name] for name in train.only_domains]] = True
    empty = [name for name in train.only_domains if not trainable[index[name]]]
    if empty:
        raise MamdrError(
            f"train.only_domains: {where} has no training rows of domain {', '.join(map(repr, empty))}: it is served "
            "with theta_S"
        )
    dr = find_method(train.method).settle(train.learning).dr
    others = np.flatnonzero(trainable & ~named)
    random = np.random.default_rng(derive_seed(train.seed, 11))
    reads = named.copy()
    reads[random.choice(others, size=min(len(others), dr.k * dr.epochs), replace=False)] = True
    return RunDomains(named, reads)
