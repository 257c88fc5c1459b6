"""Writes facts to the tables from which the report reads them."""

from datetime import UTC, datetime

import numpy as np

from mamdr_core.lake.core.few import local_frame
from schemas import TABLES
from schemas.spark import spark_schema
from tests.reports.example_facts import DAY, row_of

NOTHING = {
    "string": "",
    "int": 0,
    "bigint": 0,
    "double": 0.0,
    "boolean": False,
    "date": DAY,
    "timestamp": datetime(2026, 1, 7, tzinfo=UTC),
    "map<string,double>": {},
    "map<string,bigint>": {},
}


def append(lake, table, rows):
    """Add rows to a table, with something in every column that must not be null."""
    columns = TABLES[table].columns
    lines = [
        tuple(
            NOTHING[column.type] if row.get(column.name) is None and not column.nullable else row.get(column.name)
            for column in columns
        )
        for row in rows
    ]
    lake.append(table, local_frame(lake.spark, lines, spark_schema(TABLES[table])))


def write_facts(lake, facts):
    """Write all that `read_facts` finds."""
    run, joint, before = facts.run, facts.joint, facts.before
    append(lake, "training_runs", [run, joint.run, before.run])
    append(lake, "domain_metrics", _metrics(facts))
    append(lake, "domain_stats", _stats(facts))
    append(lake, "domains", _domains(facts))
    append(lake, "training_curves", facts.curve)
    append(lake, "gate_decisions", [facts.decision])
    append(lake, "gate_domains", facts.judged)
    promoted = {"number": 1, "run_id": before.run["run_id"], "kind": "promote", "ds": before.run["ds"]}
    append(lake, "promotions", [promoted])
    append(lake, "conflicts", facts.conflicts.values())
    append(lake, "domain_conflicts", [row for rows in facts.pairs.values() for row in rows])


def _metrics(facts):
    def plain(value):
        return None if np.isnan(value) else float(value)

    rows = []
    for domain, name in enumerate(facts.ids):
        at = {figure: values[domain] for figure, values in facts.figures.items()}
        of = {"run_id": facts.run["run_id"], "domain": domain, "domain_id": name}
        rows.append(row_of("domain_metrics", **of, split="train", rows=int(at["train_rows"]), clicks=0))
        measured = ("auc", "logloss", "mean_prediction", "oracle_auc", "gauc", "calibration_error")
        test = {figure: plain(at[figure]) for figure in measured}
        of |= {"split": "test", "rows": int(at["rows"]), "clicks": int(at["clicks"])}
        rows.append(row_of("domain_metrics", **of, **test))
        rows += [
            row_of("domain_metrics", **of | {"run_id": other.run["run_id"], "auc": plain(other.auc[domain])})
            for other in (facts.joint, facts.before)
        ]
    return rows


def _domains(facts):
    """The domains, first seen on the first day of the log, but for the new ones of the last day."""
    old = len(facts.ids) - facts.days[-1]["new_domains"]
    return [
        {"id": name, "index": index, "first_seen": facts.days[0 if index < old else -1]["ds"]}
        for index, name in enumerate(facts.ids)
    ]


def _stats(facts):
    """Days whose sums are spread evenly over domains; the new domains of the last day have rows on that day only."""
    rows = []
    for number, day in enumerate(facts.days):
        last = number == len(facts.days) - 1
        names = facts.ids if last else facts.ids[: len(facts.ids) - facts.days[-1]["new_domains"]]
        parts = {
            name: np.diff(np.linspace(0, day[name], len(names) + 1).astype(int)).tolist()
            for name in ("rows", "clicks", "new_users")
        }
        drift = {row["domain"]: row for row in facts.drift} if last else {}
        for place, domain in enumerate(names):
            of = {name: values[place] for name, values in parts.items()}
            ctr = of["clicks"] / of["rows"]
            moved = {name: drift.get(domain, {}).get(name) for name in ("ctr_z", "ctr_difference")}
            rows.append(
                row_of(
                    "domain_stats", ds=day["ds"], domain=domain, **of, ctr=ctr, ctr_low=ctr, ctr_high=ctr,
                    users=of["rows"], items=1, **moved,
                )
            )  # fmt: skip
    return rows
