"""What experiments of many runs found: comparisons of methods and models, and sweeps over settings."""

from schemas.declaration import Column, Rule, Table, one_of


def in_range(column: str) -> Rule:
    """The rule that an AUC lies in [0, 1] where it is known."""
    condition = f"{column} IS NULL OR {column} BETWEEN 0 AND 1"
    return Rule(f"{column}_in_range", condition, f"{column} lies in [0, 1]")


COMPARISONS = Table(
    name="comparisons",
    description=(
        "A model and method in a comparison. Figures are of the test split and means over the seeds that finished; "
        "domains without an AUC in any of the compared runs (one class only) are left out of means, RANK and test."
    ),
    made_by="compare_methods",
    columns=(
        Column("comparison", "string", "names the comparison"),
        Column("model", "string", "model.name"),
        Column("method", "string", "train.method"),
        Column("baseline", "string", "model/method that it is tested against"),
        Column("seeds", "int", "seeds that finished"),
        Column("failed", "int", "seeds that failed"),
        Column("domains", "int", "domains measured"),
        Column("domains_left_out", "int", "domains with test rows that were left out"),
        Column("test_auc", "double", "mean over domains", nullable=True),
        Column("test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("weighted_test_auc", "double", "mean over domains weighted by test rows", nullable=True),
        Column("weighted_test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_gauc", "double", "AUC by (domain, user), weighted by rows, of all domains", nullable=True),
        Column("test_gauc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_ndcg", "map<string,double>", "k to NDCG@k, mean over (domain, user)", nullable=True),
        Column("test_hit_rate", "map<string,double>", "k to the share of them with a click among k", nullable=True),
        Column("test_pcoc", "double", "sum of predictions over clicks, of all rows", nullable=True),
        Column("test_calibration_error", "double", "expected calibration error of all rows", nullable=True),
        Column("val_auc", "double", "mean validation AUC over domains", nullable=True),
        Column("rank", "double", "RANK: mean over domains and seeds of its rank by AUC, 1 is best", nullable=True),
        Column("wins", "int", "domains with a higher AUC than the baseline's", nullable=True),
        Column("ties", "int", "domains with an equal AUC", nullable=True),
        Column("losses", "int", "domains with a lower AUC", nullable=True),
        Column("difference", "double", "mean over domains of its AUC less the baseline's", nullable=True),
        Column("p_value", "double", "Wilcoxon's signed-rank test over domains, two-sided", nullable=True),
        Column("oracle_test_auc", "double", "mean AUC of the true probabilities (synthetic logs only)", nullable=True),
        Column("smallest_third_test_auc", "double", "mean over the third of domains with least rows", nullable=True),
        Column("seconds", "double", "of a run, mean; side by side runs slow one another", nullable=True),
        Column("runs", "array<string>", "the runs, in training_runs"),
        Column("examples_version", "bigint", "Delta version of examples"),
        Column("made_at", "timestamp", "when it was written (UTC)"),
    ),
    rules=(
        Rule("runs_are_seeds", "size(runs) = seeds", "a run for each seed that finished"),
        Rule("seeds_counted", "seeds >= 0 AND failed >= 0", "counts are not negative"),
        Rule(
            "domains_decided",
            "wins IS NULL OR wins + ties + losses = domains",
            "every domain is won, lost or a tie",
        ),
        Rule("rank_from_one", "rank IS NULL OR rank >= 1", "the best rank is 1"),
        Rule("p_value_in_range", "p_value IS NULL OR p_value BETWEEN 0 AND 1", "a probability"),
        *(in_range(name) for name in ("test_auc", "weighted_test_auc", "val_auc", "smallest_third_test_auc")),
    ),
)

SWEEPS = Table(
    name="sweeps",
    description=(
        "A point of a sweep: settings that were tried with a method. Figures are means over domains, then over the "
        "seeds that finished; points are chosen by val_auc alone."
    ),
    made_by="sweep",
    columns=(
        Column("sweep", "string", "names the sweep"),
        Column("model", "string", "model.name"),
        Column("method", "string", "train.method"),
        Column("point", "int", "number of the point among its method's, from 0, in the order in which they were drawn"),
        Column("settings", "map<string,string>", "config key to its value, YAML"),
        Column("status", "string", "ok, or failed where a seed failed"),
        Column("chosen", "boolean", "whether it is its method's best by val_auc, of those that are ok"),
        Column("seeds", "int", "seeds that finished"),
        Column("val_auc", "double", "mean validation AUC", nullable=True),
        Column("val_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("test_auc", "double", "mean test AUC", nullable=True),
        Column("test_auc_std", "double", "its standard deviation over seeds", nullable=True),
        Column("error", "string", "why the first seed that failed did", nullable=True),
        Column("runs", "array<string>", "the runs, in training_runs"),
        Column("examples_version", "bigint", "Delta version of examples"),
        Column("made_at", "timestamp", "when it was written (UTC)"),
    ),
    rules=(
        Rule("status_known", one_of("status", ("ok", "failed")), "the status is one of the two"),
        Rule("chosen_is_ok", "NOT chosen OR status = 'ok'", "what failed is not chosen"),
        Rule("runs_are_seeds", "size(runs) = seeds", "a run for each seed that finished"),
        *(in_range(name) for name in ("val_auc", "test_auc")),
    ),
)
