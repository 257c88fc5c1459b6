"""Figures of the runs of an experiment, read from the lake.

Shape suffixes: n domains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import functions as F

from mamdr_core.experiments.figures import Floats
from mamdr_core.lake.core.tables import Lake

OVERALL = ("test_gauc", "test_ndcg", "test_hit_rate", "test_pcoc", "test_calibration_error")
"""Columns of training_runs that a comparison averages over seeds."""


@dataclass(frozen=True)
class RunFigures:
    """Figures of a finished run.

    Attributes:
        code_version: version of the code that trained it.
        auc_n: test AUC by domain index; NaN where it is undefined.
        test_auc: mean over the domains with an AUC; NaN if there are none.
        weighted_test_auc: the same, weighted by rows.
        val_auc: mean validation AUC.
        seconds: of training, evaluation and saving.
        overall: other figures of the test split, by column of training_runs; None where they are missing.
    """

    run_id: str
    code_version: str | None
    auc_n: Floats
    test_auc: float
    weighted_test_auc: float
    val_auc: float
    seconds: float
    overall: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedRuns:
    """Figures of runs on one version of the examples.

    Attributes:
        runs: by run_id.
        test_rows_n: rows of the test split by domain index, int64.
        oracle_n: test AUC of the true probabilities by domain index; NaN where they are unknown.
    """

    runs: dict[str, RunFigures]
    test_rows_n: NDArray[np.int64]
    oracle_n: Floats


def read_measured(lake: Lake, run_ids: Sequence[str], domains: int) -> ComparedRuns:
    """Read the figures of finished runs on the same examples, which have `domains` domain indices."""
    ids = list(run_ids)
    found = lake.read("training_runs").where(F.col("run_id").isin(ids)).collect()
    metrics = lake.read("domain_metrics").where(F.col("run_id").isin(ids) & (F.col("split") == "test"))
    table = metrics.select("run_id", "domain", "rows", "auc", "oracle_auc").toArrow()
    run, domain = table["run_id"].to_numpy(), table["domain"].to_numpy()
    auc, oracle = (table[name].cast("float64").fill_null(np.nan).to_numpy() for name in ("auc", "oracle_auc"))
    test_rows_n = np.zeros(domains, dtype=np.int64)
    test_rows_n[domain] = table["rows"].to_numpy()
    oracle_n = np.full(domains, np.nan)
    oracle_n[domain] = oracle
    runs = {}
    for row in found:
        own = run == row["run_id"]
        auc_n = np.full(domains, np.nan)
        auc_n[domain[own]] = auc[own]
        runs[row["run_id"]] = RunFigures(
            run_id=row["run_id"],
            code_version=row["code_version"],
            auc_n=auc_n,
            test_auc=_number(row["test_auc"]),
            weighted_test_auc=_number(row["weighted_test_auc"]),
            val_auc=_number(row["val_auc"]),
            seconds=_number((row["seconds"] or {}).get("ranks")),
            # A lake of an older version may lack these columns.
            overall={name: row.asDict().get(name) for name in OVERALL},
        )
    return ComparedRuns(runs, test_rows_n, oracle_n)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
