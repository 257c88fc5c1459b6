"""What analysts ask of domains, day by day."""

from schemas.declaration import Column, Rule, Table

DOMAIN_STATS = Table(
    name="domain_stats",
    description=(
        "A domain on a day. A day is computed from clicks up to that day: running days in order gives what one run over"
        " all gives. After late rows for a day, run again also the seven days that are compared with it, and all later "
        "ones for `new_users`."
    ),
    made_by="domain_stats",
    columns=(
        Column("ds", "date", "the day"),
        Column("domain", "string", "the domain's id"),
        Column("rows", "bigint", "rows of clicks"),
        Column("clicks", "bigint", "rows with label 1"),
        Column("ctr", "double", "clicks / rows"),
        Column("ctr_low", "double", "lower end of the CTR's 95 % interval (Wilson's)"),
        Column("ctr_high", "double", "upper end of it"),
        Column("users", "bigint", "distinct users"),
        Column("items", "bigint", "distinct items"),
        Column("shared_users", "double", "share of its users seen in another domain on that day"),
        Column("shared_items", "double", "share of its items seen in another domain on that day"),
        Column(
            "new_users",
            "bigint",
            "its users whose first day, in any domain, is this one; of one day by the vocabulary users, where it knows",
        ),
        Column("rows_ratio", "double", "rows / rows of the day before; null where it had none", nullable=True),
        Column("ctr_difference", "double", "ctr - ctr of the day before; null where it had no rows", nullable=True),
        Column(
            "ctr_z",
            "double",
            "ctr_difference in standard errors, both days pooled; null where both have no click, or nothing else",
            nullable=True,
        ),
        Column(
            "week_rows_ratio",
            "double",
            "rows / mean rows of those of the 7 days before on which it had any; null where it had none",
            nullable=True,
        ),
        Column("week_ctr_difference", "double", "ctr - ctr of the 7 days before taken together", nullable=True),
        Column("week_ctr_z", "double", "week_ctr_difference in standard errors, like ctr_z", nullable=True),
    ),
    rules=(
        Rule("rows_positive", "`rows` > 0", "a domain without rows has no line"),
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "no more clicks than rows"),
        Rule("ctr_within_interval", "ctr BETWEEN ctr_low AND ctr_high", "the interval holds the CTR"),
        Rule("new_users_within_users", "new_users BETWEEN 0 AND users", "no more new users than users"),
    ),
    partition_by=("ds",),
)
