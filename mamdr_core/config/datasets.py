"""Settings of the synthetic logs."""

from datetime import date

from mamdr_core.config.settings import check_limits, settings


@settings
class SyntheticSettings:
    """Synthetic logs with known click probabilities (docs/synthetic.md); generate_logs writes them to `input.path`."""

    rows: int = 100_000
    """Number of impressions over all days; every domain has at least one."""
    domains: int = 30
    """Number of domains; their sizes are heavy-tailed (log-normal)."""
    users: int = 5_000
    """Number of users."""
    items: int = 2_000
    """Number of items."""
    days: int = 1
    """Number of days; each is written to a folder day=YYYY-MM-DD."""
    first_day: date = date(2026, 1, 1)
    """The first day."""
    ctr: float = 0.2
    """Mean click-through rate; the rates of domains vary around it."""
    conflict: float = 0.5
    """Conflict c in [0, 1]: at 0 all domains share one taste; at 1 the tastes are independent and may be opposite."""
    drift: float = 0.0
    """Change of every domain's taste from one day to the next: the correlation of its scores on the two days is
    1 - drift. The shared taste drifts as well, so that the agreement between domains does not change."""
    late_domains: int = 0
    """Number of domains (the last ones) without rows on the first day."""
    overlap: float = 0.5
    """Probability that the user (and the item) of a row is drawn from all instead of the pool of its domain."""
    size_spread: float = 1.5
    """Standard deviation of the logarithm of domain sizes; 0: equal sizes."""
    factors: int = 8
    """Number of the true user and item factors."""
    vectors: int = 0
    """Length of the published feature vectors of users and items (noisy factors); 0: no vectors."""
    noise: float = 0.3
    """Standard deviation of the noise in the published vectors; that of the factors is 1."""
    rotate: bool = False
    """Multiply the factors of items by a random orthogonal matrix before they are published, so that elementwise
    products of user and item vectors are not the true model."""
    rank: int = 0
    """Dimension of a random subspace that contains the per-domain tastes, at most `factors`; 0: they are independent
    random directions."""
    user_effect: float = 0.0
    """Standard deviation of an effect of each user, added to the logit."""
    item_effect: float = 0.0
    """Standard deviation of an effect of each item, added to the logit."""
    pair_effect: float = 0.0
    """Standard deviation of an effect of each user in each domain, added to the logit."""
    position_effect: float = 0.0
    """Standard deviation of an effect of the position in which a row was shown, added to the logit; the position is
    random and not written to the log."""
    seed: int = 0
    """The same settings and seed give the same logs."""

    def __post_init__(self) -> None:
        check_limits(self, "synthetic", "rows", "domains", "users", "items", "days", "factors", least=1)
        effects = ("user_effect", "item_effect", "pair_effect", "position_effect")
        check_limits(self, "synthetic", "size_spread", "vectors", "noise", "late_domains", "rank", *effects, least=0)
        check_limits(self, "synthetic", "conflict", "drift", "overlap", least=0, most=1)
        if self.late_domains and (self.days < 2 or self.late_domains >= self.domains):
            raise ValueError(
                "synthetic.late_domains needs a second day and must be less than the number of domains: got "
                f"{self.late_domains} of {self.domains} domains, {self.days} days"
            )
        if self.rank > self.factors:
            raise ValueError(f"synthetic.rank must be <= synthetic.factors = {self.factors}, got {self.rank}")
        if self.rank == 1 and self.drift and self.days > 1:
            raise ValueError(
                "synthetic.rank must be 0 or >= 2 with drift: a taste cannot rotate in one dimension; got 1"
            )
        if not 0 < self.ctr < 1:
            raise ValueError(f"synthetic.ctr must be in (0, 1), got {self.ctr}")


@settings
class ConvertSettings:
    """Public data sources of the paper (docs/public_sources.md); the log is written to `input.path`."""

    path: str = ""
    """Folder of the downloaded files."""
    categories: tuple[str, ...] = ()
    """convert_amazon: categories as in the file names, e.g. Gift_Cards; each is a domain."""
    five_core: bool = True
    """convert_amazon: read <category>_5.json.gz, the 5-core, as the paper did; false: <category>.json.gz, all."""
    themes: int = 0
    """convert_taobao: number of themes, in the order in which they first appear in theme_click_log.csv; 0: all."""

    def __post_init__(self) -> None:
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"convert.categories has duplicates: {list(self.categories)}")
        check_limits(self, "convert", "themes", least=0)
