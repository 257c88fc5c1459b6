"""compare_methods on the driver: trials on one pinned version of the examples, then the table of results."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.experiments.comparison import Entry, compare
from mamdr_core.experiments.measured import read_measured
from mamdr_core.experiments.report import latex, markdown, sheets_of
from mamdr_core.experiments.running import Runner, TrialOutcomes
from mamdr_core.experiments.trials import Trial, compared_pairs, make_trial
from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.files.folders import staged
from mamdr_core.training.parents import resolve_parent
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.runs import fingerprint_of

logger = logging.getLogger(__name__)


def compare_methods(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Run every compared model and method with every seed, and write the table of results.

    Trials that an earlier comparison has finished on the same examples are not repeated, even if it was killed.

    Returns:
        comparison, cells (number of trials), done (run now), skipped (finished before), failed, examples_version,
        report (the Markdown file), and `rows`: by model/method, seeds, test_auc, test_auc_std, rank, difference,
        p_value.

    Raises:
        MamdrError: an unknown name, or a setting that a method does not support, before examples are read; no examples;
            no trial finished.
    """
    config, settings = resolve_parent(spark, config), config.compare
    trials = [
        make_trial(config, pair, seed, {}, settings.overrides)
        for pair in compared_pairs(config)
        for seed in settings.seeds
    ]
    lake, pinned, _ = prepare_examples(spark, config)
    name = settings.name or "comparison-" + digest([fingerprint_of(trial.config, pinned) for trial in trials])
    outcomes = Runner(lake, pinned, name, settings.parallel).run(trials)
    rows, path = write_comparison(lake, pinned, name, trials, outcomes, settings.baseline, settings.largest)
    reported = ("seeds", "test_auc", "test_auc_std", "rank", "difference", "p_value")
    return {
        "comparison": name,
        "cells": len(trials),
        **outcomes.figures(),
        "examples_version": pinned.versions["examples"],
        "report": path,
        "rows": {f"{row['model']}/{row['method']}": {key: row.get(key) for key in reported} for row in rows},
    }


def write_comparison(
    lake: Lake,
    pinned: PinnedExamples,
    name: str,
    trials: Sequence[Trial],
    outcomes: TrialOutcomes,
    baseline: str,
    largest: int,
) -> tuple[list[dict[str, Any]], str]:
    """Write the results of trials to the table comparisons, to stderr, and as Markdown and LaTeX to reports/<name>/.

    Args:
        pinned: the examples that the trials were trained on.
        name: of the comparison; its earlier output is replaced.
        baseline: a method or a model/method.
        largest: number of largest domains that are listed individually.

    Returns:
        The rows by column, and the path of the Markdown file.

    Raises:
        MamdrError: no trial finished.
    """
    if not outcomes.runs:
        raise nothing_finished(name, outcomes)
    measured = read_measured(lake, sorted(set(outcomes.runs.values())), len(pinned.domain_ids))
    versions = sorted({str(run.code_version) for run in measured.runs.values()})
    if len(versions) > 1:
        logger.warning("%s: runs of different code versions are compared: %s", name, ", ".join(versions))
    train_rows_n = pinned.counts["train"]
    comparison = compare(_entries(trials, pinned, outcomes), measured, train_rows_n, baseline)
    made = {"comparison": name, "examples_version": pinned.versions["examples"], "made_at": datetime.now(UTC)}
    frame = declared_frame(lake.spark, "comparisons", [made | row for row in comparison.rows])
    lake.overwrite_where("comparisons", frame, f"comparison = {literal(name)}")
    sheets = sheets_of(comparison, pinned.domain_ids, train_rows_n, largest)
    text = markdown(name, sheets)
    with staged(as_path(lake.path_of("reports", name))) as folder:
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        (folder / "comparison.tex").write_text(latex(name, sheets), encoding="utf-8")
    print(text, file=sys.stderr)
    return comparison.rows, lake.path_of("reports", name, "comparison.md")


def _entries(trials: Sequence[Trial], pinned: PinnedExamples, outcomes: TrialOutcomes) -> list[Entry]:
    found: dict[tuple[str, str], tuple[dict[int, str], list[str]]] = {}
    for trial in trials:
        runs, failed = found.setdefault(trial.pair, ({}, []))
        key = fingerprint_of(trial.config, pinned)
        if key in outcomes.runs:
            runs[trial.config.train.seed] = outcomes.runs[key]
        else:
            failed.append(key)
    return [Entry(pair, runs, len(failed)) for pair, (runs, failed) in found.items()]


def nothing_finished(name: str, outcomes: TrialOutcomes) -> MamdrError:
    """The error of an experiment in which no trial finished."""
    first = next(iter(outcomes.errors.values())).rstrip().rpartition("\n")[2]
    return MamdrError(f"{name}: none of {len(outcomes.errors)} trials finished; the first error: {first}")


def digest(keys: Sequence[str]) -> str:
    """Eight hexadecimal digits that do not depend on the order of the keys: the default name of an experiment."""
    return hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest()[:8]
