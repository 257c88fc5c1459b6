"""Settings of feature importance."""

from typing import Literal

from mamdr_core.settings import settings


@settings
class ImportanceSettings:
    """Permutation importance: the run, its features, and the number of permutations."""

    run_id: str = ""
    """The run to measure: an id; champion: the promoted run; empty: the newest successful run."""
    split: Literal["train", "val", "test"] = "test"
    """Split of examples, in the version that the run was trained on."""
    features: tuple[str, ...] = ()
    """Features to permute: user, item, or names of declared features. Empty: user, item and all declared features."""
    repeats: int = 5
    """Permutations of each feature, over which drops are averaged."""
    seed: int = 0
    """Seed of the permutations, which are the same for all features."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"importance.repeats must be >= 1, got {self.repeats}")
