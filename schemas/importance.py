"""How much features add to the AUC of a run."""

from schemas.declaration import Column, Rule, Table, one_of
from schemas.examples import SPLITS
from schemas.experiments import in_range

FEATURE_IMPORTANCE = Table(
    name="feature_importance",
    description=(
        "How far a run's AUC on a split drops where the values of one feature are permuted among the rows of each "
        "domain: of all domains together (domain is null), and of each domain with rows of both classes."
    ),
    made_by="feature_importance",
    columns=(
        Column("run_id", "string", "run in training_runs"),
        Column("split", "string", "train, val or test"),
        Column("feature", "string", "user, item, or the name of a declared feature"),
        Column("kind", "string", "id for user and item, else the feature's kind, such as categorical or numeric"),
        Column("domain", "int", "index in domains; null: all domains together", nullable=True),
        Column("domain_id", "string", "the domain's id; null: all domains together", nullable=True),
        Column("rows", "bigint", "examples"),
        Column("auc", "double", "without permutation; of all domains the mean over domains", nullable=True),
        Column("drop", "double", "auc less that with the feature permuted, mean over repeats", nullable=True),
        Column("std", "double", "standard deviation of the drop over repeats; null with one", nullable=True),
        Column("weighted_auc", "double", "mean over domains weighted by rows; null of one domain", nullable=True),
        Column("weighted_drop", "double", "drop of weighted_auc, mean over repeats", nullable=True),
        Column("weighted_std", "double", "its standard deviation over repeats", nullable=True),
        Column("repeats", "int", "permutations"),
        Column("seed", "int", "decides the permutations"),
        Column("made_at", "timestamp", "when it was written (UTC)"),
    ),
    rules=(
        Rule("split_known", one_of("split", SPLITS), "the split is one of the three"),
        Rule("repeats_positive", "repeats > 0", "at least one permutation"),
        in_range("auc"),
        in_range("weighted_auc"),
    ),
)
