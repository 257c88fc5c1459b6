"""promote: changes the run in production by appending a row to promotions, unless another job has appended one."""

import logging
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Row, SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.config.promotion import PromoteSettings
from mamdr_core.lake.champion import find_run, resolve_run
from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.retries import TRIES
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion.decisions import find_decision, is_older, newer_day_serves
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.files.metadata import read_metadata

logger = logging.getLogger(__name__)

PREVIOUS = "previous"
"""Value of `promote.rollback` for the run that served before the champion."""


def promote(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Promote a run that has passed the gate, or roll back to a run that has served before.

    Nothing changes for the champion itself, a run of an earlier day than the champion, or a run that has served before,
    so that the task of a day can run again. `promote.force` promotes any run.

    Concurrent jobs are serialised: each one sees the promotions of the others, and the last one decides.

    Returns:
        run_id, promoted (whether anything changed), champion (the run in production now), replaced (the previous
        champion; null if nothing changed), kind, and reason (why nothing changed).

    Raises:
        MamdrError: the gate stopped the run, has not evaluated it, or compared it with another champion; or the run of
            the rollback has never served, or its package is missing or damaged.
    """
    settings = config.promote
    lake = Lake(spark, config.lake)
    run_id = "" if settings.rollback else resolve_run(lake, settings.run_id)
    for number in range(TRIES):
        history = _history(lake)
        target = _rollback_target(lake, history, settings.rollback) if settings.rollback else run_id
        run = find_run(lake, target)
        reason = _unchanged(run, history, settings)
        if reason:
            logger.info("promote: nothing changes: %s", reason)
            champion = history[-1]["run_id"] if history else None
            return _result(settings, target, champion, None, reason)
        check_promotion(lake, run, history, settings)
        if _add(lake, run, history, settings):
            replaced = history[-1]["run_id"] if history else None
            logger.info("promote: run %s now serves; it replaces %s", target, replaced or "no run")
            return _result(settings, target, target, replaced, "")
        time.sleep(random.uniform(0, min(2**number, 20)))
    raise MamdrError(f"{lake.path('promotions')}: other jobs kept promoting runs; run again")


def _history(lake: Lake) -> list[Row]:
    """All promotions in order; the last one is that of the champion."""
    return lake.read("promotions").orderBy("number").collect() if lake.exists("promotions") else []


def _unchanged(run: dict[str, Any], history: Sequence[Row], settings: PromoteSettings) -> str:
    """Why nothing is to be changed; empty if the run is to be promoted."""
    if not history:
        return ""
    champion, run_id = history[-1], run["run_id"]
    if champion["run_id"] == run_id:
        return f"run {run_id} already serves"
    if settings.force or settings.rollback:
        return ""
    if is_older(run, champion):
        return newer_day_serves(run, champion)
    if any(row["run_id"] == run_id for row in history):
        return f"run {run_id} has served before; to roll back to it, use --rollback {run_id}"
    return ""


def check_promotion(lake: Lake, run: dict[str, Any], history: Sequence[Row], settings: PromoteSettings) -> None:
    """Check that the package of the run is intact and that the run passed the gate against the current champion.

    Raises:
        MamdrError: the package is missing or damaged, or the gate has not passed the run against this champion.
    """
    run_id = run["run_id"]
    try:
        read_metadata(str(run["package"]))
    except MamdrError as error:
        others = [other for other in _served(history) if other != run_id]
        hint = f"; other runs that have served: {', '.join(others)}" if settings.rollback else ""
        raise MamdrError(f"promote: run {run_id} cannot serve: {error}{hint}") from None
    if settings.force or settings.rollback:
        return
    decision = find_decision(lake, run_id)
    again = f"spark-submit jobs/gate.py --set gate.run_id={run_id}"
    if decision is None:
        raise MamdrError(f"promote.run_id: the gate has not evaluated run {run_id}: first run {again}")
    if not decision.passed:
        raise MamdrError(
            f"promote.run_id: the gate stopped run {run_id}: {decision.reasons[0]}; promote.force promotes it anyway"
        )
    champion = history[-1]["run_id"] if history else None
    if decision.champion != champion:
        raise MamdrError(
            f"promote.run_id: run {run_id} was compared with {decision.champion or 'no champion'}, and {champion} "
            f"serves now: run {again} again"
        )


def _rollback_target(lake: Lake, history: Sequence[Row], rollback: str) -> str:
    """The run of a rollback: one that has served, by its id, or the one that the champion first replaced."""
    if not history:
        raise MamdrError(f"promote.rollback: no run of {lake.root} has been promoted")
    if rollback != PREVIOUS:
        if rollback not in _served(history):
            known = ", ".join(_served(history))
            raise MamdrError(f"promote.rollback: run {rollback} has never served; these have: {known}")
        return rollback
    champion = history[-1]["run_id"]
    # Not the one that it replaced last: that may be the run from which a rollback returned.
    first = next(row for row in history if row["run_id"] == champion)
    if first["replaced_run_id"] is None:
        raise MamdrError(f"promote.rollback: {champion} is the first run that was promoted; no run served before it")
    return str(first["replaced_run_id"])


def _served(history: Sequence[Row]) -> list[str]:
    """All runs that have served, the champion first."""
    return list(dict.fromkeys(row["run_id"] for row in reversed(history)))


def _add(lake: Lake, run: dict[str, Any], history: Sequence[Row], settings: PromoteSettings) -> bool:
    """Append the row that promotes the run; false if another job has appended a row since `history` was read."""
    values = {
        "number": len(history) + 1,
        "run_id": run["run_id"],
        "replaced_run_id": history[-1]["run_id"] if history else None,
        "kind": "rollback" if settings.rollback else "promote",
        "ds": run["ds"],
        "forced": settings.force,
        "promoted_at": datetime.now(UTC),
    }
    return lake.append_to("promotions", declared_frame(lake.spark, "promotions", [values]), len(history))


def _result(
    settings: PromoteSettings, run_id: str, champion: str | None, replaced: str | None, reason: str
) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "promoted": not reason,
        "champion": champion,
        "replaced": replaced,
        "kind": "rollback" if settings.rollback else "promote",
        "reason": reason or None,
    }
