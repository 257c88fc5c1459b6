"""compare_methods on the driver: cells of one pinned version of the examples, then their table."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.comparing.cells import Cell, compared_pairs, make_cell
from mamdr_core.comparing.comparison import Entry, compare
from mamdr_core.comparing.measured import read_measured
from mamdr_core.comparing.report import latex, markdown, sheets_of
from mamdr_core.comparing.running import Ended, Runner
from mamdr_core.config import Config
from mamdr_core.errors import MamdrError
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.object_store import place_of
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.parents import settle_parent
from mamdr_core.training.preparing import prepare_examples
from mamdr_core.training.runs import cell_of
from mamdr_core.training.storage import staged
from schemas import TABLES
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)


def compare_methods(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Run every compared model and method with every seed, and tell their table.

    Cells that an earlier, perhaps killed, comparison has finished on the same examples are not run again.

    Returns:
        comparison, cells, done (run now), skipped (finished before), failed, examples_version, report (the Markdown
        file), and `rows`: by model/method, seeds, test_auc, test_auc_std, rank, difference, p_value.

    Raises:
        MamdrError: an unknown name, before anything is read; no examples; no cell finished.
    """
    config, settings = settle_parent(spark, config), config.compare
    cells = [
        make_cell(config, pair, seed, {}, settings.overrides)
        for pair in compared_pairs(config)
        for seed in settings.seeds
    ]
    lake, pinned, _ = prepare_examples(spark, config)
    name = settings.name or "comparison-" + digest([cell_of(cell.config, pinned) for cell in cells])
    ended = Runner(spark, lake, pinned, name, settings.parallel).run(cells)
    rows, path = tell_comparison(spark, lake, pinned, name, cells, ended, settings.baseline, settings.largest)
    told = ("seeds", "test_auc", "test_auc_std", "rank", "difference", "p_value")
    return {
        "comparison": name,
        "cells": len(cells),
        **ended.figures(),
        "examples_version": pinned.versions["examples"],
        "report": path,
        "rows": {f"{row['model']}/{row['method']}": {key: row.get(key) for key in told} for row in rows},
    }


def tell_comparison(
    spark: SparkSession,
    lake: Lake,
    pinned: PinnedExamples,
    name: str,
    cells: Sequence[Cell],
    ended: Ended,
    baseline: str,
    largest: int,
) -> tuple[list[dict[str, Any]], str]:
    """Write the table of some cells to comparisons, to stderr, and as Markdown and LaTeX to reports/<name>/.

    Args:
        spark: the session.
        lake: where it is written.
        pinned: what the cells trained on.
        name: of the comparison; what it wrote before is replaced.
        cells: of models and methods, over seeds.
        ended: how they ended.
        baseline: a method or a model/method.
        largest: domains shown one by one.

    Returns:
        The rows by column, and the path of the Markdown.

    Raises:
        MamdrError: no cell finished.
    """
    if not ended.runs:
        raise nothing_finished(name, ended)
    measured = read_measured(lake, sorted(set(ended.runs.values())), len(pinned.domain_ids))
    versions = sorted({str(run.code_version) for run in measured.runs.values()})
    if len(versions) > 1:
        logger.warning("%s: its runs were made by different versions of the code: %s", name, ", ".join(versions))
    train_rows_n = pinned.counts["train"]
    comparison = compare(_entries(cells, pinned, ended), measured, train_rows_n, baseline)
    made = {"comparison": name, "examples_version": pinned.versions["examples"], "made_at": datetime.now(UTC)}
    table = TABLES["comparisons"]
    values = [tuple((made | row).get(column) for column in table.column_names) for row in comparison.rows]
    frame = spark.createDataFrame(values, spark_schema(table))
    lake.overwrite_where(table, frame, f"comparison = {literal(name)}")
    sheets = sheets_of(comparison, pinned.domain_ids, train_rows_n, largest)
    text = markdown(name, sheets)
    with staged(place_of(lake.path_of("reports", name))) as folder:
        (folder / "comparison.md").write_text(text, encoding="utf-8")
        (folder / "comparison.tex").write_text(latex(name, sheets), encoding="utf-8")
    print(text, file=sys.stderr)
    return comparison.rows, lake.path_of("reports", name, "comparison.md")


def _entries(cells: Sequence[Cell], pinned: PinnedExamples, ended: Ended) -> list[Entry]:
    found: dict[tuple[str, str], tuple[dict[int, str], list[str]]] = {}
    for cell in cells:
        runs, failed = found.setdefault(cell.pair, ({}, []))
        key = cell_of(cell.config, pinned)
        if key in ended.runs:
            runs[cell.config.train.seed] = ended.runs[key]
        else:
            failed.append(key)
    return [Entry(pair, runs, len(failed)) for pair, (runs, failed) in found.items()]


def nothing_finished(name: str, ended: Ended) -> MamdrError:
    """What to tell of an experiment none of whose cells finished."""
    first = next(iter(ended.errors.values())).rstrip().rpartition("\n")[2]
    return MamdrError(f"{name}: none of {len(ended.errors)} cells finished; the first error: {first}")


def digest(keys: Sequence[str]) -> str:
    """Eight hexadecimal digits for some texts in any order: what an experiment without a name is called."""
    return hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest()[:8]
