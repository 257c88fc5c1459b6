"""Summary table at the end of a run: AUC by domain, compared with the newest runs of other methods."""

import sys

from pyspark.sql import functions as F
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from mamdr_core.lake.core.tables import Lake

LARGEST = 30


def log_summary(lake: Lake, run_id: str, examples_version: int) -> None:
    """Print test AUC by domain, largest domains first, of this run, other methods and the oracle, to stderr."""
    # Few rows, so that the newest run of each method is chosen here: Spark would need a shuffle.
    runs = (
        lake.read("training_runs")
        .where((F.col("status") == "ok") & (F.col("input_versions")["examples"] == examples_version))
        .select("run_id", "method", "started_at")
        .collect()
    )
    newest = {row["method"]: row["run_id"] for row in sorted(runs, key=lambda row: row["started_at"])}
    methods = {run: method for method, run in newest.items()}
    found = (
        lake.read("domain_metrics")
        .where((F.col("split") == "test") & F.col("run_id").isin(list(methods)))
        .select("run_id", "domain_id", "rows", "auc", "oracle_auc")
        .collect()
    )
    shown = sorted(methods, key=lambda other: (other == run_id, methods[other]))
    aucs = {(row["run_id"], row["domain_id"]): row["auc"] for row in found}
    mine = sorted((row for row in found if row["run_id"] == run_id), key=lambda row: -row["rows"])
    with_oracle = any(row["oracle_auc"] is not None for row in mine)

    table = RichTable(title="Test AUC by domain", caption=f"examples version {examples_version}")
    for heading in ("domain", "rows", *(methods[other] for other in shown), *(["oracle"] if with_oracle else [])):
        table.add_column(heading, justify="left" if heading == "domain" else "right")
    for row in mine[:LARGEST]:
        figures = [aucs.get((other, row["domain_id"])) for other in shown]
        figures += [row["oracle_auc"]] if with_oracle else []
        table.add_row(escape(row["domain_id"]), f"{row['rows']:,}", *(_shown(figure) for figure in figures))
    if len(mine) > LARGEST:
        table.add_row(f"... {len(mine) - LARGEST} more", *[""] * (len(table.columns) - 1))
    table.add_section()
    means = [_mean([aucs.get((other, row["domain_id"])) for row in mine]) for other in shown]
    means += [_mean([row["oracle_auc"] for row in mine])] if with_oracle else []
    table.add_row("mean, all rows", f"{sum(row['rows'] for row in mine):,}", *(_shown(mean) for mean in means))
    Console(file=sys.stderr).print(table)


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"
