"""Daily statistics of domains."""

from schemas.declaration import Column, DeclaredTable, Rule

DOMAIN_STATS = DeclaredTable(
    name="domain_stats",
    description=(
        "Statistics of each domain by day. A day is computed from clicks up to that day, so that running days in order "
        "gives the same result as one run over all days. After late rows for a day, rerun also the seven days that are "
        "compared with it, and all later days for `new_users`."
    ),
    made_by="domain_stats",
    columns=(
        Column("ds", "date", "the day"),
        Column("domain", "string", "the domain's id"),
        Column("rows", "bigint", "number of rows of clicks"),
        Column("clicks", "bigint", "number of rows with label 1"),
        Column("ctr", "double", "clicks / rows"),
        Column("ctr_low", "double", "lower end of the CTR's 95 % interval (Wilson's)"),
        Column("ctr_high", "double", "upper end of it"),
        Column("users", "bigint", "number of distinct users"),
        Column("items", "bigint", "number of distinct items"),
        Column("shared_users", "double", "share of its users with rows in another domain on that day"),
        Column("shared_items", "double", "share of its items with rows in another domain on that day"),
        Column(
            "new_users",
            "bigint",
            "number of its users whose first day in any domain is this one; if a single day is computed, by the "
            "first_seen of users, provided that it covers the day",
        ),
        Column("rows_ratio", "double", "rows / rows of the day before; null if it had none", nullable=True),
        Column("ctr_difference", "double", "ctr - ctr of the day before; null if it had no rows", nullable=True),
        Column(
            "ctr_z",
            "double",
            "ctr_difference in standard errors, with both days pooled; null if the pooled CTR is 0 or 1",
            nullable=True,
        ),
        Column(
            "week_rows_ratio",
            "double",
            "rows / mean rows of those of the 7 days before that have rows; null if none has",
            nullable=True,
        ),
        Column("week_ctr_difference", "double", "ctr - pooled ctr of the 7 days before", nullable=True),
        Column("week_ctr_z", "double", "week_ctr_difference in standard errors, like ctr_z", nullable=True),
    ),
    rules=(
        Rule("rows_positive", "`rows` > 0", "a domain without rows on a day has no row"),
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "there are no more clicks than rows"),
        Rule("ctr_within_interval", "ctr BETWEEN ctr_low AND ctr_high", "the interval contains the CTR"),
        Rule("new_users_within_users", "new_users BETWEEN 0 AND users", "there are no more new users than users"),
    ),
    partition_by=("ds",),
)
