"""Settings of the synthetic logs."""

from datetime import date

from mamdr_core.settings import settings


@settings
class SyntheticSettings:
    """Synthetic logs with a known answer (docs/synthetic.md); written to `input.path` by generate_logs."""

    rows: int = 100_000
    """Impressions in all days together."""
    domains: int = 30
    """Number of domains; their sizes are heavy-tailed (log-normal)."""
    users: int = 5_000
    """Number of users."""
    items: int = 2_000
    """Number of items."""
    days: int = 1
    """Days covered; a folder day=YYYY-MM-DD each."""
    first_day: date = date(2026, 1, 1)
    """The first day."""
    ctr: float = 0.2
    """Mean click-through rate; domains lie around it."""
    conflict: float = 0.5
    """c in [0, 1]: 0, all domains share one taste; 1, each domain has its own, which may oppose the others'."""
    overlap: float = 0.5
    """Share of a domain's users and items that are drawn from all, the rest from the domain's own part."""
    size_spread: float = 1.5
    """Standard deviation of the logarithm of domain sizes; 0: all equal."""
    factors: int = 8
    """Number of the true user and item factors."""
    vectors: int = 0
    """Length of the published feature vectors of users and items (noisy factors); 0: none are written."""
    noise: float = 0.3
    """Standard deviation of the noise in the published vectors, factors having 1."""
    seed: int = 0
    """Same settings, same seed: same logs."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("rows", "domains", "users", "items", "days", "factors"):
            if getattr(self, name) < 1:
                raise ValueError(f"synthetic.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("conflict", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"synthetic.{name} must lie in [0, 1], got {getattr(self, name)}")
        if not 0 < self.ctr < 1:
            raise ValueError(f"synthetic.ctr must lie in (0, 1), got {self.ctr}")
