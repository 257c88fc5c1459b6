"""The importance of a run's features."""

from schemas.declaration import Column, DeclaredTable, Rule, one_of
from schemas.examples import SPLITS
from schemas.experiments import in_range

FEATURE_IMPORTANCE = DeclaredTable(
    name="feature_importance",
    description=(
        "The drop of a run's AUC on a split when the values of one feature are permuted among the rows of each domain: "
        "for all domains (domain is null), and for each domain with rows of both classes."
    ),
    made_by="feature_importance",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("split", "string", "train, val or test"),
        Column("feature", "string", "user, item, or the name of a declared feature"),
        Column("kind", "string", "id for user and item, else the feature's kind, such as categorical or numeric"),
        Column("domain", "int", "index in domains; null: all domains", nullable=True),
        Column("domain_id", "string", "the domain's id; null: all domains", nullable=True),
        Column("rows", "bigint", "number of examples"),
        Column("auc", "double", "AUC without permutation; mean over domains for all domains", nullable=True),
        Column("drop", "double", "auc minus the AUC with permutation, mean over repeats", nullable=True),
        Column("std", "double", "standard deviation of the drop over repeats; null for one repeat", nullable=True),
        Column("weighted_auc", "double", "mean AUC over domains weighted by rows; null for one domain", nullable=True),
        Column("weighted_drop", "double", "drop of weighted_auc, mean over repeats", nullable=True),
        Column("weighted_std", "double", "its standard deviation over repeats", nullable=True),
        Column("repeats", "int", "number of permutations"),
        Column("seed", "int", "seed of the permutations"),
        Column("made_at", "timestamp", "time of writing (UTC)"),
    ),
    rules=(
        Rule("split_known", one_of("split", SPLITS), "the split is train, val or test"),
        Rule("repeats_positive", "repeats > 0", "there is at least one permutation"),
        in_range("auc"),
        in_range("weighted_auc"),
    ),
)
