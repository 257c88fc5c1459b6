"""Settings of the synthetic logs."""

from datetime import date

from mamdr_core.settings import settings


@settings
class SyntheticSettings:
    """Synthetic logs with a known answer (docs/synthetic.md); written to `input.path` by generate_logs."""

    rows: int = 100_000
    """Impressions in all days together; a domain has at least one."""
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
    drift: float = 0.0
    """How far every domain's taste moves from a day to the next: the correlation of its scores on the two is 1 - drift.
    Domains move together where they agree, so that `conflict` stays as it is."""
    late_domains: int = 0
    """So many domains, the last ones, have no row before the second day."""
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
        for name in ("size_spread", "vectors", "noise", "late_domains"):
            if getattr(self, name) < 0:
                raise ValueError(f"synthetic.{name} must be >= 0, got {getattr(self, name)}")
        for name in ("conflict", "drift", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"synthetic.{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.late_domains and (self.days < 2 or self.late_domains >= self.domains):
            raise ValueError(
                "synthetic.late_domains needs a second day, and fewer than all domains: got "
                f"{self.late_domains} of {self.domains} domains, {self.days} days"
            )
        if not 0 < self.ctr < 1:
            raise ValueError(f"synthetic.ctr must lie in (0, 1), got {self.ctr}")


@settings
class ConvertSettings:
    """The paper's public sources (docs/public_sources.md); the log is written to `input.path`."""

    path: str = ""
    """Folder of the downloaded files."""
    categories: tuple[str, ...] = ()
    """convert_amazon: categories as in the files' names, e.g. Gift_Cards; each is a domain."""
    five_core: bool = True
    """convert_amazon: read <category>_5.json.gz, the 5-core, as the paper did; false: <category>.json.gz, all."""
    themes: int = 0
    """convert_taobao: number of themes, in the order in which they first appear in theme_click_log.csv; 0: all."""

    def __post_init__(self) -> None:
        """Check the lists."""
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"convert.categories must differ, got {list(self.categories)}")
        if self.themes < 0:
            raise ValueError(f"convert.themes must be >= 0, got {self.themes}")
