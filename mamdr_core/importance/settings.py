"""Settings of feature importance."""

from typing import Literal

from mamdr_core.settings import settings


@settings
class ImportanceSettings:
    """Which features of which run are permuted, and how often."""

    run_id: str = ""
    """The run that is measured: an id, or champion, the run that serves; empty: the newest that ended well."""
    split: Literal["train", "val", "test"] = "test"
    """Split of examples, in the version that the run was trained on."""
    features: tuple[str, ...] = ()
    """Features that are permuted: user, item, or names of declared ones. None: user, item and all declared ones."""
    repeats: int = 5
    """Permutations of each feature, over which drops are averaged."""
    seed: int = 0
    """Decides the permutations, which are the same for all features."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"importance.repeats must be >= 1, got {self.repeats}")
