"""What a build has to encode: all clicks or, where the one before it went as far, the loads that came since.

A build notes with its commit which version of clicks it read, up to which day, and what its rows depend on;
ingest_clicks notes with its own which load it brought and what it replaced. So two logs tell what is new, without a
query.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from mamdr_core.config import Config
from mamdr_core.lake.log import read_note
from mamdr_core.lake.settings import ExamplesSettings
from mamdr_core.lake.tables import Lake

STATE = "state"
"""In a build's note: number (of the build), built_with, until, newest (day), shards, and knows_users (whether every
user of the clicks that it read has an index, and so a first day)."""
NO_EXAMPLES = "there are no examples yet"
_SAME_ROWS = {"OPTIMIZE", "SET TBLPROPERTIES", "VACUUM START", "VACUUM END", "ADD CONSTRAINT", "DROP CONSTRAINT"}
MERGED, EXPIRED = "merged", "expired"
"""In a commit's note: it wrote rows anew that were there; it removed days from clicks and examples alike."""
_FORGOTTEN = "forget_users"
"""A job that removes rows from clicks and examples alike."""


@dataclass(frozen=True)
class Increment:
    """What a build adds to the examples, and what it takes away from them first.

    Attributes:
        number: of the build, higher than those of all earlier ones.
        reason: why all clicks are encoded and all rows replaced; empty: only what is new.
        before: the note of the last build; empty where there is none of use.
        wanted: condition of the clicks to encode.
        replaced: condition of the examples to take away; empty: none. None: all.
    """

    number: int
    reason: str
    before: dict[str, Any]
    wanted: Column = field(default_factory=lambda: F.lit(True))
    replaced: str | None = None

    @property
    def is_first(self) -> bool:
        """Whether there are no examples yet."""
        return self.reason == NO_EXAMPLES

    @property
    def state(self) -> dict[str, Any]:
        """What the last build noted of itself, where its rows are kept; empty otherwise."""
        return {} if self.reason else dict(self.before[STATE])


@dataclass
class _Changes:
    """Loads that came or were replaced, and days of which all rows were."""

    loads: set[int] = field(default_factory=set)
    replaced: set[int] = field(default_factory=set)
    replaced_days: set[str] = field(default_factory=set)
    whole_days: set[str] = field(default_factory=set)

    def add(self, note: dict[str, Any], replaces: bool) -> None:
        """Take in what ingest_clicks noted."""
        self.loads.add(note["load"])
        if replaces:
            self.replaced.add(note["load"])
            self.replaced_days.update(note["days"])
        if note["whole_days"]:
            self.whole_days.update(note["days"])


def load_note(load: int, days: Collection[date | None], replaces: bool, whole_days: bool) -> dict[str, Any]:
    """What ingest_clicks notes with its commit of clicks.

    Args:
        load: its number.
        days: with rows of the load, before or after.
        replaces: whether clicks held rows of the load before.
        whole_days: whether all rows of the days were replaced, whoever filed them.
    """
    named = sorted(day.isoformat() for day in days if day)
    return {"load": load, "days": named, "replaces": replaces, "whole_days": whole_days}


def find_increment(lake: Lake, config: Config, clicks_version: int) -> Increment:
    """What the next build of the examples has to do, from that version of clicks."""
    last, changes = last_build(lake), _Changes()
    reason = (
        last.reason
        or _reason_in_settings(last.note[STATE]["built_with"], config)
        or _collect(lake, last.note["clicks_version"], clicks_version, changes)
    )
    if reason:
        return Increment(last.number + 1, reason, last.note)
    conditions = _conditions(changes, last.note[STATE]["until"], config.examples)
    return Increment(last.number + 1, "", last.note, *conditions)


def built_with(config: Config) -> dict[str, Any]:
    """What the rows of examples depend on, by configuration key, as JSON holds it."""
    settings = config.examples
    split = {"moves": True} if settings.split.moves else asdict(settings.split)
    found = {
        "features": [[f.name, f.kind, f.buckets] for f in config.features if f.kind != "vector"],
        "examples.split": split,
        "examples.negatives": settings.negatives.kind,
        "examples.seed": settings.seed,
        "examples.users.buckets": settings.users.buckets,
        "examples.items.buckets": settings.items.buckets,
        "examples.retired": sorted(settings.retired),
        "examples.since": settings.since,
        "examples.shards.count": settings.shards.count,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


@dataclass(frozen=True)
class LastBuild:
    """The build that examples hold: its note, and why that is of no use, if so; `number`: the greatest one given."""

    number: int
    note: dict[str, Any]
    reason: str


def last_build(lake: Lake) -> LastBuild:
    """The last build of the examples, from the log."""
    number, note, reason = 0, None, NO_EXAMPLES
    for version, commit in lake.log("examples").commits():
        found, operation = read_note(commit.get("userMetadata")), commit.get("operation", "")
        number = max(number, found.get(STATE, {}).get("number", 0))
        if _needs_no_encoding(operation, found):
            continue
        if note is None:
            note = found
            reason = "" if STATE in found else f"version {version} of examples does not say what it was built from"
        if number and operation != "RESTORE":
            break  # what was taken back has a greater number than what was restored; no older commit has
    return LastBuild(number, note or {}, reason)


def _reason_in_settings(before: dict[str, Any], config: Config) -> str:
    if config.examples.rebuild:
        return "examples.rebuild is set"
    if config.examples.negatives.kind == "in_domain":
        return "a negative of in_domain depends on all clicks of its user and domain"
    now = built_with(config)
    changed = [key for key, value in now.items() if before.get(key) != value]
    return f"{', '.join(changed)} changed" if changed else ""


def _collect(lake: Lake, after: int, to: int, changes: _Changes) -> str:
    """Gather what happened to clicks between two versions; a reason where that cannot be told."""
    log = lake.log("clicks")
    for version, commit in log.commits_after(after):
        if version > to:
            break
        note, operation = read_note(commit.get("userMetadata")), commit.get("operation", "")
        if _needs_no_encoding(operation, note):
            continue
        if "load" not in note:
            return f"version {version} of clicks ({operation or 'its log is gone'}) does not say which load it changed"
        restored = operation == "RESTORE"
        if restored:  # of a load whose publication failed: its rows of before are back, which were built from or not
            taken_back = read_note(log.commit(version - 1).get("userMetadata"))
            if "load" in taken_back:
                changes.add(taken_back, replaces=True)
        changes.add(note, replaces=note["replaces"] or restored)
    return ""


def _needs_no_encoding(operation: str, note: dict[str, Any]) -> bool:
    return operation in _SAME_ROWS or not {MERGED, EXPIRED}.isdisjoint(note) or note.get("job") == _FORGOTTEN


def _conditions(changes: _Changes, until: str | None, settings: ExamplesSettings) -> tuple[Column, str]:
    """Conditions of the clicks to encode, and of the examples to take away."""
    wanted = F.col("load").isin(sorted(changes.loads))
    parts = []
    if changes.replaced and changes.replaced_days:
        loads = ", ".join(map(str, sorted(changes.replaced)))
        first, last = min(changes.replaced_days), max(changes.replaced_days)
        parts.append(f"(load IN ({loads}) AND ds BETWEEN DATE'{first}' AND DATE'{last}')")
    if changes.whole_days:
        wanted |= F.col("ds").isin([date.fromisoformat(day) for day in changes.whole_days])
        listed = ", ".join(f"DATE'{day}'" for day in sorted(changes.whole_days))
        parts.append(f"ds IN ({listed})")
    if until and (settings.until is None or settings.until.isoformat() > until):
        wanted |= F.col("ds") > date.fromisoformat(until)  # of loads that were encoded up to then
    if settings.until and (until is None or settings.until.isoformat() < until):
        parts.append(f"ds > DATE'{settings.until.isoformat()}'")
    return wanted, " OR ".join(parts)
