"""Selects the declared rules that apply to a log, with conditions derived from its settings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from mamdr_core.config.features import Feature
from mamdr_core.config.lake import InputSettings
from mamdr_core.lake.ingest.clicks import MALFORMED, UNREADABLE
from schemas import TABLES, Rule, feature_rules
from schemas.clicks import (
    EVENT_TIME_PRESENT,
    IDS_READABLE,
    IDS_SHORT,
    NOT_ANCIENT,
    NOT_FUTURE,
    RECORD_WELL_FORMED,
    SPLIT_KNOWN,
    WEIGHT_VALID,
)

CLOCKS_AHEAD = timedelta(days=1)


def rules_for(settings: InputSettings, features: Sequence[Feature], started_at: datetime) -> tuple[Rule, ...]:
    """The rules that apply to single rows, in the order in which they are checked.

    Args:
        features: the declared features; numeric features and bags with weights add rules.
        started_at: start of the job (UTC), for `input.latest`.
    """
    return (*_of_clicks(settings, started_at), *feature_rules(features, UNREADABLE))


def _of_clicks(settings: InputSettings, started_at: datetime) -> Iterator[Rule]:
    limits = {
        RECORD_WELL_FORMED: f"{MALFORMED} IS NULL",
        NOT_ANCIENT: f"event_time >= TIMESTAMP'{settings.earliest.isoformat()} 00:00:00+00:00'",
        NOT_FUTURE: f"event_time < {_latest(settings, started_at)}",
    }
    applies = {RECORD_WELL_FORMED, IDS_SHORT, IDS_READABLE}
    if settings.columns.split:
        applies.add(SPLIT_KNOWN)
    if settings.columns.weight:
        applies.add(WEIGHT_VALID)
    if settings.columns.event_time:
        applies |= {EVENT_TIME_PRESENT, NOT_ANCIENT, NOT_FUTURE}
    for rule in TABLES["clicks"].rules:
        if rule.enforced or rule in applies:
            yield replace(rule, condition_sql=limits.get(rule, rule.condition_sql))


def _latest(settings: InputSettings, started_at: datetime) -> str:
    if settings.latest:
        return f"TIMESTAMP'{(settings.latest + timedelta(days=1)).isoformat()} 00:00:00+00:00'"
    return f"TIMESTAMP'{(started_at + CLOCKS_AHEAD).isoformat(sep=' ')}'"
