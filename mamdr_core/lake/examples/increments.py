"""Finds what a build has to encode: the loads since the last build or, if that is not sufficient, all clicks.

The note of a build's commit contains the version of clicks that it read, its last day, and what its rows depend on; the
note of a commit by ingest_clicks contains its load. So two Delta logs show what is new, without a query.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import reduce
from operator import and_
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.config.lake import ExamplesSettings
from mamdr_core.lake.core.log import Log, read_note, restored_version
from mamdr_core.lake.core.notes import EXPIRED, INCOMPLETE, MERGED, RESTORED
from mamdr_core.lake.core.tables import Lake

STATE = "state"
"""Key of a build's note: number (of the build), built_with, until, newest (day), shards, clicks_id (Delta's id of the
table), and knows_users (whether every user of the clicks that it read has an index, and so a first day)."""
_SAME_ROWS = {
    *("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", "UPGRADE PROTOCOL"),
    *("ADD CONSTRAINT", "DROP CONSTRAINT", "ADD COLUMNS", "CHANGE COLUMN"),
}
"""Operations of Delta that change no rows."""
MOST_INEQUALITIES = 64
_FORGET = "forget_users"
"""A job that removes the same rows from clicks and examples."""
_IN_DOMAIN = "a negative of in_domain depends on all clicks of its user and domain"
_WANTED, _NO_EXAMPLES = "examples.rebuild is set", "there are no examples yet"


@dataclass(frozen=True)
class Increment:
    """What a build adds to the examples, and what it removes from them.

    Attributes:
        number: number of the build, higher than those of all earlier builds.
        reason: why all clicks are encoded and all rows replaced; empty: only new clicks are encoded.
        before: note of the last build; empty if there is no usable one.
        wanted: disjoint conditions of the clicks to encode; empty: no clicks. They are separate, because Delta skips no
            files by a disjunction of a partition column and a column with statistics.
        replaced: condition of the examples to remove; empty: none; None: all.
        base: version of the examples to which this applies.
        counted_by: the build whose stored counts are valid for that version; empty: none.
    """

    number: int
    reason: str
    before: dict[str, Any]
    wanted: tuple[Column, ...] = field(default_factory=lambda: (F.lit(True),))
    replaced: str | None = None
    base: int = -1
    counted_by: str = ""

    @property
    def is_expected(self) -> bool:
        """Whether encoding all clicks needs no warning: the settings require it, or there are no examples yet."""
        return not self.reason or self.reason in (_WANTED, _IN_DOMAIN, _NO_EXAMPLES)

    @property
    def is_wanted(self) -> bool:
        """Whether all clicks are encoded because `examples.rebuild` is set."""
        return self.reason == _WANTED

    @property
    def state(self) -> dict[str, Any]:
        """The state in the note of the last build if its rows are kept; empty otherwise."""
        return {} if self.reason else dict(self.before[STATE])


@dataclass
class Changes:
    """Changes of clicks between two versions.

    Attributes:
        reason: why the changes are unknown; empty: they are known.
        loads: loads with new rows.
        replaced: those of them that replaced rows.
        whole_days: days on which the rows of all loads were replaced.
    """

    reason: str = ""
    loads: set[int] = field(default_factory=set)
    replaced: set[int] = field(default_factory=set)
    whole_days: set[str] = field(default_factory=set)

    def add(self, note: dict[str, Any], replaces: bool) -> None:
        """Add a commit of ingest_clicks."""
        if RESTORED in note:
            self.loads.update(note[RESTORED])
            self.replaced.update(note[RESTORED])
            return
        self.loads.add(note["load"])
        if replaces:
            self.replaced.add(note["load"])
        self.whole_days.update(note["whole_days"])


def find_increment(lake: Lake, config: Config, clicks_version: int) -> Increment:
    """What the next build has to do to bring the examples to a version of clicks."""
    base = lake.newest("examples")
    last = last_build(lake.log("examples"), base)
    reason = last.reason or _reason_in_settings(last.note[STATE]["built_with"], config)
    if not reason and lake.log("clicks").table_id() != last.note[STATE]["clicks_id"]:
        reason = "clicks is another table than before"
    if reason:
        return Increment(last.number + 1, reason, last.note, base=base)
    changes = find_changes(lake.log("clicks"), last.note["clicks_version"], clicks_version)
    if changes.reason:
        return Increment(last.number + 1, changes.reason, last.note, base=base)
    wanted, replaced = _conditions(changes, last.note[STATE]["until"], config.examples)
    return Increment(last.number + 1, "", last.note, wanted, replaced, base, last.counted_by)


def built_with(config: Config) -> dict[str, Any]:
    """The settings on which the rows of examples depend, by config key, as JSON values."""
    settings = config.examples
    split = {"moves": True} if settings.split.moves else asdict(settings.split)
    found = {
        "features": [_identity(feature) for feature in config.features if feature.kind != "vector"],
        "examples.split": split,
        "examples.negatives": settings.negatives.kind,
        "examples.seed": settings.seed,
        "examples.users.buckets": settings.users.buckets,
        "examples.items.buckets": settings.items.buckets,
        "examples.retired": sorted(settings.retired),
        "examples.since": settings.since,
        "examples.shards.count": settings.shards.count,
    }
    if config.input.columns.weight:  # builds of earlier versions have no such key
        found["input.columns.weight"] = True
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _identity(feature: Feature) -> list[Any]:
    """The parts of a feature's declaration that decide its values in examples."""
    found: list[Any] = [feature.name, feature.kind, feature.buckets]
    if feature.has_several_ids:
        found += [feature.length, feature.table, bool(feature.weights)]
        found += [feature.history_days] if feature.history else []
    return [*found, feature.quantiles] if feature.quantiles else found


@dataclass(frozen=True)
class LastBuild:
    """The build that wrote the current rows of examples.

    Attributes:
        number: the highest number of all builds, including undone ones.
        note: note of the build's commit.
        reason: why the note is unusable; empty: it is usable.
        counted_by: the build's unique name if no rows have been removed since; empty otherwise.
    """

    number: int
    note: dict[str, Any]
    reason: str
    counted_by: str = ""


def last_build(log: Log, at: int | None = None) -> LastBuild:
    """The last build of a version of the examples (None: the newest), from their log."""
    number, same_rows = _greatest_number(log, at), True
    for version, commit in log.lineage(at):
        note = read_note(commit.get("userMetadata"))
        if _changes_no_row(commit, note):
            same_rows = same_rows and not _removes_alike(note)
            continue
        reason = (
            "" if STATE in note else f"version {version} of examples was not written by a build that noted its state"
        )
        return LastBuild(number, note, reason, note.get("build", "") if same_rows else "")
    return LastBuild(number, {}, _NO_EXAMPLES)


def _greatest_number(log: Log, at: int | None) -> int:
    """The highest number of a build up to a version, including undone builds.

    Later versions do not count: a build must not get a number above that of a build whose rows it has not read.
    """
    numbers = (read_note(commit.get("userMetadata")).get(STATE, {}).get("number") for _, commit in log.commits(at))
    return next((int(number) for number in numbers if number is not None), 0)


def _reason_in_settings(before: dict[str, Any], config: Config) -> str:
    if config.examples.rebuild:
        return _WANTED
    now = built_with(config)
    changed = [key for key in [*now, *sorted(before.keys() - now.keys())] if before.get(key) != now.get(key)]
    if changed:
        return f"{', '.join(changed)} changed"
    return _IN_DOMAIN if config.examples.negatives.kind == "in_domain" else ""


def find_changes(log: Log, after: int, to: int) -> Changes:
    """The changes of clicks between two versions, from their log."""
    if to < after:
        return Changes(f"examples were built from version {after} of clicks, and this is version {to}")
    changes = Changes()
    for version, commit, was_read in _lasting(log, after, to):
        note = read_note(commit.get("userMetadata"))
        if INCOMPLETE in note:
            return Changes(f"version {version} of clicks removed rows of users without an index")
        if _changes_no_row(commit, note):
            continue
        if not {"load", RESTORED} & note.keys():
            what = commit.get("operation", "its log was deleted")
            return Changes(f"version {version} of clicks ({what}) was not written by a load")
        # From Delta's metrics, because clicks may have changed while the load was counted.
        removed = int(commit.get("operationMetrics", {}).get("numRemovedFiles", 0))
        changes.add(note, replaces=was_read or removed > 0)
    return changes


def _lasting(log: Log, after: int, to: int) -> list[tuple[int, dict[str, Any], bool]]:
    """The commits after a version that were not undone, and earlier commits that were undone since.

    Returns:
        Version, commitInfo, and whether the commit is an earlier one, which the last build has read.
    """
    lasting: list[tuple[int, dict[str, Any], bool]] = []
    for version in range(after + 1, to + 1):
        commit = log.commit(version)
        restored = restored_version(commit)
        if restored is None:
            lasting.append((version, commit, False))
            continue
        lasting = [entry for entry in lasting if entry[0] <= restored or entry[2]]
        lasting += [(read, log.commit(read), True) for read in range(restored + 1, after + 1)]
    return lasting


def _changes_no_row(commit: dict[str, Any], note: dict[str, Any]) -> bool:
    """Whether a commit changes no rows, or removes the same rows from clicks and examples."""
    return MERGED in note or _removes_alike(note) or commit.get("operation") in _SAME_ROWS


def _removes_alike(note: dict[str, Any]) -> bool:
    return EXPIRED in note or note.get("job") == _FORGET


def _conditions(changes: Changes, until: str | None, settings: ExamplesSettings) -> tuple[tuple[Column, ...], str]:
    """Conditions of the clicks to encode, and of the examples to remove."""
    parts, days = [], F.lit(False)
    if changes.replaced:
        parts.append(f"load IN ({', '.join(map(str, sorted(changes.replaced)))})")
    if changes.whole_days:
        days |= F.col("ds").isin([date.fromisoformat(day) for day in changes.whole_days])
        listed = ", ".join(f"DATE'{day}'" for day in sorted(changes.whole_days))
        parts.append(f"ds IN ({listed})")
    is_extended = bool(until) and (settings.until is None or settings.until.isoformat() > str(until))
    if is_extended:
        days |= F.col("ds") > date.fromisoformat(str(until))  # of loads that have been encoded up to that day
    if settings.until and (until is None or settings.until.isoformat() < until):
        parts.append(f"ds > DATE'{settings.until.isoformat()}'")
    wanted = [F.col("load").isin(sorted(changes.loads))] if changes.loads else []
    if changes.whole_days or is_extended:
        wanted.append(days & (F.col("load").isNull() | _not_in(changes.loads)))
    return tuple(wanted), " OR ".join(parts)


def _not_in(loads: set[int]) -> Column:
    """Condition of the clicks of other loads; as a short conjunction of inequalities it lets files be skipped."""
    if len(loads) > MOST_INEQUALITIES:
        return ~F.col("load").isin(sorted(loads))
    return reduce(and_, (F.col("load") != load for load in sorted(loads)), F.lit(True))
