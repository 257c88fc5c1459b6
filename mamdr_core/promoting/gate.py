"""gate: the challenger is measured beside the champion on the same rows, and a decision is written with its reasons."""

import logging
from datetime import date
from typing import Any

from pyspark.sql import Row, SparkSession

from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.champion import day_after, find_champion
from mamdr_core.lake.core.tables import Lake
from mamdr_core.plugins import PluginImportError
from mamdr_core.promoting.decisions import Decision, figures_of, find_decision, record_decision, record_domains
from mamdr_core.promoting.intervals import Ints
from mamdr_core.promoting.judging import Judged, judge, mean_auc, told, weighted_auc
from mamdr_core.promoting.measuring import Measured, measure
from mamdr_core.promoting.opening import Scorer, days_of_rows, open_challenger, open_champion
from mamdr_core.promoting.settings import GateSettings
from mamdr_core.training.evaluation import check_group
from mamdr_core.training.records import find_run
from mamdr_core.training.trained import Trained, open_trained

logger = logging.getLogger(__name__)

_EPOCH = date(1970, 1, 1).toordinal()


def decide(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Decide whether a run may be promoted, and write why to gate_decisions and gate_domains.

    That it may not is a result like another. A run of an earlier day than the champion's is stopped, and what was
    decided about it before stays; so does what was decided about the champion itself.

    Returns:
        run_id, champion, passed, reasons, serves (the run that serves on the challenger's day as long as that is not
        promoted; null: none), and the figures of gate_decisions.

    Raises:
        MamdrError: no such run, or its package is gone or damaged.
    """
    lake = Lake(spark, config.lake)
    run = find_run(lake, config.gate.run_id)
    champion = find_champion(lake)
    decision = _without_measuring(lake, run, champion) or _by_measuring(spark, config, run, champion)
    record_decision(spark, lake, decision)
    logger.info("run %s %s", decision.run_id, "passes the gate" if decision.passed else "is stopped")
    for reason in decision.reasons:
        logger.info("gate: %s", reason)
    on_its_day = find_champion(lake, day_after(run["ds"])) if run["ds"] else champion
    return {**decision.told(), "serves": on_its_day["run_id"] if on_its_day else None}


def is_older(run: dict[str, Any], champion: Row) -> bool:
    """Whether a run's day is before the champion's, where both have one."""
    return run["ds"] is not None and champion["ds"] is not None and run["ds"] < champion["ds"]


def _without_measuring(lake: Lake, run: dict[str, Any], champion: Row | None) -> Decision | None:
    """What needs no measuring: the champion itself, and a run of an earlier day; what was decided before stays."""
    if champion is None:
        return None
    serves = champion["run_id"] == run["run_id"]
    if not serves and not is_older(run, champion):
        return None
    before = find_decision(lake, run["run_id"])
    if before:
        return before
    reason = "it serves already" if serves else _newer_serves(run, champion)
    return Decision(run["run_id"], champion["run_id"], run["ds"], serves, [reason], {})


def _newer_serves(run: dict[str, Any], champion: Row) -> str:
    return f"a newer day serves: the champion {champion['run_id']} is of {champion['ds']}, this run of {run['ds']}"


def _by_measuring(spark: SparkSession, config: Config, run: dict[str, Any], champion: Row | None) -> Decision:
    trained = open_trained(spark, config, run["run_id"])
    own = open_challenger(trained)
    other, absent = _champions_scorer(trained, config, champion)
    check_group(own.columns, config.metrics)
    days, place_N = days_of_rows(trained, own.columns.offsets.numpy())
    newest_N = place_N == len(days) - 1
    unseen = {name: (other or own).unseen(name, newest_N) for name in ("user", "item")}
    measured = measure(own, other, newest_N, config.metrics)
    judged = judge(measured, unseen, config.gate)
    champion_id = champion["run_id"] if champion else None
    record_domains(spark, trained.lake, trained.run_id, champion_id, trained.pinned.domain_ids, measured, judged)
    reasons = [*(judged.faults or [_in_favour(measured, judged, config.gate)]), *([absent] if absent else [])]
    figures = figures_of(measured, judged, unseen) | {
        "day": _newest(days),
        "examples_version": trained.pinned.versions["examples"],
    }
    return Decision(trained.run_id, champion_id, run["ds"], not judged.faults, reasons, figures)


def _champions_scorer(trained: Trained, config: Config, champion: Row | None) -> tuple[Scorer | None, str]:
    """The champion on the challenger's rows, or why it cannot be measured."""
    if champion is None:
        return None, ""
    try:
        return open_champion(trained, config, champion["run_id"]), ""
    except PluginImportError:  # the gate was started without it: the champion itself may be whole
        raise
    except MamdrError as error:
        logger.warning("the champion cannot be measured: %s", error)
        return None, f"it was held against the absolute limits alone: the champion cannot be measured: {error}"


def _in_favour(measured: Measured, judged: Judged, settings: GateSettings) -> str:
    auc = mean_auc(measured.challenger)
    if measured.champion is None:
        return f"it holds the absolute limits: mean AUC {auc:.4f}; it was compared with no champion"
    difference = f" ({told(judged.mean, settings)})" if judged.mean else ""
    return (
        f"mean AUC {auc:.4f} against the champion's {mean_auc(measured.champion):.4f}{difference}, weighted "
        f"{weighted_auc(measured.challenger):.4f} against {weighted_auc(measured.champion):.4f}; "
        f"{int(judged.worse_n.sum())} of {int(judged.judged_n.sum())} domains are worse"
    )


def _newest(days: Ints) -> date | None:
    return date.fromordinal(_EPOCH + int(days[-1])) if len(days) else None
