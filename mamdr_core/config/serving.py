"""Settings of batch scoring and of export."""

from dataclasses import field
from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mamdr_core.config.raw_id import RawId
from mamdr_core.config.settings import check_limits, settings

BatchName = Annotated[
    str,
    Field(coerce_numbers_to_str=True),
    BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value),
]
"""Accepts dates and numbers too, because YAML parses 2026-01-31 as a date and 20260131 as a number."""


@settings
class ScoreColumns:
    """Spark SQL expressions over the rows to score."""

    user: str = "user"
    """The user's id."""
    item: str = "item"
    """The item's id."""
    domain: str = "domain"
    """The domain's id."""
    key: str = ""
    """An identifier of the row, such as a request's id, which is written next to the score. Empty: none."""


@settings
class ScoreInput:
    """The rows to score. Declared features are read from them by the run's own expressions."""

    path: str = ""
    """File, folder or glob; empty: the test split of the examples that the run was trained on."""
    format: Literal["parquet", "json", "csv", "delta"] = "parquet"
    """Spark format of the rows."""
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the Spark reader, e.g. {header: true}."""
    columns: ScoreColumns = field(default_factory=ScoreColumns)
    """Expressions of a row's ids."""


@settings
class CandidateColumns:
    """Spark SQL expressions over the candidates."""

    item: str = "item"
    """The item's id."""
    domain: str = ""
    """The id of the domain in which the item is offered; null: it is offered in all domains. Empty: all items are
    offered in all domains."""


@settings
class CandidateSettings:
    """The items that `top_k` chooses from.

    A declared feature is read from the candidates if its expression can be computed from their columns, else from the
    rows of users.
    """

    path: str = ""
    """File, folder or glob."""
    format: Literal["parquet", "json", "csv", "delta"] = "parquet"
    """Spark format of the candidates."""
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the Spark reader, e.g. {header: true}."""
    columns: CandidateColumns = field(default_factory=CandidateColumns)
    """Expressions of a candidate's ids."""
    most: int = 2_000_000
    """Largest number of candidates before deduplication. The driver and every machine hold all of them in memory: each
    takes 20 bytes, 4 for each feature, and its id (docs/serving.md)."""

    def __post_init__(self) -> None:
        check_limits(self, "score.candidates", "most", least=1)


@settings
class ScoreSettings:
    """Batch scoring: the run, the rows and the batch."""

    run_id: str = ""
    """The run that scores: an id; champion: the promoted run; champion@2026-01-02: the last promoted run among those
    of that day and before; empty: the newest successful run."""
    batch: BatchName = ""
    """Name of the scored rows, e.g. a day. Earlier rows of the same batch in the table scores are replaced. Empty: the
    run's id."""
    input: ScoreInput = field(default_factory=ScoreInput)
    """The rows to score."""
    deviation: bool = False
    """Also write the posterior standard deviation of a mixed model's part of the logit (logit_deviation in the table
    scores)."""
    top_k: int = 0
    """K: instead of scoring rows, choose the K best `candidates` for each row of a user and a domain (`input`). 0:
    score rows."""
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    """The items that `top_k` chooses from."""

    def __post_init__(self) -> None:
        check_limits(self, "score", "top_k", least=0)
        if self.top_k and not (self.input.path and self.candidates.path):
            missing = "input.path (rows of users and domains)" if not self.input.path else "candidates.path (items)"
            raise ValueError(f"score.top_k is {self.top_k}: set score.{missing} too")
        if self.candidates.path and not self.top_k:
            raise ValueError("score.candidates needs score.top_k: set it to the number of items for each user")


@settings
class ExportSettings:
    """Export: the run and its files."""

    run_id: str = ""
    """The run to export: an id; champion: the promoted run; empty: the newest successful run."""
    folder: str = ""
    """Folder of the files; empty: `exports/<run id>` in the lake."""
    max_gb: float = 4.0
    """Largest size in GB of theta_S and all theta_i in the file; a larger run is an error."""
    domains: tuple[RawId, ...] = ()
    """Ids of the domains whose theta_i are exported; other domains are served with theta_S. Empty: all domains with
    theta_i."""
    onnx: bool = True
    """Also write model.onnx, and check it with onnxruntime."""

    def __post_init__(self) -> None:
        if self.max_gb <= 0:
            raise ValueError(f"export.max_gb must be > 0, got {self.max_gb}")
