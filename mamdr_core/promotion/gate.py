"""gate: measures the challenger and the champion on the same rows and records a decision with its reasons."""

import logging
from datetime import date
from typing import Any

from pyspark.sql import Row, SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.config.promotion import GateSettings
from mamdr_core.lake.champion import day_after, find_champion, find_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion.decisions import Decision, find_decision, is_older, newer_day_serves, record_decision
from mamdr_core.promotion.figures import figures_of, record_domains
from mamdr_core.promotion.judging import Verdict, describe_interval, judge, mean_auc, weighted_auc
from mamdr_core.promotion.measuring import PairedFigures, measure
from mamdr_core.promotion.opening import SPLIT, OpenedModel, days_of_rows, open_challenger, open_champion
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import PluginImportError
from mamdr_core.training.evaluation import check_group
from mamdr_core.training.trained_run import TrainedRun, open_trained

logger = logging.getLogger(__name__)

_EPOCH = date(1970, 1, 1).toordinal()


def decide(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Decide whether a run may be promoted, and record the reasons in gate_decisions and gate_domains.

    A rejection is a result, not an error. A run of an earlier day than the champion is rejected. An earlier decision
    about such a run, or about the champion itself, is kept.

    Returns:
        run_id, champion, passed, reasons, serves (the run in production on the day of the challenger until the
        challenger is promoted; null if there is none), and the figures of gate_decisions.

    Raises:
        MamdrError: unknown run, or its package is missing or damaged.
    """
    lake = Lake(spark, config.lake)
    run = find_run(lake, config.gate.run_id)
    champion = find_champion(lake)
    decision = _decide_without_measuring(lake, run, champion) or _decide_by_measuring(spark, config, run, champion)
    record_decision(lake, decision)
    logger.info("run %s %s", decision.run_id, "passes the gate" if decision.passed else "is stopped by the gate")
    for reason in decision.reasons:
        logger.info("gate: %s", reason)
    on_its_day = find_champion(lake, day_after(run["ds"])) if run["ds"] else champion
    return {**decision.summary(), "serves": on_its_day["run_id"] if on_its_day else None}


def _decide_without_measuring(lake: Lake, run: dict[str, Any], champion: Row | None) -> Decision | None:
    """The recorded or new decision about the champion or a run of an earlier day; None for any other run."""
    if champion is None:
        return None
    serves = champion["run_id"] == run["run_id"]
    if not serves and not is_older(run, champion):
        return None
    before = find_decision(lake, run["run_id"])
    if before:
        return before
    reason = "it already serves" if serves else newer_day_serves(run, champion)
    return Decision(run["run_id"], champion["run_id"], run["ds"], serves, [reason], {})


def _decide_by_measuring(spark: SparkSession, config: Config, run: dict[str, Any], champion: Row | None) -> Decision:
    trained = open_trained(spark, config, run["run_id"], [SPLIT])
    own = open_challenger(trained)
    other, problem = _open_champion(trained, config, champion)
    check_group(own.columns, config.metrics)
    days, place_N = days_of_rows(trained, own.columns.offsets.numpy())
    newest_N = place_N == len(days) - 1
    unseen = {name: (other or own).unseen(name, newest_N) for name in ("user", "item")}
    paired = measure(own, other, newest_N, config.metrics)
    verdict = judge(paired, unseen, config.gate)
    champion_id = champion["run_id"] if champion else None
    record_domains(trained.lake, trained.run_id, champion_id, trained.pinned.domain_ids, paired, verdict)
    reasons = [*(verdict.violations or [_describe_pass(paired, verdict, config.gate)]), *([problem] if problem else [])]
    figures = figures_of(paired, verdict, unseen) | {
        "day": date.fromordinal(_EPOCH + int(days[-1])) if len(days) else None,
        "examples_version": trained.pinned.versions["examples"],
    }
    return Decision(trained.run_id, champion_id, run["ds"], not verdict.violations, reasons, figures)


def _open_champion(trained: TrainedRun, config: Config, champion: Row | None) -> tuple[OpenedModel | None, str]:
    """The champion on the rows of the challenger, or the reason why it cannot be measured."""
    if champion is None:
        return None, ""
    try:
        return open_champion(trained, config, champion["run_id"]), ""
    except PluginImportError:  # the gate runs without the plugin; the champion itself may be intact
        raise
    except MamdrError as error:
        logger.warning("the champion cannot be measured: %s", error)
        return None, f"only the absolute limits were checked, since the champion cannot be measured: {error}"


def _describe_pass(paired: PairedFigures, verdict: Verdict, settings: GateSettings) -> str:
    auc = mean_auc(paired.challenger)
    if paired.champion is None:
        return f"it is within the absolute limits: mean AUC {auc:.4f}; there is no champion to compare with"
    difference = f" ({describe_interval(verdict.mean, settings)})" if verdict.mean else ""
    return (
        f"mean AUC {auc:.4f} against the champion's {mean_auc(paired.champion):.4f}{difference}, weighted "
        f"{weighted_auc(paired.challenger):.4f} against {weighted_auc(paired.champion):.4f}; "
        f"{int(verdict.worse_n.sum())} of {int(verdict.judged_n.sum())} domains are worse"
    )
