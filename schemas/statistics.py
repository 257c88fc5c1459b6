"""What analysts ask of domains, day by day."""

from schemas.declaration import Column, Rule, Table

DOMAIN_STATS = Table(
    name="domain_stats",
    description="A domain on a day.",
    made_by="domain_stats",
    columns=(
        Column("ds", "date", "the day"),
        Column("domain", "string", "the domain's id"),
        Column("rows", "bigint", "rows of clicks"),
        Column("clicks", "bigint", "rows with label 1"),
        Column("ctr", "double", "clicks / rows"),
        Column("users", "bigint", "distinct users"),
        Column("items", "bigint", "distinct items"),
        Column("shared_users", "double", "share of its users seen in another domain on that day"),
        Column("shared_items", "double", "share of its items seen in another domain on that day"),
        Column("rows_ratio", "double", "rows / rows of the day before; null where it had none", nullable=True),
        Column("ctr_difference", "double", "ctr - ctr of the day before; null where it had no rows", nullable=True),
    ),
    rules=(
        Rule("rows_positive", "`rows` > 0", "a domain without rows has no line"),
        Rule("clicks_within_rows", "clicks BETWEEN 0 AND `rows`", "no more clicks than rows"),
    ),
    partition_by=("ds",),
)
