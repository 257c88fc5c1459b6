"""Predictions of rows sorted by domain, as a Python worker of Spark makes them."""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pyspark import SparkFiles
from safetensors.torch import load_file
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.parameters import Change
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.serving.served import Served
from mamdr_core.shards.filling import standardise
from mamdr_core.shards.ragged import pad_lists
from schemas import UNKNOWN_INDEX, weights_of

KEPT = ("key", "user", "item", "domain")
"""What of a row stands beside its score."""
_opened: dict[tuple[str, str], "Scorer"] = {}
"""What this process has opened last: workers live on from task to task."""


def index_of(name: str) -> str:
    """The column of a row's index in the vocabulary of an id column."""
    return f"_{name}_index"


class Scorer:
    """Predicts with theta_S + theta_i of each row's domain (Eq. 5), or theta_S where there is no theta_i.

    Args:
        served: the run.
        vectors: fixed vectors by feature.
        specific: theta_i by domain index; None: all that the run has.

    Attributes:
        domains: indices of those with specific parameters: theta_i, or w_i of a mixed model.
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
        """Logits of rows, calibrated where the run is, float [B]; the rows of a domain are best together.

        Args:
            indices: by id column, index in the vocabulary or UNKNOWN_INDEX, int32 [B]; of a bag or sequence [B, L],
                UNKNOWN_INDEX behind its known ids.
            numeric_BK: standardised numeric features.
            weights: by bag with weights, float32 [B, L].
        """
        columns = _columns_of(indices, numeric_BK, weights)
        if self._mixed:
            columns = self._mixed.under(columns)
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
        """Posterior standard deviation of the mixed model's part of the logits, float [B]; None without one.

        Args:
            indices, numeric_BK: see `predict`.
            logits_B: that `predict` returns.
        """
        if not self._mixed:
            return None
        deviation_B = self._mixed.variance(_columns_of(indices, numeric_BK)).sqrt()
        if self._calibration:
            return deviation_B * self._calibration.slopes(logits_B, torch.from_numpy(indices["domain"]))
        return deviation_B

    def has_specific(self, domains: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether there are specific parameters, by domain index [B]."""
        distinct, place = np.unique(domains, return_inverse=True)
        found: NDArray[np.bool_] = np.array([int(domain) in self.domains for domain in distinct], dtype=np.bool_)
        return found[place]


def _columns_of(
    indices: Mapping[str, NDArray[np.int32]],
    numeric_BK: NDArray[np.float32],
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Columns:
    ids = {name: torch.from_numpy(column + np.int32(1)) for name, column in indices.items()}
    unlabelled_B = torch.zeros(len(ids["domain"]))
    bag_weights = {name: torch.from_numpy(column) for name, column in (weights or {}).items()}
    nowhere = torch.zeros(1, dtype=torch.long)
    return Columns(ids, torch.from_numpy(numeric_BK), unlabelled_B, nowhere, bag_weights=bag_weights)


def open_scorer(served: Served, vectors: str) -> Scorer:
    """This process's scorer of a run, opened once.

    Args:
        served: the run.
        vectors: the file of the fixed vectors, see `send_vectors`; empty: there are none.
    """
    key = (served.folder, vectors)
    if key not in _opened:
        _opened.clear()
        _opened[key] = Scorer(served, load_file(SparkFiles.get(vectors)) if vectors else {})
    return _opened[key]


def score_batches(
    served: Served, vectors: str, deviation: bool, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Scores of encoded rows: key, user, item, domain, what of them is known, and the probability of a click.

    Args:
        served: the run.
        vectors: the file of the fixed vectors.
        deviation: whether to write the deviation of the logits too.
        batches: of rows as `encode_requests` makes them, the rows of a domain together.
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
    """What a scorer makes of encoded rows: the indices that it reads, logits [B], and, if asked for, deviations [B].

    Args:
        scorer: of the run.
        served: the run.
        batch: rows as `encode_requests` makes them; columns of KEPT are not read.
        deviation: whether to compute deviations.
    """
    several = [feature for feature in served.features if feature.has_several_ids]
    padded = pad_lists(batch, several)
    single = [name for name in batch.schema.names if name not in KEPT and name not in padded]
    read = padded | {name: batch.column(name).to_numpy(zero_copy_only=False) for name in single}
    column_of = {name: index_of(name) if index_of(name) in read else name for name in served.sizes}
    indices = {name: read[column] for name, column in column_of.items()}
    numeric = [standardise(read[name], *moments) for name, moments in served.numeric.items()]
    numeric_BK = np.stack(numeric, 1).astype(np.float32) if numeric else np.zeros((len(batch), 0), np.float32)
    weights = {feature.name: read[weights_of(feature.name)] for feature in several if feature.weights}
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
        scorer: of the run.
        kept: columns of KEPT.
        indices: at least of user, item and domain, [B].
        logits_B, deviation_B: see `predict_batch`.
        rank_B: int32 [B].
    """
    score = logits_B.double().sigmoid().numpy()
    known = {f"{name}_known": pa.array(indices[name] != UNKNOWN_INDEX) for name in ("user", "item", "domain")}
    return pa.RecordBatch.from_pydict(
        {
            **{name: kept[name] for name in KEPT},  # Spark goes by the order of columns
            **known,
            "specific": pa.array(scorer.has_specific(indices["domain"])),
            "score": pa.array(score, mask=np.isnan(score)),
            "logit_deviation": pa.nulls(len(score), pa.float64())
            if deviation_B is None
            else pa.array(deviation_B.double().numpy(), mask=deviation_B.isnan().numpy()),
            "rank": rank_B,
        }
    )
