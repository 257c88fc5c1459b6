"""Batch predictions."""

from schemas.declaration import Column, Rule, Table

SCORES = Table(
    name="scores",
    description=(
        "A row that was scored: a user, an item and a domain, and how probable a click is. With score.top_k the best "
        "candidates of each row of a user and a domain."
    ),
    made_by="score",
    columns=(
        Column("run_id", "string", "run in training_runs whose parameters gave the score"),
        Column(
            "batch", "string", "names the rows that were scored together, such as a day's; running it again replaces it"
        ),
        Column("key", "string", "the row's own key, where the input has one; of an example its `key`", nullable=True),
        Column("user", "string", "the user's id; null: not given", nullable=True),
        Column("item", "string", "the item's id; null: not given", nullable=True),
        Column("domain", "string", "the domain's id; null: not given", nullable=True),
        Column("user_known", "boolean", "the model has a row of the user; else that of unknown users was used"),
        Column("item_known", "boolean", "the model has a row of the item; else that of unknown items was used"),
        Column("domain_known", "boolean", "the model has a row of the domain; else that of unknown domains was used"),
        Column(
            "specific", "boolean", "the model has specific parameters of the domain: theta_i, or w_i of a mixed model"
        ),
        Column("score", "double", "probability of a click; null: the model's answer is no number", nullable=True),
        Column(
            "logit_deviation",
            "double",
            "posterior standard deviation of the mixed model's part of the logit, with score.deviation; else null",
            nullable=True,
        ),
        Column(
            "rank",
            "int",
            "with score.top_k, the item's place among the candidates of its user's row, 1 is best; else null",
            nullable=True,
        ),
    ),
    rules=(
        Rule("score_in_range", "score IS NULL OR score BETWEEN 0 AND 1", "a probability lies in [0, 1]"),
        Rule("rank_from_one", "`rank` IS NULL OR `rank` >= 1", "the best place is 1"),
    ),
    partition_by=("batch",),
    sort_by=("domain",),
    skip_by=("domain",),
)
