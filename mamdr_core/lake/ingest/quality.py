"""The quality check of a load as a whole, before it is published."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta

from mamdr_core.config.lake import QualitySettings
from mamdr_core.lake.core.listing import list_first
from mamdr_core.lake.ingest.load_counts import LoadCounts
from schemas.clicks import EVENT_TIME_PRESENT, NEW_EVENT, UNIQUE_EVENT

WEEK = 7


def failed_checks(
    counts: LoadCounts,
    settings: QualitySettings,
    has_label: bool,
    others: Mapping[date, int],
    shared_days: bool,
    vanished: Mapping[date, int],
    explain_times: Callable[[], str] = str,
) -> list[str]:
    """Descriptions of the failed checks, with figures and settings; empty if the load may be published.

    Args:
        has_label: whether the log distinguishes impressions from clicks.
        others: rows of other loads by day, from a week before the load's first day to its last day.
        shared_days: whether other loads' rows on the load's days are kept.
        vanished: rows by day of days on which clicks has rows of the load, and the log has none.
        explain_times: returns a hint for the case that the times of most rejected rows cannot be read.
    """
    if not counts.rows_in:
        return ["it holds no rows"]
    if not counts.valid:
        return [f"it holds no valid row; rows failed {_rules(counts)}; see input.columns{_hint(counts, explain_times)}"]
    checks = (
        _check_rejected(counts, settings, explain_times),
        _check_ctr(counts, settings) if has_label else iter(()),
        _check_rows(counts, settings, others, shared_days),
        _check_vanished(settings, vanished),
    )
    return [failure for check in checks for failure in check]


def _check_rejected(counts: LoadCounts, settings: QualitySettings, explain_times: Callable[[], str]) -> Iterator[str]:
    # One of several equal events is kept, so rejecting the others loses nothing.
    lost = counts.rejected - counts.by_rule.get(UNIQUE_EVENT.name, 0)
    share = lost / counts.rows_in
    if share > settings.max_rejected:
        yield (
            f"{lost} of {counts.rows_in} rows ({share:.2%}) are rejected, more than quality.max_rejected "
            f"{settings.max_rejected:g}: {_rules(counts)}{_hint(counts, explain_times)}"
        )


def _check_ctr(counts: LoadCounts, settings: QualitySettings) -> Iterator[str]:
    ctr = counts.clicks / counts.valid
    figures = f"the CTR {ctr:.4g} ({counts.clicks} of {counts.valid})"
    if ctr < settings.min_ctr:
        yield f"{figures} is below quality.min_ctr {settings.min_ctr:g}"
    if ctr > settings.max_ctr:
        yield f"{figures} is above quality.max_ctr {settings.max_ctr:g}"


def _check_rows(
    counts: LoadCounts, settings: QualitySettings, others: Mapping[date, int], shared_days: bool
) -> Iterator[str]:
    valid = counts.valid_by_day
    whole = settings.min_rows_ratio * max(valid.values())
    few, many = [], []
    for day, brought in valid.items():
        before = [others[day - timedelta(days=n)] for n in range(1, WEEK + 1) if day - timedelta(days=n) in others]
        if not before:
            continue
        rows, mean = brought + (others.get(day, 0) if shared_days else 0), sum(before) / len(before)
        figures = f"{day} {rows} ({rows / mean:.3g} of {mean:.6g})"
        if brought >= whole and rows < settings.min_rows_ratio * mean:
            few.append(figures)
        if settings.max_rows_ratio and rows > settings.max_rows_ratio * mean:
            many.append(figures)
    what = "rows against the mean of the days of the week before"
    if few:
        yield f"too few {what}, quality.min_rows_ratio {settings.min_rows_ratio:g}: {list_first(few)}"
    if many:
        yield f"too many {what}, quality.max_rows_ratio {settings.max_rows_ratio:g}: {list_first(many)}"


def _check_vanished(settings: QualitySettings, vanished: Mapping[date, int]) -> Iterator[str]:
    if len(vanished) > settings.max_vanished_days:
        days = list_first([f"{day} {rows}" for day, rows in sorted(vanished.items())])
        yield (
            f"{len(vanished)} days that this path had before are missing, more than quality.max_vanished_days "
            f"{settings.max_vanished_days}, and their rows would be removed: {days}; load each day from its own path"
        )


def _rules(counts: LoadCounts) -> str:
    return ", ".join(f"{rule} {rows}" for rule, rows in counts.by_rule.items())


def _hint(counts: LoadCounts, explain_times: Callable[[], str]) -> str:
    if 2 * counts.by_rule.get(NEW_EVENT.name, 0) >= counts.rejected:
        return "; most are in clicks already, from other loads: to replace their days, set input.replace=days"
    return explain_times() if 2 * counts.by_rule.get(EVENT_TIME_PRESENT.name, 0) >= counts.rejected else ""
