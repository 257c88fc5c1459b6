"""Settings of batch scoring and of export."""

from dataclasses import field
from datetime import date
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mamdr_core.raw_id import RawId
from mamdr_core.settings import settings

BatchName = Annotated[
    str,
    Field(coerce_numbers_to_str=True),
    BeforeValidator(lambda value: value.isoformat() if isinstance(value, date) else value),
]
"""YAML reads 2026-01-31 as a date and 20260131 as a number."""


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
    """Something that names the row, such as a request's id; it is kept beside the score. Empty: nothing."""


@settings
class ScoreInput:
    """The rows to score. Declared features are read from them by the expressions that the run was trained with."""

    path: str = ""
    """File, folder or glob; empty: the test split of the examples that the run was trained on."""
    format: Literal["parquet", "json", "csv", "delta"] = "parquet"
    """Spark format of the rows."""
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the Spark reader, e.g. {header: true}."""
    columns: ScoreColumns = field(default_factory=ScoreColumns)
    """The columns of a row."""


@settings
class CandidateColumns:
    """Spark SQL expressions over the candidates."""

    item: str = "item"
    """The item's id."""
    domain: str = ""
    """The domain whose users may be shown the item; null: every domain's. Empty: all items are those of every
    domain."""


@settings
class CandidateSettings:
    """The items that `top_k` chooses from.

    A declared feature is read from the candidates where its expression can be computed from their columns, else from
    the rows of users.
    """

    path: str = ""
    """File, folder or glob."""
    format: Literal["parquet", "json", "csv", "delta"] = "parquet"
    """Spark format of the candidates."""
    options: dict[str, str | bool | int | float] = field(default_factory=dict)
    """Options of the Spark reader, e.g. {header: true}."""
    columns: CandidateColumns = field(default_factory=CandidateColumns)
    """The columns of a candidate."""
    most: int = 2_000_000
    """Candidates at most, before duplicates are removed. The driver and every machine hold all of them: 20 bytes each,
    4 for each feature, and the id (docs/serving.md)."""

    def __post_init__(self) -> None:
        """Check the bound."""
        if self.most < 1:
            raise ValueError(f"score.candidates.most must be >= 1, got {self.most}")


@settings
class ScoreSettings:
    """Which run scores which rows."""

    run_id: str = ""
    """The run whose parameters score: an id; champion, the run that serves; champion@2026-01-02, of the runs of that
    day and before it the one promoted last; empty: the newest that ended well."""
    batch: BatchName = ""
    """Names the rows, e.g. a day; what the table scores holds of the same batch is replaced. Empty: the run's id."""
    input: ScoreInput = field(default_factory=ScoreInput)
    """The rows."""
    deviation: bool = False
    """Also write how uncertain a mixed model's part of the logit is (logit_deviation in the table scores)."""
    top_k: int = 0
    """K: instead of scoring rows, choose for each row of a user and a domain (`input`) the K best of `candidates`.
    0: score rows."""
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    """What `top_k` chooses from."""

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.top_k < 0:
            raise ValueError(f"score.top_k must be >= 0, got {self.top_k}")
        if self.top_k and not (self.input.path and self.candidates.path):
            missing = "input.path (rows of users and domains)" if not self.input.path else "candidates.path (items)"
            raise ValueError(f"score.top_k is {self.top_k}: set score.{missing} too")
        if self.candidates.path and not self.top_k:
            raise ValueError("score.candidates is for score.top_k: set it to the number of items of a user")


@settings
class ExportSettings:
    """Which run is exported where."""

    run_id: str = ""
    """The run: an id, or champion, the run that serves; empty: the newest that ended well."""
    folder: str = ""
    """Folder of the files; empty: `exports/<run id>` in the lake."""
    max_gb: float = 4.0
    """GB that theta_S and all theta_i may take in the file; a larger run is not exported whole."""
    domains: tuple[RawId, ...] = ()
    """Ids of the domains whose theta_i go into the file; others are served with theta_S. None: all that have one."""
    onnx: bool = True
    """Write model.onnx too, and check it with onnxruntime."""

    def __post_init__(self) -> None:
        """Check the bound."""
        if self.max_gb <= 0:
            raise ValueError(f"export.max_gb must be > 0, got {self.max_gb}")
