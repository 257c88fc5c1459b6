"""Predictions in a Python worker of Spark, for rows that are sorted by domain.

Shape suffixes: B rows, K numeric features, L ids of a bag or sequence.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyspark import SparkFiles
from pyspark.sql import types as T
from safetensors.torch import load_file
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Change
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.serving.served import Served
from mamdr_core.shards.filling import standardise
from mamdr_core.shards.ragged import pad_lists
from schemas import TABLES, UNKNOWN_INDEX, weights_of
from schemas.spark import spark_schema

KEPT = ("key", "user", "item", "domain")
"""Columns of the input that are written next to the score."""
_opened: dict[tuple[str, str], "Scorer"] = {}
"""The scorer that this process opened last, since Python workers run several tasks."""


def index_of(name: str) -> str:
    """Name of the column with the vocabulary index of an id column."""
    return f"_{name}_index"


class Scorer:
    """Predicts with theta_S + theta_i of each row's domain (Eq. 5), or theta_S where there is no theta_i.

    Args:
        served: the run.
        vectors: fixed vectors by feature.
        specific: theta_i by domain index; None: all theta_i of the run.

    Attributes:
        domains: indices of the domains with specific parameters: theta_i, or w_i of a mixed model.
    """

    def __init__(
        self, served: Served, vectors: Mapping[str, Tensor], specific: Mapping[int, Change] | None = None
    ) -> None:
        self._served = served
        self._engine = served.engine(vectors)
        self._mixed = served.mixed(self._engine)
        self._shared = served.shared()
        self._calibration = served.calibration()
        self._specific = served.specific() if specific is None else specific
        weighted = self._mixed.weights.domains_D.tolist() if self._mixed else ()
        self.domains = frozenset((*self._specific, *weighted))

    def predict(
        self,
        indices: Mapping[str, NDArray[np.int32]],
        numeric_BK: NDArray[np.float32],
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Tensor:
        """Logits of rows, calibrated if the run is, float [B]; fastest if rows of a domain are adjacent.

        Args:
            indices: by id column, index in the vocabulary or UNKNOWN_INDEX, int32 [B]; of a bag or sequence [B, L],
                padded with UNKNOWN_INDEX at the end.
            numeric_BK: standardised numeric features.
            weights: by bag with weights, float32 [B, L].
        """
        columns = _columns_of(indices, numeric_BK, weights)
        if self._mixed:
            columns = self._mixed.with_base_logits(columns)
        domain_B = indices["domain"]
        edges = np.concatenate([[0], np.flatnonzero(np.diff(domain_B)) + 1, [len(domain_B)]])
        runs = domain_B[edges[:-1]].tolist()
        logits_B = predict_runs(self._engine, self._shared, self._specific, columns, runs, edges)
        if self._calibration:
            return self._calibration.apply(logits_B, torch.from_numpy(domain_B))
        return logits_B

    def deviation(
        self, indices: Mapping[str, NDArray[np.int32]], numeric_BK: NDArray[np.float32], logits_B: Tensor
    ) -> Tensor | None:
        """Posterior standard deviation of the mixed model's part of the logits, float [B]; None without mixed model.

        Args:
            indices, numeric_BK: see `predict`.
            logits_B: the result of `predict`.
        """
        if not self._mixed:
            return None
        deviation_B = self._mixed.variance(_columns_of(indices, numeric_BK)).sqrt()
        if self._calibration:
            return deviation_B * self._calibration.slopes(logits_B, torch.from_numpy(indices["domain"]))
        return deviation_B

    def has_specific(self, domains: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each domain index, [B], has specific parameters."""
        distinct, inverse = np.unique(domains, return_inverse=True)
        found: NDArray[np.bool_] = np.array([int(domain) in self.domains for domain in distinct], dtype=np.bool_)
        return found[inverse]


def _columns_of(
    indices: Mapping[str, NDArray[np.int32]],
    numeric_BK: NDArray[np.float32],
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Columns:
    ids = {name: torch.from_numpy(column + np.int32(1)) for name, column in indices.items()}
    no_labels_B = torch.zeros(len(ids["domain"]))
    bag_weights = {name: torch.from_numpy(column) for name, column in (weights or {}).items()}
    no_offsets = torch.zeros(1, dtype=torch.long)
    return Columns(ids, torch.from_numpy(numeric_BK), no_labels_B, no_offsets, bag_weights=bag_weights)


def open_scorer(served: Served, vectors: str) -> Scorer:
    """The scorer of a run, opened once in this process.

    Args:
        served: the run.
        vectors: the file of the fixed vectors, see `mamdr_core.serving.opening.send_vectors`; empty: there are none.
    """
    key = (served.folder, vectors)
    if key not in _opened:
        _opened.clear()
        _opened[key] = Scorer(served, load_file(SparkFiles.get(vectors)) if vectors else {})
    return _opened[key]


def score_batches(
    served: Served, vectors: str, deviation: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Score encoded rows, in a Python worker of Spark; see `scored_batch`.

    Args:
        served: the run.
        vectors: the file of the fixed vectors.
        deviation: whether to write deviations.
        batches: rows from `encode_requests`, those of a domain adjacent.
    """
    scorer = open_scorer(served, vectors)
    for batch in batches:
        indices, logits_B, deviation_B = predict_batch(scorer, served, batch, deviation)
        unranked = pa.nulls(len(batch), pa.int32())
        yield scored_batch(
            scorer, {name: batch.column(name) for name in KEPT}, indices, logits_B, deviation_B, unranked
        )


def predict_batch(
    scorer: Scorer, served: Served, batch: pa.RecordBatch, deviation: bool = False
) -> tuple[dict[str, NDArray[np.int32]], Tensor, Tensor | None]:
    """Predict encoded rows.

    Args:
        scorer: predicts with the run's parameters.
        served: the run.
        batch: rows from `encode_requests`; columns of KEPT are not read.
        deviation: whether to compute deviations.

    Returns:
        The vocabulary indices by id column, logits [B], and deviations [B] or None.
    """
    several = [feature for feature in served.features if feature.has_several_ids]
    padded = pad_lists(batch, several)
    single = [name for name in batch.schema.names if name not in KEPT and name not in padded]
    values = padded | {name: batch.column(name).to_numpy(zero_copy_only=False) for name in single}
    indices = {name: values[index_of(name) if index_of(name) in values else name] for name in served.sizes}
    numeric = [standardise(values[name], *moments) for name, moments in served.numeric.items()]
    numeric_BK = np.stack(numeric, 1).astype(np.float32) if numeric else np.zeros((len(batch), 0), np.float32)
    weights = {feature.name: values[weights_of(feature.name)] for feature in several if feature.weights}
    logits_B = scorer.predict(indices, numeric_BK, weights)
    return indices, logits_B, scorer.deviation(indices, numeric_BK, logits_B) if deviation else None


def scored_batch(
    scorer: Scorer,
    kept: Mapping[str, pa.Array],
    indices: Mapping[str, NDArray[np.int32]],
    logits_B: Tensor,
    deviation_B: Tensor | None,
    rank_B: pa.Array,
) -> pa.RecordBatch:
    """Rows of the table scores, without run_id and batch.

    Args:
        scorer: predicts with the run's parameters.
        kept: the columns of KEPT.
        indices: vocabulary indices, at least of user, item and domain, [B].
        logits_B, deviation_B: see `predict_batch`.
        rank_B: ranks of `score.top_k`, or nulls, int32 [B].
    """
    score = logits_B.double().sigmoid().numpy()
    known = {f"{name}_known": pa.array(indices[name] != UNKNOWN_INDEX) for name in ("user", "item", "domain")}
    return pa.RecordBatch.from_pydict(
        {
            **{name: kept[name] for name in KEPT},  # Spark reads columns by position
            **known,
            "specific": pa.array(scorer.has_specific(indices["domain"])),
            "score": pa.array(score, mask=np.isnan(score)),
            "logit_deviation": pa.nulls(len(score), pa.float64())
            if deviation_B is None
            else pa.array(deviation_B.double().numpy(), mask=deviation_B.isnan().numpy()),
            "rank": rank_B,
        }
    )


def scored_schema() -> T.StructType:
    """Schema of the rows of `scored_batch`."""
    names = [name for name in TABLES["scores"].column_names if name not in ("run_id", "batch")]
    schema = spark_schema(TABLES["scores"])
    return T.StructType([schema[name] for name in names])
