"""The pages of the report, self-contained HTML files: that of a run, whose only script is allowed by its hash, and that
of a lake, which has no script.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mamdr_core.reports import charts
from mamdr_core.reports.facts import Array, Facts
from mamdr_core.reports.figures import SURE_CLICKS, Difference, calibration, difference, ranked
from mamdr_core.reports.lake_facts import DRIFT_Z, LakeFacts

PAGE = Path(__file__).parent / "page"
MISSING = "–"
_MINUS = str.maketrans("-", "−")


def render(facts: Facts, listed: int) -> str:
    """Render the page of a run, with `listed` domains in each short list."""
    script = (PAGE / "report.js").read_text(encoding="utf-8")
    context = _context(facts, listed) | {
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return _fill("report.html", context)


def render_lake(facts: LakeFacts, root: str) -> str:
    """Render the page of a lake over its last days."""
    by_day = {run["ds"]: run for run in facts.runs if run["status"] == "ok" and run["ds"]}  # the oldest of a day
    by_day |= {run["ds"]: run for run in facts.runs if run["ds"] in by_day and run["promoted"]}
    measured = [by_day[day] for day in sorted(by_day)]
    context = {
        "facts": facts,
        "root": root,
        "log_charts": charts.log_charts(facts.days) if len(facts.days) > 1 else [],
        "run_charts": charts.run_charts(measured) if len(measured) > 1 else {},
        "spent": charts.spent,
        "drift_z": DRIFT_Z,
        "made_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    }
    return _fill("lake.html", context)


def _fill(template: str, context: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "auc": partial(shown, form=".4f"),
        "signed": partial(shown, form="+.4f"),
        "ratio": partial(shown, form=".3f"),
        "times": partial(shown, form=".2f"),
        "z": partial(shown, form="+.1f"),
        "percent": partial(shown, form=".2%"),
        "count": partial(shown, form=",.0f"),
    }
    style = Markup((PAGE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(**context, style=style)


def shown(value: float | None, form: str) -> str:
    """A figure as text; a dash if it is unknown.

    Example:
        >>> shown(-0.00123, "+.4f")
        '−0.0012'
    """
    if value is None or math.isnan(value):
        return MISSING
    return format(value, form).translate(_MINUS)


def embedded(value: Any) -> Markup:
    """JSON escaped for use inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _context(facts: Facts, listed: int) -> dict[str, Any]:
    figures = facts.figures
    joint = difference(facts.joint, figures["rows"]) if facts.joint else None
    before = difference(facts.before, figures["rows"]) if facts.before else None
    worst, best, sure = ranked(figures, listed)
    ratio = calibration(figures)
    table = table_of(facts, joint, before)

    def lines(places: Any) -> list[dict[str, Any]]:
        names = ("train_rows", "rows", "clicks", "auc", "oracle_auc")
        return [
            {"id": facts.ids[place], "calibration": ratio[place]} | {name: figures[name][place] for name in names}
            for place in places
        ]

    return {
        "facts": facts,
        "run": facts.run,
        "measured": int((figures["auc"] == figures["auc"]).sum()),
        "joint": joint,
        "before": before,
        "before_name": _name_before(facts),
        "total_calibration": _total_calibration(facts),
        "cutoff": max(facts.run["test_ndcg"] or (), key=int, default=""),
        "worst": lines(worst),
        "best": lines(best),
        "sure": sure,
        "sure_clicks": SURE_CLICKS,
        "worse_domains": [row for row in facts.judged if row["worse"]][:listed],
        "log_charts": charts.log_charts(facts.days) if facts.days else [],
        "curve_chart": charts.curve_chart(facts.curve),
        "size_chart": charts.auc_by_size(figures, facts.ids),
        "joint_chart": joint and charts.difference_chart(joint, figures["train_rows"], "joint", facts.ids, "vs joint"),
        "before_chart": before
        and charts.difference_chart(before, figures["train_rows"], _name_before(facts), facts.ids, "vs before"),
        "calibration_chart": charts.calibration_chart(figures, facts.ids),
        "conflict_charts": charts.conflict_charts(facts.pairs) if facts.pairs else {},
        "time_chart": charts.time_chart(facts.run["seconds"]),
        "variance_chart": charts.variance_chart(facts.run["variances"], listed),
        "made_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "table": embedded(table),
        "columns": table["columns"],
    }


def table_of(facts: Facts, joint: Difference | None, before: Difference | None) -> dict[str, Any]:
    """The table of all domains, which the script of the page renders; columns without any figure are left out.

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


def _name_before(facts: Facts) -> str:
    if facts.before is None:
        return ""
    champion = (facts.decision or {}).get("champion_run_id")
    return "the champion" if facts.before.run["run_id"] == champion else "the previous run"


def _total_calibration(facts: Facts) -> float:
    """Sum of predictions divided by clicks over all domains."""
    figures = facts.figures
    known = figures["mean_prediction"] == figures["mean_prediction"]
    clicks = float(figures["clicks"][known].sum())
    return float((figures["mean_prediction"] * figures["rows"])[known].sum()) / clicks if clicks else math.nan
