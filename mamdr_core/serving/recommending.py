"""`score.top_k`: the best candidates for each row of a user and a domain, without a cross product in Spark."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from torch import Tensor

from mamdr_core.config.features import Feature
from mamdr_core.config.serving import CandidateSettings, ScoreSettings
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sources import lacks_columns, read_input
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.core.unreadable import readable
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.candidates import (
    ORDER,
    REPRESENTATIVE,
    Candidates,
    open_candidates,
    read_candidates,
    send_candidates,
)
from mamdr_core.serving.ranking import Best, Piece, block_rows, choose_best
from mamdr_core.serving.requests import MALFORMED, PreparedInput, encode_requests, requests_of, source_of
from mamdr_core.serving.scorer import KEPT, Scorer, index_of, open_scorer, predict_batch, scored_batch, scored_schema
from mamdr_core.serving.served import Served
from schemas import UNKNOWN_INDEX

TASK_PAIRS = 20_000_000
"""Approximate number of pairs that a task scores."""
OUT_ROWS = 1 << 16
"""Approximate number of rows in a batch that a task returns to Spark."""


def prepare_top_k(lake: Lake, settings: ScoreSettings, served: Served) -> PreparedInput:
    """Read the candidates, and count and encode the rows of users.

    Raises:
        MamdrError: users or candidates cannot be read or lack a column, or no user has a candidate.
    """
    with _naming_candidates(settings.candidates):
        items = read_input(lake.spark, source_of(settings.candidates))
        of_users, of_items = split_features(items, served)
        table, left_out = read_candidates(items, settings.candidates, lake, served, of_items)
    candidates = Candidates(table)
    columns = replace(settings.input.columns, item="null")
    requests = requests_of(read_input(lake.spark, source_of(settings.input)), columns, served, of_users)
    users, malformed = _count_users(requests, lake, served)
    by_domain = {domain: (count, candidates.count(domain)) for domain, count in users.items()}
    pairs = sum(count * items for count, items in by_domain.values())
    figures = {
        "malformed": malformed,
        "users": sum(users.values()),
        "users_of_unknown_domains": users.get(UNKNOWN_INDEX, 0),
        "users_without_candidates": sum(n for d, (n, items) in by_domain.items() if d != UNKNOWN_INDEX and not items),
        "candidates": len(candidates),
        "candidates_left_out": left_out,
        "pairs": pairs,
    }
    if not pairs:
        raise MamdrError(
            f"candidates.path: none of the {figures['users']} rows of score.input.path has a candidate: "
            f"{figures['users_of_unknown_domains']} are of domains that run {served.run_id} was not trained on, "
            f"{figures['users_without_candidates']} of domains without candidates"
        )
    whole = requests.where(~F.col(MALFORMED)).drop(MALFORMED, "item")
    encoded = encode_requests(whole, lake, served, ("user", "domain"), of_users)
    tasks, assignment = _assign_tasks(lake.spark, by_domain)
    users_in_tasks = _with_tasks(encoded, assignment)

    def recommend(vectors: str) -> DataFrame:
        file = send_candidates(lake.spark, table)
        rows = users_in_tasks.repartition(tasks, "_task").sortWithinPartitions(index_of("domain"), "user", "key")
        task = partial(recommend_batches, served, vectors, file, settings.top_k, settings.deviation)
        return rows.drop("_task").mapInArrow(task, scored_schema())

    count = sum(count * min(settings.top_k, items) for count, items in by_domain.values())
    return PreparedInput(count, pairs, recommend, figures)


def split_features(items: DataFrame, served: Served) -> tuple[list[Feature], list[Feature]]:
    """The features that are read from rows of users, and those that are read from candidates.

    A feature is read from candidates if its expression can be computed from their columns, else from rows of users.
    Vectors are looked up by id.

    Args:
        items: the rows of candidates.
        served: the run.
    """
    columns = [feature for feature in served.features if feature.kind != "vector"]
    of_items = [feature for feature in columns if not lacks_columns(items, feature.expression or feature.name)]
    of_users = [feature for feature in columns if feature not in of_items]
    return of_users, of_items


@contextmanager
def _naming_candidates(settings: CandidateSettings) -> Iterator[None]:
    """Make errors name the config keys of candidates."""
    try:
        with readable(source_of(settings)):
            yield
    except MamdrError as error:
        raise MamdrError(re.sub("^input[.]", "candidates.", str(error))) from None


def _count_users(requests: DataFrame, lake: Lake, served: Served) -> tuple[dict[int, int], int]:
    """Rows by domain index, UNKNOWN_INDEX included, and the number of malformed records."""
    domains = lake.read("domains").where(F.col("index") < served.sizes["domain"]).select("id", "index")
    counted = requests.groupBy("domain", MALFORMED).agg(F.count("*").alias("rows"))
    joined = counted.join(F.broadcast(domains), F.col("domain") == F.col("id"), "left")
    found = joined.groupBy("index", MALFORMED).agg(F.sum("rows").alias("rows")).collect()
    rows: dict[int, int] = {}
    for row in found:
        if not row[MALFORMED]:
            rows[UNKNOWN_INDEX if row["index"] is None else row["index"]] = row["rows"]
    return rows, sum(row["rows"] for row in found if row[MALFORMED])


def _assign_tasks(spark: SparkSession, by_domain: Mapping[int, tuple[int, int]]) -> tuple[int, DataFrame]:
    """Assign domains to tasks of about TASK_PAIRS pairs.

    Domains fill one task after another; a domain with more pairs gets several tasks, which no other domain uses.

    Args:
        spark: the session.
        by_domain: number of users and of candidates by domain.

    Returns:
        The number of tasks, and for each domain with candidates its first task and its number of tasks.
    """
    rows, task, filled = [], 0, 0
    for domain, (users, items) in sorted(by_domain.items()):
        pairs = users * items
        if not pairs:
            continue
        if filled and filled + pairs > TASK_PAIRS:
            task, filled = task + 1, 0
        count = min(users, -(-pairs // TASK_PAIRS))
        rows.append((domain, task, count))
        if count > 1:
            task, filled = task + count, 0
        else:
            filled += pairs
    tasks = task + (1 if filled else 0)
    return tasks, local_frame(spark, rows, "_task_domain int, _first_task int, _task_count int")


def _with_tasks(users: DataFrame, assignment: DataFrame) -> DataFrame:
    """Users that have candidates, with their `_task`."""
    joined = users.join(F.broadcast(assignment), F.col(index_of("domain")) == F.col("_task_domain"), "inner")
    task = F.col("_first_task") + F.pmod(F.xxhash64("user", "key"), F.col("_task_count"))
    return joined.withColumn("_task", task.cast("int")).drop("_task_domain", "_first_task", "_task_count")


def recommend_batches(
    served: Served, vectors: str, file: str, k: int, deviation: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """The K best candidates of users, in a Python worker of Spark.

    Args:
        served: the run.
        vectors: the file of the fixed vectors.
        file: the file of the candidates.
        k: number of candidates of a user.
        deviation: whether to write deviations.
        batches: encoded users, those of a domain adjacent.
    """
    pairing = Pairing(served, open_scorer(served, vectors), open_candidates(SparkFiles.get(file)), deviation)
    for batch in batches:
        yield from pairing.recommend(batch, k)


@dataclass(frozen=True)
class Pairing:
    """Scores pairs of users and candidates.

    Args:
        served: the run.
        scorer: predicts with the run's parameters.
        candidates: the candidates of all domains.
        deviation: whether to write deviations.
    """

    served: Served
    scorer: Scorer
    candidates: Candidates
    deviation: bool = False

    def recommend(self, users: pa.RecordBatch, k: int) -> Iterator[pa.RecordBatch]:
        """Rows of the table scores: the K best candidates of each user of a batch, in which domains are adjacent."""
        kept: list[Best] = []
        most = block_rows(sum(feature.length for feature in self.served.features if feature.has_several_ids))
        predict = partial(self.predict, users)
        for best in choose_best(self.runs(users), k, predict, self.candidates.representatives, most):
            kept.append(best)
            if sum(each.logits.numel() for each in kept) >= OUT_ROWS:
                yield self.rows(users, kept)
                kept = []
        if kept:
            yield self.rows(users, kept)

    def runs(self, users: pa.RecordBatch) -> Iterator[Piece]:
        """The users of a batch with their domains' candidates."""
        domains = users.column(index_of("domain")).to_numpy(zero_copy_only=False)
        for first, last in pairwise([0, *(np.flatnonzero(np.diff(domains)) + 1).tolist(), len(domains)]):
            yield Piece(range(first, last), self.candidates.positions(int(domains[first])))

    def pairs(self, users: pa.RecordBatch, user_B: NDArray[np.int64], candidate_B: NDArray[np.int64]) -> pa.RecordBatch:
        """Encoded rows of pairs; the domain is the user's."""
        items = self.candidates.batch
        columns: dict[str, pa.Array] = {}
        not_read = (*KEPT, ORDER, REPRESENTATIVE, index_of("domain"))
        for side, position_B, left_out in ((users, pa.array(user_B), KEPT), (items, pa.array(candidate_B), not_read)):
            names = [name for name in side.schema.names if name not in left_out]
            columns |= {name: side.column(name).take(position_B) for name in names}
        return pa.RecordBatch.from_pydict(columns)

    def predict(self, users: pa.RecordBatch, user_B: NDArray[np.int64], candidate_B: NDArray[np.int64]) -> Tensor:
        """Logits of pairs, float32 [B]."""
        return predict_batch(self.scorer, self.served, self.pairs(users, user_B, candidate_B))[1]

    def rows(self, users: pa.RecordBatch, kept: list[Best]) -> pa.RecordBatch:
        """The chosen candidates as rows of the table scores, without run_id and batch."""
        user_B = np.concatenate([np.repeat(np.array(each.users), each.logits.shape[1]) for each in kept])
        rank_B = np.concatenate([np.tile(np.arange(each.logits.shape[1]), len(each.users)) for each in kept]) + 1
        candidate_B = torch.cat([each.candidates.flatten() for each in kept]).numpy()
        chosen = self.pairs(users, user_B, candidate_B)
        deviation_B = predict_batch(self.scorer, self.served, chosen, True)[2] if self.deviation else None
        columns = {name: users.column(name).take(pa.array(user_B)) for name in ("key", "user", "domain")}
        columns["item"] = self.candidates.batch.column("item").take(pa.array(candidate_B))
        indices = {
            name: chosen.column(index_of(name)).to_numpy(zero_copy_only=False) for name in ("user", "item", "domain")
        }
        logits_B = torch.cat([each.logits.flatten() for each in kept])
        return scored_batch(self.scorer, columns, indices, logits_B, deviation_B, pa.array(rank_B.astype(np.int32)))
