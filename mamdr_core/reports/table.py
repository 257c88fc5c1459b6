"""The table of all domains as compact JSON: one list of integers per column, which the script of the page renders."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mamdr_core.reports.facts import Array, Facts
from mamdr_core.reports.figures import Difference, calibration


def table_of(facts: Facts, joint: Difference | None, before: Difference | None) -> dict[str, Any]:
    """Columns of the table; columns without any figure are left out.

    Returns:
        ids, and columns: each with label, title, kind (count, decimal, signed or percent), digits, and values times
        10^digits or null.
    """
    figures = facts.figures
    rows = np.where(figures["rows"] > 0, figures["rows"], np.nan)
    columns = [
        _column("train rows", "rows of the train split", "count", 0, figures["train_rows"]),
        _column("test rows", "rows of the test split", "count", 0, figures["rows"]),
        _column("CTR", "clicks over rows of the test split", "percent", 2, figures["clicks"] / rows * 100),
        _column("AUC", "exact AUC on the test split", "decimal", 4, figures["auc"]),
        _column("vs joint", "AUC minus that of joint training", "signed", 4, joint.by_domain if joint else None),
        _column("vs before", "AUC minus that of the previous run", "signed", 4, before.by_domain if before else None),
        _column("oracle", "AUC of the true probabilities", "decimal", 4, figures["oracle_auc"]),
        _column("GAUC", "AUC by user, weighted by their rows", "decimal", 4, figures["gauc"]),
        _column("calibration", "mean prediction over CTR (PCOC)", "decimal", 2, calibration(figures)),
        _column("ECE", "expected calibration error", "decimal", 4, figures["calibration_error"]),
        _column("logloss", "mean negative log-likelihood on the test split", "decimal", 4, figures["logloss"]),
    ]
    return {"ids": list(facts.ids), "columns": [column for column in columns if column]}


def _column(label: str, title: str, kind: str, digits: int, values: Array | None) -> dict[str, Any] | None:
    if values is None or np.isnan(values).all():
        return None
    return {"label": label, "title": title, "kind": kind, "digits": digits, "values": _whole(values * 10**digits)}


def _whole(values: Array) -> Sequence[int | None]:
    return [None if value != value else round(value) for value in values.tolist()]
