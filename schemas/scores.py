"""Batch predictions."""

from schemas.declaration import Column, DeclaredTable, Rule

SCORES = DeclaredTable(
    name="scores",
    description=(
        "Scored rows: a user, an item and a domain, and the predicted probability of a click. With score.top_k, the "
        "best candidates for each row of a user and a domain."
    ),
    made_by="score",
    columns=(
        Column("run_id", "string", "run in training_runs whose parameters were used"),
        Column("batch", "string", "name of the rows that were scored together, such as a day; a rerun replaces them"),
        Column("key", "string", "key of the input row, if it has one; for an example its `key`", nullable=True),
        Column("user", "string", "the user's id; null: not given", nullable=True),
        Column("item", "string", "the item's id; null: not given", nullable=True),
        Column("domain", "string", "the domain's id; null: not given", nullable=True),
        Column("user_known", "boolean", "whether the user is in the run's vocabulary; if not, it is scored as unknown"),
        Column("item_known", "boolean", "whether the item is in the run's vocabulary; if not, it is scored as unknown"),
        Column(
            "domain_known", "boolean", "whether the domain is in the run's vocabulary; if not, it is scored as unknown"
        ),
        Column(
            "specific",
            "boolean",
            "whether the model has specific parameters of the domain: theta_i, or w_i of a mixed model",
        ),
        Column("score", "double", "probability of a click; null: the prediction is NaN", nullable=True),
        Column(
            "logit_deviation",
            "double",
            "with score.deviation, posterior standard deviation of the mixed model's part of the logit; else null",
            nullable=True,
        ),
        Column(
            "rank",
            "int",
            "with score.top_k, rank of the item among the candidates for its user's row, 1 is best; else null",
            nullable=True,
        ),
    ),
    rules=(
        Rule("score_in_range", "score IS NULL OR score BETWEEN 0 AND 1", "a probability is in [0, 1]"),
        Rule("rank_from_one", "`rank` IS NULL OR `rank` >= 1", "the best rank is 1"),
    ),
    partition_by=("batch",),
    sort_by=("domain",),
    skip_by=("domain",),
)
