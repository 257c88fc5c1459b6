"""Sampled negatives at growing sizes, under skew: seconds, stragglers, and a check of their number.

Half of all clicked pairs are in one domain, the rest in 1,000 domains of heavy-tailed sizes; users and items are
heavy-tailed in each. Measures planning, drawing and writing, from pairs in Parquet files. The tasks of a stage are
compared if the median one takes more than a second.

    .venv/bin/python benchmarks/bench_negatives.py --rows 1e6 3e6 1e7 --folder /scratch --repeats 3
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from spark_stages import doubles, stages_of, store_of

from mamdr_core.config.lake import ExamplesSettings, NegativeSettings
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.hashing import hash64, uniform
from mamdr_core.lake.core.session import make_session
from mamdr_core.lake.examples.negatives import sample_negatives
from mamdr_core.lake.examples.plans import DomainPlan, count_domains, plan_domains, plan_frame

DOMAINS = 1000
ROWS_A_USER, ROWS_AN_ITEM = 5, 26
SETTINGS = ExamplesSettings(negatives=NegativeSettings(kind="in_domain"))
SHORTEST_MEDIAN = 1.0
KINDS = ("time_ratio", "processor_ratio")
HEAD = (
    "| positives | negatives | median s (spread) | us a positive | of processor "
    "| slowest task over the median: time | its stage | processor | its stage |"
)


def main() -> None:
    options = _parse()
    # The JVM reads these at its start, which is the session's.
    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        f"--master local[{options.cores}] --driver-memory {options.memory} "
        # As many tasks as a cluster would have: joined into two, as two cores would have it, none could straggle.
        f"--conf spark.sql.shuffle.partitions={options.partitions} "
        f"--conf spark.sql.files.minPartitionNum={options.partitions} "
        "--conf spark.sql.adaptive.coalescePartitions.enabled=false pyspark-shell"
    )
    spark = make_session("bench_negatives")
    spark.sparkContext.setLogLevel("ERROR")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="mamdr-bench-"))
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for rows in options.rows:
        found = measure(spark, folder, int(rows), options)
        print(json.dumps(found), flush=True)
        lines.append(_line(found))
    print("\n".join(lines))
    spark.stop()
    if not options.folder:
        shutil.rmtree(folder)


def measure(spark: SparkSession, folder: Path, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, tasks and faults of each run over one set of pairs."""
    source = folder / f"pairs_{rows}"
    if not source.exists():
        make_pairs(spark, rows, options.partitions).repartition(options.partitions).write.parquet(str(source))
    seconds, stages, processor = [], [], []
    for _ in range(options.repeats):
        before = _last_stage(spark)
        started = time.perf_counter()
        plans = draw(spark, source, folder / "negatives")
        seconds.append(time.perf_counter() - started)
        # The store learns of a task's end a little later than the driver.
        time.sleep(1)
        stages.append(_stages(spark, after=before))
        processor.append(sum(stage.executorCpuTime() for stage in _stages_after(spark, before)) / 1e9)
        print(f"{rows} rows: {seconds[-1]:.1f} s, {processor[-1]:.1f} s of processor", file=sys.stderr, flush=True)
    positives = sum(plan.clicks for plan in plans)
    compared = [stage for run in stages for stage in run]
    return {
        "positives": positives,
        "negatives": sum(plan.negatives for plan in plans),
        "missing": sum(plan.missing for plan in plans),
        "largest_domain": max(plan.clicks for plan in plans) / positives,
        "seconds": [round(each, 1) for each in seconds],
        "processor_seconds": [round(each, 1) for each in processor],
        "microseconds_a_positive": round(1e6 * statistics.median(seconds) / positives, 1),
        "processor_microseconds_a_positive": round(1e6 * statistics.median(processor) / positives, 1),
        "worst": {kind: max(compared, key=lambda each: each[kind], default=None) for kind in KINDS},
        "stages": stages[-1],
        **faults(spark, source, folder / "negatives", plans),
    }


def make_pairs(spark: SparkSession, rows: int, partitions: int) -> DataFrame:
    """About `rows` distinct clicked pairs, as `sample_negatives` takes them."""

    def drawn(name: str) -> Any:
        return uniform(hash64(name, F.col("id")))

    tail = F.pow(drawn("domain"), 3)
    domain = F.when(F.col("id") % 2 == 0, 0).otherwise(1 + F.floor(tail * DOMAINS)).cast("int")
    shares = F.pow(F.col("domain") / DOMAINS, 1 / 3) - F.pow((F.col("domain") - 1) / DOMAINS, 1 / 3)
    size = rows / 2 * F.when(F.col("domain") == 0, 1).otherwise(shares)
    user = F.floor(F.pow(drawn("user"), 2) * (2 + size / ROWS_A_USER)).cast("int")
    item = F.floor(F.pow(drawn("item"), 2) * (2 + size / ROWS_AN_ITEM)).cast("int")
    ids = ("user", "item", "domain")
    pairs = spark.range(0, rows, 1, partitions).withColumn("domain", domain)
    pairs = pairs.withColumns({"user": user, "item": item}).select(*ids).distinct()
    hashed = pairs.withColumns({f"{name}_hash": hash64(F.col(name).cast("string")) for name in ids})
    day = F.date_add(F.to_date(F.lit("2026-01-01")), F.pmod(F.col("item_hash"), F.lit(30)).cast("int"))
    return hashed.withColumn("key", hash64("key", *(F.col(f"{name}_hash") for name in ids))).withColumn("ds", day)


def draw(spark: SparkSession, source: Path, target: Path) -> list[DomainPlan]:
    """As build_examples does it, up to the negatives."""
    with kept_frames() as keep:
        pairs = keep(spark.read.parquet(str(source)))
        plans = plan_domains(count_domains(pairs, SETTINGS))
        negatives = sample_negatives(pairs, plan_frame(spark, plans), SETTINGS.seed, ["ds"], keep)
        negatives.write.mode("overwrite").parquet(str(target))
    return plans


def faults(spark: SparkSession, source: Path, target: Path, plans: list[DomainPlan]) -> dict[str, int]:
    """What must be 0: domains whose negatives are not the planned number, clicked negatives, repeated ones."""
    ids = ["user", "item", "domain"]
    negatives, pairs = spark.read.parquet(str(target)).select(ids), spark.read.parquet(str(source)).select(ids)
    counts = {row["domain"]: row["count"] for row in negatives.groupBy("domain").count().collect()}
    return {
        "inexact_domains": sum(plan.negatives != counts.get(plan.domain, 0) for plan in plans),
        "clicked_negatives": negatives.join(pairs, ids, "left_semi").count(),
        "repeated_negatives": sum(counts.values()) - negatives.distinct().count(),
    }


def _last_stage(spark: SparkSession) -> int:
    return max((stage.stageId() for stage in stages_of(spark)), default=-1)


def _stages_after(spark: SparkSession, after: int) -> list[Any]:
    return [stage for stage in stages_of(spark) if stage.numCompleteTasks() and stage.stageId() > after]


def _stages(spark: SparkSession, after: int) -> list[dict[str, Any]]:
    """Tasks of the stages since `after` whose median task is long enough for a comparison."""
    store, median_and_most = store_of(spark), doubles(spark, (0.5, 1.0))
    found = []
    for stage in _stages_after(spark, after):
        tasks = store.taskSummary(stage.stageId(), stage.attemptId(), median_and_most).get()
        times, processor = (
            [each.apply(n) for n in (0, 1)] for each in (tasks.executorRunTime(), tasks.executorCpuTime())
        )
        if times[0] / 1e3 > SHORTEST_MEDIAN:
            found.append(
                {
                    "stage": stage.stageId(),
                    "tasks": stage.numCompleteTasks(),
                    "rows_in": stage.shuffleReadRecords() + stage.inputRecords(),
                    "rows_out": stage.shuffleWriteRecords() + stage.outputRecords(),
                    "processor_s": round(stage.executorCpuTime() / 1e9, 1),
                    "median_s": round(times[0] / 1e3, 2),
                    "time_ratio": round(times[1] / times[0], 2),
                    "processor_ratio": round(processor[1] / processor[0], 2),
                }
            )
    return found


def _line(found: dict[str, Any]) -> str:
    seconds = found["seconds"]
    spread = f"{statistics.median(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})"
    microseconds = f"{found['microseconds_a_positive']} | {found['processor_microseconds_a_positive']}"
    worst = dict.fromkeys(KINDS, "- | no stage")
    for kind, stage in found["worst"].items():
        if stage:
            worst[kind] = f"{stage[kind]:.1f} | {stage['tasks']} tasks, median {stage['median_s']} s"
    return f"| {found['positives']} | {found['negatives']} | {spread} | {microseconds} | {' | '.join(worst.values())} |"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6], help="clicked pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--memory", default="16g")
    parser.add_argument("--partitions", type=int, default=32)
    parser.add_argument("--folder", help="keeps the pairs for another call; default: a temporary folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
