"""Named SQL views that answer an analyst's common questions, for a session or as a script that spark-sql runs first.

    .venv/bin/python -m mamdr_core.lake.views .demo/lake > views.sql

A lake may be a folder without a metastore, so views are temporary: docs/queries.md shows both uses.
"""

import sys
from dataclasses import dataclass

from mamdr_core.config.lake import LakeSettings
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.windows import window_at, window_sql
from mamdr_core.runtime.errors import MamdrError


@dataclass(frozen=True)
class View:
    """A view: meaning of a row, tables that must exist, and SQL over tables and earlier views."""

    name: str
    description: str
    tables: tuple[str, ...]
    sql: str


VIEWS = (
    View(
        "latest_run",
        "the newest successful run, as in training_runs",
        ("training_runs",),
        "SELECT * FROM training_runs WHERE status = 'ok' ORDER BY started_at DESC LIMIT 1",
    ),
    View(
        "domains_now",
        "a domain on the newest day on which it occurs, with its test metrics in the latest run",
        ("domain_stats", "domain_metrics", "training_runs"),
        """
SELECT stats.*, metrics.run_id, metrics.rows AS test_rows, metrics.auc AS test_auc, metrics.logloss AS test_logloss
FROM domain_stats AS stats
JOIN (SELECT domain, max(ds) AS ds FROM domain_stats GROUP BY domain) AS newest USING (domain, ds)
LEFT JOIN (
  SELECT domain_metrics.* FROM domain_metrics JOIN latest_run USING (run_id) WHERE split = 'test'
) AS metrics ON metrics.domain_id = stats.domain""",
    ),
    View(
        "drifting_domains",
        "a domain that differs from the day or week before: by 4 standard errors in CTR, or half or twice the rows",
        ("domain_stats",),
        """
SELECT * FROM domain_stats
WHERE ds = (SELECT max(ds) FROM domain_stats)
  AND (abs(ctr_z) > 4 OR abs(week_ctr_z) > 4 OR week_rows_ratio NOT BETWEEN 0.5 AND 2)""",
    ),
    View(
        "rejected_by_rule",
        "a day and a rule: rows that failed it, and their share of all rows of that day",
        ("clicks", "clicks_rejected"),
        """
SELECT rejected.ds, rule, rejected.rows,
  rejected.rows / (coalesce(valid.rows, 0) + sum(rejected.rows) OVER (PARTITION BY rejected.ds)) AS share
FROM (SELECT ds, rule, count(*) AS rows FROM clicks_rejected GROUP BY ds, rule) AS rejected
LEFT JOIN (SELECT ds, count(*) AS rows FROM clicks GROUP BY ds) AS valid ON valid.ds = rejected.ds""",
    ),
    View(
        "worst_domains",
        "a domain with a test AUC in the latest run, the lowest AUC first",
        ("domain_metrics", "training_runs"),
        """
SELECT domain_id AS domain, rows, clicks, auc, auc - avg(auc) OVER () AS against_mean, logloss,
  clicks / rows AS ctr, mean_prediction
FROM domain_metrics JOIN latest_run USING (run_id)
WHERE split = 'test' AND auc IS NOT NULL
ORDER BY auc, domain""",
    ),
    View(
        "auc_changes",
        "a domain with a test AUC in both the latest run and the run before it",
        ("domain_metrics", "training_runs"),
        """
WITH numbered AS (
  SELECT run_id, row_number() OVER (ORDER BY started_at DESC) AS age FROM training_runs WHERE status = 'ok'
), measured AS (
  SELECT * FROM domain_metrics JOIN numbered USING (run_id) WHERE age <= 2 AND split = 'test' AND auc IS NOT NULL
)
SELECT now.domain_id AS domain, now.rows, before.run_id AS run_before, now.run_id AS run_now,
  before.auc AS auc_before, now.auc AS auc_now, now.auc - before.auc AS difference
FROM measured AS now JOIN measured AS before ON before.domain = now.domain
WHERE now.age = 1 AND before.age = 2""",
    ),
    View(
        "run_comparison",
        "a successful run: mean test AUC, and the number of domains in which no run on the same examples is better",
        ("domain_metrics", "training_runs"),
        """
WITH measured AS (
  SELECT input_versions['examples'] AS examples_version, run_id, method, model, started_at, metrics.rows, auc,
    rank() OVER (PARTITION BY input_versions['examples'], metrics.domain ORDER BY auc DESC) AS place
  FROM training_runs JOIN domain_metrics AS metrics USING (run_id)
  WHERE status = 'ok' AND split = 'test' AND auc IS NOT NULL
)
SELECT examples_version, run_id, method, model, started_at, count(*) AS domains, avg(auc) AS mean_auc,
  sum(auc * rows) / sum(rows) AS weighted_auc, count_if(place = 1) AS best_in
FROM measured
GROUP BY examples_version, run_id, method, model, started_at""",
    ),
)
"""Views in order of creation: each uses only earlier ones."""


def create_views(lake: Lake) -> None:
    """Create a TEMP VIEW of every table of the lake, and the views whose tables exist.

    Example:
        >>> create_views(lake)  # doctest: +SKIP
        >>> spark.sql("SELECT domain, auc FROM worst_domains LIMIT 10").show()  # doctest: +SKIP
    """
    for statement in view_statements(lake):
        lake.spark.sql(statement)


def view_statements(lake: Lake) -> list[str]:
    """The SQL statements of `create_views`; the first one sets `${lake}` to the lake's root.

    Raises:
        MamdrError: the lake holds no table.
    """
    found = lake.tables()
    tables = [table.name for table in found]
    if not tables:
        raise MamdrError(f"lake {lake.root} holds no table yet: run jobs/ingest_clicks.py first")
    return [
        f"SET lake = {lake.root}",
        "SET spark.sql.session.timeZone = UTC",
        *(f"CREATE OR REPLACE TEMP VIEW {table.name} AS SELECT * FROM {lake.sql_name(table)}" for table in found),
        *([_examples_view(lake)] if "examples" in tables else []),
        *(
            f"CREATE OR REPLACE TEMP VIEW {view.name} COMMENT '{view.description}' AS {view.sql.strip()}"
            for view in VIEWS
            if set(view.tables).issubset(tables)
        ),
    ]


def _examples_view(lake: Lake) -> str:
    split, chosen = window_sql(window_at(lake, lake.version("examples")))
    columns = f"*, {split} AS split" if split else "*"
    return (
        "CREATE OR REPLACE TEMP VIEW examples_view COMMENT 'an example of the newest window, with its split' AS "
        f"SELECT {columns} FROM examples WHERE {chosen}"
    )


def main(arguments: list[str]) -> int:
    """Print the statements for a lake, given its root and the schema of `lake.catalog`, if any."""
    if len(arguments) not in (1, 2):
        print("usage: python -m mamdr_core.lake.views ROOT [SCHEMA] > views.sql", file=sys.stderr)
        return 2
    try:
        settings = LakeSettings(root=arguments[0], catalog="".join(arguments[1:]))
        with spark_session("views") as spark:
            statements = view_statements(Lake(spark, settings))
    except (MamdrError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("".join(f"{statement};\n" for statement in statements), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
